"""The best of many draws, on items that did not choose it."""

from __future__ import annotations

import numpy as np
import pytest

import basinscope as bs
from basinscope.landscape.design import Design, Share

N = 60


def lucky(gain: float = 0.0) -> bs.CallableTask:
    """Half right at zero; under noise each item is right by chance, and by what a draw brings."""

    def fn(module):
        weight = module.weight[0, 0].item()
        if weight == 1.0:
            return [1, 0] * (N // 2)
        rng = np.random.default_rng(abs(int(weight * 1e7)))
        return (rng.random(N) < 0.5 + gain * (weight > 1)).astype(int)

    return bs.CallableTask("t", fn, N)


def test_a_choice_among_equals_is_cursed(engine) -> None:
    land = bs.landscape(engine, lucky(), steps=[0.1], draws=60)
    curses, covered = [], 0
    for seed in range(40):
        made = land.best("t", step=0.1, seed=seed)
        assert made.candidates == 60
        assert made.score >= 0.6, "the best of sixty on thirty items"
        assert made.held_out.low <= 0.5 + 0.3
        curses.append(made.curse)
        covered += made.gain.difference.low <= 0 <= made.gain.difference.high
    assert np.mean(curses) > 0.12
    assert covered >= 36


def test_a_draw_that_is_better_is_better_on_the_others(engine) -> None:
    land = bs.landscape(engine, lucky(gain=0.45), steps=[0.1], draws=20)
    made = land.best("t")
    assert made.held_out.estimate > 0.8
    assert made.gain.difference.low > 0
    assert abs(made.curse) < 0.25


def test_the_halves_are_the_seed_s_and_share_nothing(engine) -> None:
    land = bs.landscape(engine, lucky(), steps=[0.1, 0.2], draws=8)
    made = land.best("t", seed=3)
    assert made == land.best("t", seed=3)
    assert made.n_chosen_on == made.gain.n_items == N // 2
    assert made.candidates == 16
    trial = next(t for t in land.trials if (t.draw, t.step) == (made.draw, made.step))
    whole = made.score * made.n_chosen_on + made.held_out.estimate * made.gain.n_items
    assert whole == pytest.approx(sum(trial.correct))
    assert {land.best("t", seed=s).score for s in range(8)} != {made.score}


def test_it_is_said_in_a_line(engine) -> None:
    line = str(bs.landscape(engine, lucky(), steps=[0.1], draws=8).best("t"))
    assert line.startswith("t: draw ")
    assert "the best of 8 on 30 items" in line
    assert "on the 30 others" in line
    assert "winner's curse" in line


def test_what_cannot_be_chosen(engine) -> None:
    design = Design({"t": Share(16, 3, 0.1)}, 1, 1.0, False, None, None, 0.0)
    crossed = bs.landscape(engine, lucky(), steps=[0.1], plan=design)
    with pytest.raises(bs.BasinscopeError, match=r"no draw of 't' .* answered all items"):
        crossed.best("t")
    land = bs.landscape(engine, lucky(), steps=[0.1], draws=4)
    with pytest.raises(bs.BasinscopeError, match=r"answered all items at 0\.3"):
        land.best("t", step=0.3)
    with pytest.raises(bs.BasinscopeError, match="task 'u'"):
        land.best("u")
    one = bs.landscape(engine, bs.CallableTask("t", lambda m: [1], 1), steps=[0.1], draws=4)
    with pytest.raises(bs.BasinscopeError, match="of one item"):
        one.best("t")
