"""`basinscope compare`, and `report` on a run of widen."""

from __future__ import annotations

import json
from functools import partial

import pytest
from command_line import ended


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    return partial(ended, capsys)


def test_prints_the_table(run_cli, study):
    code, out, err = run_cli("compare", study)
    assert (code, err) == (0, "")
    go = next(line for line in out.splitlines() if line.startswith("| go"))
    assert "50.0%" in go
    assert "2.5" in go


def test_json_is_one_object_on_standard_output(run_cli, study):
    code, out, err = run_cli("compare", study, "--json", "-o", "out", "--figure", "forgetting")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["confidence"] == 0.95
    assert found["written"] == ["out/table.md", "out/numbers.csv", "out/forgetting.png"]
    go = found["groups"][0]["methods"][1]["numbers"]
    assert go["reduction_50"]["estimate"] == pytest.approx(0.5)


def test_report_of_a_widening_run_draws_the_comparison(run_cli, study):
    code, out, _ = run_cli("report", study)
    assert code == 0
    assert (study / "figures" / "frontier.png").is_file()
    assert (study / "figures" / "numbers.csv").is_file()
    assert "report.html" in out
    code, _, err = run_cli("report", study, "--rms")
    assert code == 2
    assert err.count("\n") == 1
    assert "basinscope compare" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["study", "--confidence", "2"], "confidence=2.0; allowed: between 0 and 1"),
        (["study", "-o", "out", "--figure", "cruves"], "try: curves"),
        (["study", "--reference", "adam"], "try: adamw"),
    ],
)
def test_bad_input_is_one_line(run_cli, study, words, message):
    code, out, err = run_cli("compare", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
