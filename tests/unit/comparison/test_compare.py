"""The comparison: what it takes from rows, its intervals, and every number it must not give."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from basinscope.comparison.compare import compare
from basinscope.errors import BasinscopeError
from basinscope.stats import paired_ratio, student

GO = {"name": "go", "sigma": 0.01}


def number(comparison, label, quantity):
    every = comparison.numbers()
    (found,) = every[(every["label"] == label) & (every["quantity"] == quantity)].to_dict("records")
    return found


def test_absolute_numbers_have_students_interval(study):
    found = number(compare(study), "adamw", "forgetting_50")
    # half of the gain of 2 is learnt at the slope of each seed
    expected = student([0.98, 1.0, 1.02])
    assert [found[k] for k in ("estimate", "low", "high")] == pytest.approx(
        [expected.estimate, expected.low, expected.high]
    )
    assert found["n"] == 3


def test_relative_numbers_are_paired_by_seed(study):
    found = number(compare(study), "go sigma=0.01", "reduction_50")
    expected = paired_ratio([0.49, 0.5, 0.51], [0.98, 1.0, 1.02])
    assert found["estimate"] == pytest.approx(0.5)
    assert found["low"] == pytest.approx(1 - expected.high)
    assert found["high"] == pytest.approx(1 - expected.low)
    assert found["high"] - found["low"] < 1e-6  # the seeds' spread is in both


def test_width_counts_in_units_of_the_weights(study):
    found = compare(study)
    assert number(found, "adamw", "width")["estimate"] == pytest.approx(0.02)
    assert number(found, "adamw", "width_rms")["estimate"] == pytest.approx(0.2)
    assert number(found, "adamw", "width_rms:norms")["estimate"] == pytest.approx(0.02)
    assert number(found, "go sigma=0.01", "width_rms_ratio")["estimate"] == pytest.approx(2.5)
    assert number(found, "go sigma=0.01", "step_cost")["estimate"] == pytest.approx(1.1)
    assert number(found, "go sigma=0.01", "nll_ratio")["estimate"] == pytest.approx(1.01)


def test_targets_come_from_the_reference_alone(tmp_path, row_of, study_of):
    rows = [row_of({"name": "adamw"}, 0), row_of(GO, 0, start=9.0, reach=8.0)]
    (group,) = compare(study_of(tmp_path / "s", rows)).groups
    assert group.targets == {0.25: 3.5, 0.5: 3.0, 0.75: 2.5}


def test_a_method_that_does_not_arrive_gets_a_reason(tmp_path, row_of, study_of):
    rows = [row_of({"name": "adamw"}, seed) for seed in (0, 1)]
    rows += [row_of(GO, 0), row_of(GO, 1, reach=0.9)]
    found = compare(study_of(tmp_path / "s", rows))
    lost = number(found, "go", "reduction_50")
    assert math.isnan(lost["estimate"])
    assert lost["reason"] == "seed 1: reaches 3.1000, not 3.0000 (1 of 2 seeds)"
    assert number(found, "go", "reduction_25")["estimate"] == pytest.approx(0.0)
    assert "seed 1: reaches 3.1000" in found.text()
    go = found.table().set_index("label").loc["go"]
    assert math.isnan(go["reduction_50"])
    assert "seed 1: reaches 3.1000, not 3.0000" in go["reasons"]


def test_one_seed_has_no_interval_and_says_so(tmp_path, row_of, study_of):
    found = compare(study_of(tmp_path / "s", [row_of({"name": "adamw"}, 0), row_of(GO, 0)]))
    ratio = number(found, "go", "reduction_50")
    assert ratio["estimate"] == pytest.approx(0.0)
    assert math.isnan(ratio["low"])
    assert ratio["reason"] == "1 pair: the spread is unknown"
    assert number(found, "go", "nll")["reason"] == "1 values: their spread is unknown"


def test_pairs_are_the_seeds_of_both(tmp_path, row_of, study_of):
    rows = [row_of({"name": "adamw"}, s, nll=3 + s) for s in (0, 1, 2)]
    rows += [row_of(GO, s, nll=2 * (3 + s)) for s in (1, 2, 7)]
    found = number(compare(study_of(tmp_path / "s", rows)), "go", "nll_ratio")
    assert found["n"] == 2
    assert found["estimate"] == pytest.approx(2.0)


def test_without_a_reference_there_are_no_ratios(tmp_path, row_of, study_of):
    own = {"name": "adamw", "lr": 0.1}  # not plain: the recipe's own rate is the reference
    found = compare(study_of(tmp_path / "s", [row_of(GO, 0), row_of(own, 0, label="large")]))
    assert number(found, "go", "nll_ratio")["reason"] == "no reference"
    assert "no target" in number(found, "go", "forgetting_50")["reason"]
    assert number(found, "go", "nll")["estimate"] == 3.0


def test_another_reference_sets_ratios_and_targets_and_is_named(tmp_path, row_of, study_of):
    early = {"name": "adamw", "stop": 0.5}
    rows = [
        row_of({"name": "adamw"}, 0, nll=4.0, tokens=900),
        row_of(early, 0, label="early", nll=2.0, reach=1.0, tokens=450),
        row_of(GO, 0, nll=3.0),
    ]
    folder = study_of(tmp_path / "s", rows)
    found = compare(folder, reference="early")
    assert number(found, "go", "nll_ratio")["estimate"] == pytest.approx(1.5)
    assert found.groups[0].targets[0.5] == pytest.approx(3.5)  # of early's gain of 1.0
    assert "reference: early" in found.text()
    assert found.groups[0].tokens == 900, "the study's length, whoever is the reference"
    other = study_of(tmp_path / "other", [row_of({"name": "adamw"}, 0, size=7)], batch=9)
    both = compare(folder, other, reference="early")
    assert [group.reference for group in both.groups] == ["", "early"]
    with pytest.raises(BasinscopeError, match=r"no method 'earli'.*try: early"):
        compare(folder, reference="earli")


def test_a_row_that_stopped_gives_its_reason_everywhere(tmp_path, row_of, study_of):
    nothing = dict.fromkeys(("rms", "rms_of", "score", "floor", "width", "widths", "curves"))
    dead = row_of(GO, 0) | nothing | {
        "nll": None, "state": "stopped", "stopped": "loss nan at step 3", "finetune": [],
        "over_training": [],
    }  # fmt: skip
    found = compare(study_of(tmp_path / "s", [row_of({"name": "adamw"}, 0), dead]))
    for quantity in ("nll", "width_rms", "new_nll_best", "forgetting_50", "reduction_50"):
        assert "loss nan at step 3" in number(found, "go", quantity)["reason"], quantity
    assert number(found, "adamw", "width_rms:norms")["estimate"] == pytest.approx(0.02)


def test_a_row_that_is_not_finished_says_so(tmp_path, row_of, study_of):
    half = row_of(GO, 0) | {"state": "trained", "finetune": []}
    found = compare(study_of(tmp_path / "s", [row_of({"name": "adamw"}, 0), half]))
    assert number(found, "go", "forgetting_50")["reason"] == "seed 0: not finished yet"
    assert number(found, "go", "nll")["estimate"] == 3.0


def test_a_width_that_was_not_reached_is_no_number(tmp_path, row_of, study_of):
    out = row_of(GO, 0)
    out["width"] = dict(out["width"], score={"low": 0.1, "estimate": None, "high": None,
                                             "reason": "8 without a crossing"})  # fmt: skip
    found = compare(study_of(tmp_path / "s", [row_of({"name": "adamw"}, 0), out]))
    assert number(found, "go", "width_rms")["reason"] == "seed 0: 8 without a crossing"


def test_a_reference_that_forgets_nothing_divides_nothing(tmp_path, row_of, study_of):
    rows = [row_of({"name": "adamw"}, s, forget=-0.1) for s in (0, 1)] + [row_of(GO, 0)]
    found = number(compare(study_of(tmp_path / "s", rows)), "go", "reduction_50")
    assert "nothing to divide by" in found["reason"]


def test_studies_of_one_recipe_share_a_reference(tmp_path, row_of, study_of):
    one = study_of(tmp_path / "one", [row_of({"name": "adamw"}, 0)])
    two = study_of(tmp_path / "two", [row_of(GO, 0, nll=3.3)], checkpoint_every=9)
    (group,) = compare(one, two).groups
    assert list(group.rows) == ["adamw", "go"]
    assert number(compare(one, two), "go", "nll_ratio")["estimate"] == pytest.approx(1.1)


def test_studies_that_differ_are_not_mixed(tmp_path, row_of, study_of):
    one = study_of(tmp_path / "one", [row_of({"name": "adamw"}, 0)])
    wall = study_of(tmp_path / "wall", [row_of(GO, 0)], equal="wall")
    batch = study_of(tmp_path / "batch", [row_of(GO, 0)], batch=2)
    found = compare(one, wall, batch)
    assert [group.equal for group in found.groups] == ["tokens", "tokens", "wall"]
    assert found.text().count("### ") == 3
    assert (found.numbers().query("label == 'go' and quantity == 'nll_ratio'")["n"] == 0).all()


def test_one_label_for_two_methods_is_refused(tmp_path, row_of, study_of):
    one = study_of(tmp_path / "one", [row_of(GO, 0)])
    two = study_of(tmp_path / "two", [row_of(GO | {"sigma": 0.1}, 1)])
    with pytest.raises(BasinscopeError, match="two methods are called 'go'"):
        compare(one, two)


def test_the_finished_one_of_two_records_counts(tmp_path, row_of, study_of):
    half = row_of({"name": "adamw"}, 0, nll=9.0) | {"state": "trained", "finetune": []}
    one = study_of(tmp_path / "one", [half])
    two = study_of(tmp_path / "two", [row_of({"name": "adamw"}, 0)])
    for order in ((one, two), (two, one)):
        assert number(compare(*order), "adamw", "nll")["estimate"] == 3.0


def test_bad_folders_and_confidence(tmp_path, study, study_of):
    with pytest.raises(BasinscopeError, match="is not a run folder"):
        compare(tmp_path)
    with pytest.raises(BasinscopeError, match="no rows in"):
        compare(study_of(tmp_path / "empty", []))
    with pytest.raises(BasinscopeError, match="allowed: run folders"):
        compare()
    with pytest.raises(BasinscopeError, match=r"confidence=1\.0; allowed: between 0 and 1"):
        compare(study, confidence=1.0)


def test_summary_is_strict_json_with_reasons(study):
    found = json.loads(json.dumps(compare(study).summary(), allow_nan=False))
    (group,) = found["groups"]
    assert group["reference"] == "adamw"
    go = next(m for m in group["methods"] if m["label"].startswith("go"))
    assert go["seeds"] == [0, 1, 2]
    for values in go["numbers"].values():
        assert (values["estimate"] is not None and values["low"] is not None) or values["reason"]


def test_the_table_for_readers(study):
    text = compare(study).text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "50.0%" in next(line for line in lines if line.startswith("| go"))
    assert "1,000 parameters, 20,000 tokens, equal tokens" in text


def test_figures_lie_beside_their_tables(study, tmp_path):
    drawn = compare(study).save(tmp_path / "out")
    names = {path.name for path in drawn}
    assert names == {"table.md", "numbers.csv", "frontier.png", "curves.png", "over_training.png",
                     "forgetting.png"}  # fmt: skip
    for path in drawn:
        if path.suffix == ".png":
            assert path.stat().st_size > 10_000
            assert path.with_suffix(".pdf").stat().st_size > 5_000
            assert len(pd.read_csv(path.with_suffix(".csv"))) > 0
    kept = pd.read_csv(tmp_path / "out" / "forgetting.csv")
    assert kept.query("label == 'adamw' and seed == 1")["forgetting"].tolist() == pytest.approx(
        [0.0, 0.5, 1.0, 1.5, 2.0]
    )


def test_curves_average_only_where_every_direction_was_measured(tmp_path, row_of, study_of):
    from basinscope.comparison import frames

    row = row_of({"name": "adamw"}, 0)
    row["curves"] = [[0.01, 0, 0.2, 3.1], [0.01, 1, 0.1, 3.3], [0.02, 1, 0.0, None]]
    table = frames.curves(compare(study_of(tmp_path / "s", [row])).groups)
    assert table["alpha_rms"].tolist() == [0.0, 0.1]
    assert table["score"].tolist() == pytest.approx([0.3, 0.15])
    assert table["nll"].tolist() == pytest.approx([3.0, 3.2])


@pytest.mark.parametrize(
    ("size", "tokens"), [(4000, 20_000), (4000, 80_000), (1000, 80_000)], ids=str
)
def test_scale_needs_one_method_in_two_places(tmp_path, row_of, study_of, study, size, tokens):
    rows = [row_of({"name": "adamw"}, s, size=size, tokens=tokens, width=0.03) for s in (0, 1)]
    other = study_of(tmp_path / "other", rows, width=128)
    drawn = compare(study, other).plot(tmp_path / "out", ["scale"])
    assert [path.name for path in drawn] == ["scale.png"]
    table = pd.read_csv(tmp_path / "out" / "scale.csv")
    assert set(zip(table["size"], table["tokens"], strict=True)) == {(1000, 20_000), (size, tokens)}
    assert compare(study).plot(tmp_path / "alone", ["scale"]) == []


def test_scale_of_what_differs_in_both_draws_nothing(tmp_path, row_of, study_of, study):
    rows = [row_of({"name": "adamw"}, s, size=4000, tokens=30_000) for s in (0, 1)]
    other = study_of(tmp_path / "other", rows, width=128)
    assert compare(study, other).plot(tmp_path / "out", ["scale"]) == []


def test_figures_by_name(study, tmp_path):
    drawn = compare(study).plot(tmp_path, ["forgetting"])
    assert [path.name for path in drawn] == ["forgetting.png"]
    assert not (tmp_path / "frontier.png").exists()
    with pytest.raises(BasinscopeError, match=r"figure 'fronteer'.*try: frontier"):
        compare(study).save(tmp_path / "out", ["fronteer"])
    assert not (tmp_path / "out").exists()
