"""Strict basin: the claim, the sweep, and what is counted."""

import json
import re

import pytest
import torch

import basinscope as bs
from basinscope.certify.strict import _is_clean, read_strict_basin
from basinscope.runs.store import Trial


def trial(*correct):
    n = len(correct)
    return Trial(
        address="", key={}, task="t", direction=None, draw=0, step=0.0,
        items=tuple(map(str, range(n))), correct=correct, labels=("",) * n, margins=(None,) * n,
        nlls=(None,) * n,
    )  # fmt: skip


class TestClean:
    @pytest.mark.parametrize(
        ("after", "tau", "lost", "clean"),
        [
            ((1, 1, 1, 0), 0.0, "score", True),
            ((1, 1, 0, 0), 0.0, "score", False),
            ((1, 1, 0, 1), 0.0, "score", True),
            ((1, 1, 0, 1), 0.0, "items", False),
            ((1, 1, 0, 0), 0.25, "score", True),
            ((1, 1, 0, 1), 0.25, "items", True),
            ((1, 0, 0, 1), 0.25, "items", False),
            ((1, 1, 1, 1), 0.0, "items", True),
        ],
    )
    def test_direction_is_clean(self, after, tau, lost, clean):
        assert _is_clean(trial(1, 1, 1, 0), trial(*after), tau, lost) is clean

    def test_a_drop_of_exactly_tau_is_clean(self):
        before, after = trial(*[1] * 10), trial(*[1] * 7, *[0] * 3)
        assert _is_clean(before, after, 0.3, "score")
        assert not _is_clean(before, after, 0.29, "score")


class TestSweep:
    SIGMAS = (0.3, 0.01, 0.03, 5.0)

    def test_is_true_up_to_the_last_sigma_before_the_first_failure(self, engine, task, tmp_path):
        found = bs.strict_basin(engine, task, sigmas=self.SIGMAS, run=tmp_path / "x")
        assert [level.sigma for level in found.levels] == [0.01, 0.03, 0.3]
        assert [level.holds for level in found.levels] == [True, True, False]
        assert found.sigma == 0.03
        assert [level.draws for level in found.levels][:2] == [44, 44]
        assert found.levels[2].draws < 44, "left as soon as a draw failed"
        assert found.planned == 44
        assert bs.load_run(tmp_path / "x") == found

    def test_claims_no_more_than_was_claimed(self, engine, task):
        found = bs.strict_basin(engine, task, sigmas=0.01)
        text = str(found)
        assert "at least 90% of directions" in text
        assert "44 of 44 clean" in text
        assert "Not covered:" in text
        assert "100% of directions" not in text
        json.dumps(found.to_json(), allow_nan=False)

    def test_a_share_near_one_is_not_called_all(self, engine, task):
        text = str(bs.strict_basin(engine, task, sigmas=1e-4, share=0.95, confidence=0.995))
        assert "at least 95% of directions" in text
        assert "at confidence 99.5% for all" in text
        with pytest.raises(bs.BasinscopeError, match=r"show that 99\.9% of directions"):
            bs.strict_basin(engine, task, sigmas=1e-4, share=0.999, draws=5)

    def test_nothing_is_claimed_where_the_first_fails(self, engine, task):
        found = bs.strict_basin(engine, task, sigmas=[5.0, 9.0])
        assert found.sigma is None
        assert len(found.levels) == 1
        assert "not shown for any sigma" in str(found)

    @pytest.mark.parametrize(("failures", "draws"), [(0, 44), (1, 64), (2, 81), (3, 97)])
    def test_plans_the_draws_for_the_failures(self, engine, task, failures, draws):
        found = bs.strict_basin(engine, task, sigmas=0.01, failures=failures)
        assert (found.planned, found.failures) == (draws, failures)
        assert found.levels[0].clean == draws

    def test_more_draws_bear_more_failures(self, engine, task):
        found = bs.strict_basin(engine, task, sigmas=0.01, draws=85)
        assert (found.planned, found.failures) == (85, 2)

    def test_a_tolerated_failure_does_not_end_it(self, engine):
        calls = [0]

        def fails_once(module):
            calls[0] += bool((module.weight[0, 0] - 1.0).detach().abs() > 0)
            return [calls[0] != 3]

        task = bs.CallableTask("once", fails_once, 1)
        found = bs.strict_basin(engine, task, sigmas=0.01, failures=1)
        assert (found.levels[0].clean, found.levels[0].draws) == (63, 64)
        assert found.sigma == 0.01

    def test_resumes_and_refuses_another_plan(self, engine, task, tmp_path):
        first = bs.strict_basin(engine, task, sigmas=[0.01, 0.3], run=tmp_path / "x")
        kept = sorted((tmp_path / "x" / "trials").glob("*.json"))
        for path in kept[::3]:
            path.unlink()
        assert bs.strict_basin(engine, task, sigmas=[0.01, 0.3], run=tmp_path / "x") == first
        for change in ({"tau": 0.1}, {"share": 0.8}, {"failures": 1}, {"sigmas": [0.01, 0.2]}):
            options = {"sigmas": [0.01, 0.3], **change}
            with pytest.raises(bs.BasinscopeError, match="holds another run"):
                bs.strict_basin(engine, task, **options, run=tmp_path / "x")

    def test_in_a_geometry(self, engine, task):
        found = bs.strict_basin(engine, task, sigmas=0.01, geometry="random-subspace:2")
        assert found.sigma == 0.01


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"sigmas": []}, "sigmas=[]"),
            ({"sigmas": [0.1, 0.1]}, "all different"),
            ({"sigmas": [0.0]}, "sigma=0.0; allowed: above 0"),
            ({"sigmas": 0.1, "confidence": 1.0}, "confidence=1.0"),
            ({"sigmas": 0.1, "share": 1.0}, "share=1.0"),
            ({"sigmas": 0.1, "tau": -0.1}, "tau=-0.1"),
            ({"sigmas": 0.1, "failures": -1}, "failures=-1"),
            ({"sigmas": 0.1, "lost": "all"}, "lost='all'"),
            ({"sigmas": 0.1, "draws": 43}, "draws=43 cannot show that 90% of directions"),
            ({"sigmas": 0.1, "draws": 50, "failures": 1}, "allowed: at least 64 draws"),
        ],
        ids=lambda value: value[:30] if isinstance(value, str) else "",
    )
    def test_is_refused(self, engine, task, options, words):
        with pytest.raises(bs.BasinscopeError, match=re.escape(words)):
            bs.strict_basin(engine, task, **options)

    def test_a_certificate_is_no_strict_basin(self, engine, task, tmp_path):
        bs.certify(engine, task, sigma=0.1, run=tmp_path / "x")
        with pytest.raises(bs.BasinscopeError, match="not a strict-basin test"):
            read_strict_basin(tmp_path / "x")
        assert torch.isfinite(engine.module.weight).all()
