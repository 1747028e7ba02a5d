"""Sampling: plans, raw counts, resumption, and attempts to make a certificate lie."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from scipy import stats as scipy_stats

import basinscope as bs
from basinscope.certify.plan import Plan
from basinscope.certify.sampling import read_certificate
from basinscope.runs.spec import canonical, sha256
from basinscope.stats import lower_mean
from basinscope.stats import smoothing as formulas
from basinscope.tasks import Item, Outcome

OPTIONS = {"sigma": 0.5, "draws": 40}


@pytest.fixture
def other_engine(make_layer):
    """A model of the same shape and other weights."""
    return bs.load(make_layer(1))


def records(run):
    """Draws' records, that of theta0 left out, by draw."""
    found = [(json.loads(p.read_text()), p) for p in (run / "trials").glob("*.json")]
    return sorted(((r, p) for r, p in found if r["step"] != 0), key=lambda pair: pair[0]["draw"])


class TestBound:
    def test_one_item_per_draw_has_the_exact_bound(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS, items_per_draw=1, confidence=0.9)
        correct = sum(unit.correct for unit in cert.units)
        assert [unit.n for unit in cert.units] == [1] * 40
        exact = scipy_stats.binomtest(correct, 40, alternative="greater").proportion_ci(
            0.9, method="exact"
        )
        assert cert.plan.bound == "exact"
        assert cert.p_lower == pytest.approx(exact.low)
        assert cert.estimate == correct / 40

    def test_several_items_per_draw_have_the_betting_bound_over_draws(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS, items_per_draw=5)
        scores = [unit.correct / unit.n for unit in cert.units]
        assert cert.plan.bound == "anytime"
        assert cert.p_lower == lower_mean(scores, 1 - 0.99)
        assert cert.estimate == pytest.approx(np.mean(scores))

    def test_is_recomputed_from_the_stored_raw_counts_alone(self, engine, task, tmp_path):
        cert = bs.certify(engine, task, **OPTIONS, items_per_draw=5, run=tmp_path / "x")
        scores = [sum(r["correct"]) / len(r["items"]) for r, _ in records(tmp_path / "x")]
        plan = json.loads((tmp_path / "x" / "run.json").read_text())["spec"]["plan"]
        assert cert.p_lower == lower_mean(scores, 1 - plan["confidence"])
        assert bs.load_run(tmp_path / "x") == cert

    def test_draws_are_answered_by_fresh_uniform_samples_of_the_items(self, engine, task, tmp_path):
        bs.certify(engine, task, sigma=0.5, draws=300, items_per_draw=3, run=tmp_path / "x")
        samples = [r["items"] for r, _ in records(tmp_path / "x")]
        assert all(len(set(sample)) == 3 for sample in samples)
        counts = [sum(str(i) in sample for sample in samples) for i in range(12)]
        # each item is in a draw's sample with probability 1/4, independently: 1e-6 over all items
        for count in counts:
            assert scipy_stats.binomtest(count, 300, 0.25).pvalue > 1e-6 / 12
        assert len({tuple(s) for s in samples}) > 100

    def test_antithetic_pairs_count_once(self, engine, make_task, tmp_path):
        one = make_task(1)
        cert = bs.certify(
            engine, one, **OPTIONS, items_per_draw=1, antithetic=True, run=tmp_path / "x"
        )
        assert cert.draws == 40
        assert all(unit.n == 2 for unit in cert.units)
        assert len(records(tmp_path / "x")) == 80
        steps = {r["step"] for r, _ in records(tmp_path / "x")}
        assert steps == {0.5, -0.5}
        assert cert.plan.bound == "anytime", "the pair's mean is no 0-1 trial"
        assert cert.p_lower == lower_mean([unit.score for unit in cert.units], 1 - 0.99)

    def test_same_seed_same_certificate(self, engine, task):
        assert bs.certify(engine, task, **OPTIONS) == bs.certify(engine, task, **OPTIONS)
        assert (
            bs.certify(engine, task, **OPTIONS).units
            != bs.certify(engine, task, **OPTIONS, seed=1).units
        )

    def test_a_failed_evaluation_counts_as_wrong(self, engine):
        task = bs.CallableTask("nan", lambda m: [math.nan, 1], 2)
        cert = bs.certify(engine, task, **OPTIONS, items_per_draw=2)
        assert cert.estimate == 0.5

    def test_leaves_the_weights_as_they_were(self, engine, task):
        before = engine.fingerprint()
        bs.certify(engine, task, **OPTIONS)
        assert engine.fingerprint() == before


class TestPerItem:
    def test_bounds_items_together_and_averages(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS, per_item=True)
        counts = list(cert.item_counts.values())
        assert len(counts) == 12
        low = formulas.item_lower_bounds(counts, 40, 0.99)
        assert cert.p_lower == pytest.approx(low.mean())
        assert cert.lower_bound(0.3) == pytest.approx(
            float(formulas.mean_lower_bound(low, 0.3, 0.5))
        )
        level = cert.p_lower / 2
        assert cert.lower_bound(cert.radius(level)) >= level
        assert cert.lower_bound(cert.radius(level) * (1 + 1e-9)) < level
        assert math.isnan(cert.radius(0.999))
        assert math.isinf(cert.radius(0.0))

    def test_others_have_no_items(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS)
        with pytest.raises(bs.BasinscopeError, match="per_item=True"):
            _ = cert.p_items


class TestClaims:
    def test_stops_as_soon_as_the_claim_is_accepted(self, engine, task, tmp_path):
        cert = bs.certify(
            engine, task, sigma=0.2, draws=200, items_per_draw=12, claim=0.5, run=tmp_path / "x"
        )
        assert cert.decision is True
        assert cert.draws == len(records(tmp_path / "x")) < 30
        assert cert.p_lower >= 0.5 - 1e-9
        scores = [unit.score for unit in cert.units]
        assert formulas.decide(scores, 0.5, 0.01) == (cert.draws, True)

    def test_stops_as_soon_as_it_is_refuted(self, engine, task):
        cert = bs.certify(engine, task, sigma=50.0, draws=400, items_per_draw=12, claim=0.95)
        assert cert.decision is False
        assert cert.draws < 100
        assert cert.p_upper <= 0.95 + 1e-9

    def test_is_open_where_the_draws_do_not_suffice(self, engine, task):
        cert = bs.certify(engine, task, sigma=5.0, draws=20, items_per_draw=12, claim=0.5)
        assert cert.decision is None
        assert cert.draws == 20
        assert "open" in str(cert)

    def test_a_resumed_run_decides_at_the_same_draw(self, engine, task, tmp_path):
        options = {"sigma": 0.2, "draws": 200, "items_per_draw": 12, "claim": 0.5}
        first = bs.certify(engine, task, **options, run=tmp_path / "x")
        for _, path in records(tmp_path / "x")[5:]:
            path.unlink()
        assert bs.certify(engine, task, **options, run=tmp_path / "x") == first

    def test_draws_behind_the_decision_are_not_used(self, engine, task, tmp_path):
        # as two workers leave them
        options = {"sigma": 0.2, "draws": 200, "items_per_draw": 12, "claim": 0.5}
        first = bs.certify(engine, task, **options, run=tmp_path / "x")
        from basinscope.certify.sampling import draw as sample
        from basinscope.runs.bench import Bench
        from basinscope.runs.executor import Serial
        from basinscope.runs.session import Session
        from basinscope.runs.store import Store

        store = Store(tmp_path / "x")
        plan = Plan.model_validate({k: v for k, v in store.spec.plan.items() if k != "noise"})
        bench = Bench(engine, (bs.Random(0),), (task,), store.spec.model, store.spec.tasks)
        ids = [item.id for item in task.items]
        team = Serial(bench)
        team.workers = 50
        sample(Session(bench, store, team, None, str), plan, ids)
        assert len(records(tmp_path / "x")) > first.draws
        assert bs.load_run(tmp_path / "x") == first


class TestLies:
    """What was tried to make a certificate say more than was measured."""

    @pytest.fixture
    def run(self, engine, task, tmp_path):
        bs.certify(engine, task, **OPTIONS, items_per_draw=4, run=tmp_path / "x")
        return tmp_path / "x"

    def test_edited_record_is_set_aside_and_measured_again(self, engine, task, run):
        honest = bs.load_run(run)
        record, path = next((r, p) for r, p in records(run) if 0 in r["correct"])
        path.write_text(canonical({**record, "correct": [1] * 4}))
        # what lies before the gap is all that counts, or nothing
        if record["draw"] == 0:
            with pytest.raises(bs.BasinscopeError, match="0 of 40 draws"):
                bs.load_run(run)
        else:
            assert bs.load_run(run).units == honest.units[: record["draw"]]
        assert list((run / "trials").glob("*.bad"))
        again = bs.certify(engine, task, **OPTIONS, items_per_draw=4, run=run)
        assert again.units == honest.units

    def test_copied_record_cannot_count_twice(self, engine, task, run):
        honest = bs.load_run(run)
        good, bad = (
            next((r, p) for r, p in records(run) if all(r["correct"]) is keep)
            for keep in (True, False)
        )
        shutil.copy(good[1], run / "trials" / f"{'0' * 64}.json")  # one more
        assert bs.load_run(run).units == honest.units
        shutil.copy(good[1], bad[1])  # and in a bad one's place
        again = bs.certify(engine, task, **OPTIONS, items_per_draw=4, run=run)
        assert again.units == honest.units
        assert len(again.set_aside) == 1
        assert "another's address" in again.set_aside[0]

    def test_record_renumbered_with_all_its_hashes_is_looked_up_nowhere(self, run):
        honest = bs.load_run(run)
        record, _ = records(run)[0]
        body = {k: v for k, v in record.items() if k != "checksum"}
        key = {**body["key"], "draw": 1000}
        body |= {"key": key, "draw": 1000, "address": sha256(key)}
        path = run / "trials" / f"{body['address']}.json"
        path.write_text(canonical({**body, "checksum": sha256(body)}))
        assert bs.load_run(run) == honest

    def test_deleted_bad_draws_leave_a_gap(self, run):
        first_bad = next(r["draw"] for r, _ in records(run) if 0 in r["correct"])
        for record, path in records(run):
            if 0 in record["correct"]:
                path.unlink()
        if first_bad == 0:
            with pytest.raises(bs.BasinscopeError, match="0 of 40 draws without a gap"):
                bs.load_run(run)
        else:
            assert bs.load_run(run).draws == first_bad

    def test_another_checkpoint_is_refused(self, other_engine, task, run):
        with pytest.raises(bs.BasinscopeError, match=r"holds another run .*fingerprint"):
            bs.certify(other_engine, task, **OPTIONS, items_per_draw=4, run=run)

    def test_records_of_another_checkpoint_are_not_counted(self, other_engine, task, run, tmp_path):
        bs.certify(other_engine, task, **OPTIONS, items_per_draw=4, run=tmp_path / "y")
        for path in (run / "trials").glob("*.json"):
            path.unlink()
        for path in (tmp_path / "y" / "trials").glob("*.json"):
            shutil.copy(path, run / "trials")
        with pytest.raises(bs.BasinscopeError, match="0 of 40 draws"):
            bs.load_run(run)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"sigma": 0.4}, "sigma 0.5 -> 0.4"),
            ({"seed": 1}, "seed 0 -> 1"),
            ({"confidence": 0.9}, "confidence 0.99 -> 0.9"),
            ({"items_per_draw": 5}, "items_per_draw 4 -> 5"),
            ({"claim": 0.5}, "claim None -> 0.5"),
            ({"antithetic": True}, "antithetic False -> True"),
            ({"per_item": True}, "per_item False -> True"),
            ({"geometry": "rms"}, "geometry isotropic -> rms"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_another_plan_is_refused_with_the_differences(self, engine, task, run, change, words):
        options = {**OPTIONS, "items_per_draw": 4, **change}
        with pytest.raises(bs.BasinscopeError, match=re.escape(words)):
            bs.certify(engine, task, **options, run=run)

    def test_another_task_is_refused(self, engine, make_task, run):
        with pytest.raises(bs.BasinscopeError, match=r"task .* -> "):
            bs.certify(engine, make_task(name="b"), **OPTIONS, items_per_draw=4, run=run)

    def test_a_landscape_and_a_certificate_do_not_share_a_folder(self, engine, task, run, tmp_path):
        with pytest.raises(bs.BasinscopeError, match="holds a certificate, not a landscape"):
            bs.landscape(engine, task, steps=[0.5], run=run)
        bs.landscape(engine, task, steps=[0.5], run=tmp_path / "land")
        with pytest.raises(bs.BasinscopeError, match="one plan"):
            bs.certify(engine, task, **OPTIONS, run=tmp_path / "land")
        with pytest.raises(bs.BasinscopeError, match="holds a landscape, not a certificate"):
            read_certificate(tmp_path / "land")


class TestPeeking:
    def test_an_exact_plan_cannot_be_extended(self, engine, task, tmp_path):
        bs.certify(engine, task, **OPTIONS, items_per_draw=1, run=tmp_path / "x")
        with pytest.raises(bs.BasinscopeError, match="draws 40 -> 80"):
            bs.certify(engine, task, sigma=0.5, draws=80, items_per_draw=1, run=tmp_path / "x")

    def test_an_exact_plan_has_no_certificate_before_its_last_draw(self, engine, task, tmp_path):
        bs.certify(engine, task, **OPTIONS, items_per_draw=1, run=tmp_path / "x")
        records(tmp_path / "x")[-1][1].unlink()
        with pytest.raises(bs.BasinscopeError, match=r"39 of 40 draws .* allowed: all of them"):
            bs.load_run(tmp_path / "x")

    def test_an_anytime_plan_can_be_extended_and_read_unfinished(self, engine, task, tmp_path):
        bs.certify(engine, task, **OPTIONS, items_per_draw=4, run=tmp_path / "x")
        more = bs.certify(engine, task, sigma=0.5, draws=80, items_per_draw=4, run=tmp_path / "x")
        assert more.draws == 80
        assert more == bs.certify(engine, task, sigma=0.5, draws=80, items_per_draw=4)
        # fewer draws asked for later: what was measured counts, all of it
        back = bs.certify(engine, task, **OPTIONS, items_per_draw=4, run=tmp_path / "x")
        assert back.draws == 80
        records(tmp_path / "x")[60][1].unlink()
        assert bs.load_run(tmp_path / "x").draws == 60


class TestWorkers:
    @pytest.mark.timeout(200)
    def test_two_processes_give_the_same_certificate(self, checkpoint):
        engine = bs.load(checkpoint)
        (task,) = bs.tasks("basic", limit=5)
        options = {"sigma": 0.01, "draws": 6, "items_per_draw": 2, "confidence": 0.6}
        assert bs.certify(engine, task, **options, workers=2) == bs.certify(engine, task, **options)


class TestBadInput:
    @pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan, math.inf])
    def test_sigma(self, engine, task, sigma):
        with pytest.raises(bs.BasinscopeError, match=r"sigma=.*; allowed: above 0 and finite"):
            bs.certify(engine, task, sigma=sigma)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 99, math.nan])
    def test_confidence(self, engine, task, confidence):
        with pytest.raises(bs.BasinscopeError, match=r"confidence=.*; allowed: between 0 and 1"):
            bs.certify(engine, task, confidence=confidence)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"draws": 0}, "draws=0; allowed: at least 1"),
            ({"items_per_draw": 0}, "items_per_draw=0; allowed: 1 to 12"),
            ({"claim": 1.0}, "claim=1.0; allowed"),
            ({"target": 0.0}, "target=0.0; allowed"),
            ({"seed": -1}, "seed=-1; allowed"),
            ({"geometry": "sphere"}, "geometry 'sphere'; allowed: isotropic"),
            ({"per_item": True, "antithetic": True}, "per_item, antithetic=True"),
            ({"per_item": True, "claim": 0.5}, "per_item, antithetic=False, claim=0.5"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_others(self, engine, task, options, words):
        with pytest.raises(bs.BasinscopeError, match=re.escape(words)):
            bs.certify(engine, task, **options)

    @pytest.mark.parametrize(
        ("options", "needed"),
        [
            ({"draws": 43, "items_per_draw": 1, "target": 0.9}, 44),
            ({"draws": 5, "claim": 0.9, "items_per_draw": 1}, None),
            ({"draws": 20, "per_item": True, "target": 0.9}, None),
        ],
        ids=["exact", "anytime", "per item"],
    )
    def test_a_plan_too_small_says_how_many_draws_would_do(self, engine, options, needed):
        task = bs.CallableTask("sure", lambda m: [1] * 12, 12)
        with pytest.raises(bs.BasinscopeError, match=r"allowed: at least \d+ draws") as error:
            bs.certify(engine, task, sigma=0.5, **options)
        said = int(re.search(r"at least (\d+) draws", str(error.value))[1])
        assert needed in (None, said)
        level = options.get("claim") or options.get("target")
        enough = bs.certify(engine, task, sigma=0.5, **{**options, "draws": said})
        assert enough.p_lower >= level - 1e-9, "as many as it says are enough"

    def test_a_plan_that_cannot_beat_chance(self, engine, make_task):
        with pytest.raises(bs.BasinscopeError, match="cannot certify more than chance"):
            bs.certify(engine, make_task(chance=0.5), sigma=0.5, draws=3, items_per_draw=1)

    def test_items_of_one_id(self, engine):
        item = Item("same", ())

        class Twice:
            name, chance, scoring, items = "twice", 0.0, "1", (item, item)

            def oracle(self, item, answers):
                return Outcome(True)

        with pytest.raises(bs.BasinscopeError, match="2 items with 1 different ids"):
            bs.certify(engine, Twice())


class TestWords:
    def test_every_certificate_says_what_it_does_not_cover(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS)
        text = str(cert)
        assert "Not covered:" in text
        assert "single model without noise" in text
        assert "these 12 items" in cert.covers
        assert "confidence 0.99" in cert.covers
        assert cert.to_json()["does_not_cover"] == list(cert.does_not_cover)
        json.dumps(cert.to_json(), allow_nan=False)

    def test_rounds_no_bound_up(self, engine, task):
        # 0.729171: to the nearest it would be printed as 0.7292, more than is certified
        cert = bs.certify(engine, task, sigma=0.3, draws=40)
        for text in (str(cert), cert.covers, str(cert.verdict(0.0))):
            shown = re.search(r"(?:p >=|is at least|bound) (0\.\d{4})", text)
            assert cert.p_lower - 1e-4 < float(shown[1]) <= cert.p_lower
        gap = re.search(r"gap <= (\d\.\d{4})", str(cert))
        assert cert.gap.high <= float(gap[1]) < cert.gap.high + 1e-4
        radius = re.search(r"radius for .*: (\S+) =", str(cert))
        assert 0.999 * cert.radius() < float(radius[1]) <= cert.radius()

    def test_gap_and_score(self, engine, task):
        cert = bs.certify(engine, task, **OPTIONS)
        assert cert.score == 1.0
        assert cert.score_interval.low < 1.0 == cert.score_interval.high
        assert cert.gap.high == pytest.approx(1.0 - cert.p_lower)
        assert cert.gap.estimate == pytest.approx(1.0 - cert.estimate)
        gap, shift = cert.decomposition(0.2)
        assert gap + shift == pytest.approx(cert.score - cert.lower_bound(0.2))
        assert cert.upper_bound(0.2) > cert.p_upper > cert.p_lower > cert.lower_bound(0.2)

    def test_a_target_out_of_reach_has_no_radius(self, engine, task):
        cert = bs.certify(engine, task, sigma=0.5, draws=60, target=0.9)
        assert math.isnan(cert.radius())
        assert "none, p is not certified to be so high" in str(cert)
        assert cert.to_json()["radius"] is None
        with pytest.raises(bs.BasinscopeError, match=r"target=1.5; allowed: 0 to 1"):
            cert.radius(1.5)
