"""The crossed design: which items a draw answers, and what they say of all items."""

from __future__ import annotations

from collections import Counter

import pytest

from basinscope.landscape.crossed import Strata, samples
from basinscope.runs.store import Trial


def zero(correct, margins=None) -> Trial:
    items = tuple(f"i{n}" for n in range(len(correct)))
    return Trial.model_construct(
        task="t", items=items, correct=tuple(correct),
        margins=tuple(margins or [None] * len(correct)),
    )  # fmt: skip


def test_strata_are_ordered_by_margin() -> None:
    strata = Strata.of(zero([1, 0, 1, 0, 1], [3.0, -0.5, 1.0, -2.0, 2.0]))
    assert strata.right == ("i2", "i4", "i0")
    assert strata.wrong == ("i3", "i1")


@pytest.mark.parametrize("right", [0, 1, 5, 13, 29, 30])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 29, 30, 99])
def test_shares_are_in_proportion_and_leave_no_stratum_out(right, n) -> None:
    strata = Strata.of(zero([1] * right + [0] * (30 - right)))
    of_right, of_wrong = strata.shares(n)
    assert min(right, 1) <= of_right <= right
    assert min(30 - right, 1) <= of_wrong <= 30 - right
    assert of_right + of_wrong == max(min(n, 30), (right > 0) + (right < 30))
    if 2 <= n <= 30 and 0 < right < 30:
        assert abs(of_right - n * right / 30) <= 1


def test_a_sample_is_its_draw_s_alone_and_in_the_order_of_the_task() -> None:
    strata = Strata.of(zero([1, 0] * 20))
    first = strata.sample(3, 5)
    assert first == strata.sample(3, 5)
    assert len(set(first)) == 5
    assert list(first) == sorted(first, key=strata.items.index)
    assert len({strata.sample(draw, 5) for draw in range(20)}) > 10


def test_every_item_of_a_stratum_has_the_same_chance() -> None:
    strata, runs = Strata.of(zero([1] * 13 + [0] * 7)), 8000
    counts = Counter(item for draw in range(runs) for item in strata.sample(draw, 6))
    of_right, of_wrong = strata.shares(6)
    for stratum, share in ((strata.right, of_right), (strata.wrong, of_wrong)):
        p = share / len(stratum)
        allowed = 5 * (p * (1 - p) / runs) ** 0.5
        assert all(abs(counts[item] / runs - p) < allowed for item in stratum)


def test_the_mean_of_the_scores_is_that_of_all_items() -> None:
    strata = Strata.of(zero([1] * 13 + [0] * 7))
    now = {item: int(n % 3 == 0 or n > 16) for n, item in enumerate(strata.items)}
    scores = [
        strata.score(chosen, [now[item] for item in chosen])
        for chosen in (strata.sample(draw, 4) for draw in range(8000))
    ]
    assert all(0 <= score <= 1 for score in scores)
    assert sum(scores) / len(scores) == pytest.approx(sum(now.values()) / 20, abs=0.012)
    everything = strata.score(strata.items, [now[item] for item in strata.items])
    assert everything == pytest.approx(sum(now.values()) / 20)


def test_one_item_and_one_stratum() -> None:
    assert Strata.of(zero([1])).sample(0, 3) == ("i0",)
    strata = Strata.of(zero([0] * 10))
    assert strata.shares(4) == (0, 4)
    assert strata.score(strata.sample(0, 4), [1, 0, 0, 1]) == 0.5


def test_samples_of_several_tasks() -> None:
    strata = Strata.of(zero([1, 0] * 5))
    chosen = dict(samples({1: (strata, 2), 4: (strata, 3)}, draw=7))
    assert chosen == {1: strata.sample(7, 2), 4: strata.sample(7, 3)}
