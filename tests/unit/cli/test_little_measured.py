"""Runs that measured next to nothing, or the same everywhere, still end in what they measured."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from basinscope.tasks.choice import ChoiceTask

SCORES = {
    "all right": lambda item, outcome: True,
    "all wrong": lambda item, outcome: False,
    "chance": lambda item, outcome: hash((item.id, 1)) % 4 == 0,
    "noise": lambda item, outcome: round(1e4 * (outcome.nll or 0)) % 2 == 0,
}

LANDSCAPE, CERTIFY = "landscape M -t basic --workers 1", "certify M -t basic --workers 1"
LINES = {
    "one item": f"{LANDSCAPE} --limit 1 --draws 1 --steps 0.1",
    "one item, two draws": f"{LANDSCAPE} --limit 1 --draws 2 --steps=-0.1,0.1",
    "step 0": f"{LANDSCAPE} --limit 2 --draws 3 --steps 0",
    "one side": f"{LANDSCAPE} --limit 3 --draws 2 --steps 0.1,0.2",
    "search of one item": f"{LANDSCAPE} --limit 1 --draws 1",
    "search of one draw": f"{LANDSCAPE} --limit 4 --draws 1 --outcomes 4",
    "search of stopped points": f"{LANDSCAPE} --limit 4 --draws 2 --outcomes 2",
    "search and its curve": f"{LANDSCAPE} --limit 2 --draws 1 --outcomes 1 --grid",
    "crossed": f"{LANDSCAPE} --limit 4 --precision 0.49 --steps 0.1",
    "crossed search of one item": f"{LANDSCAPE} --limit 1 --precision 0.49",
    "determined": f"{LANDSCAPE} --limit 2 -d quantised:8",
    "surface of a point": "surface M -t basic --limit 1 --xs 0 --ys 0 --workers 1",
    "surface of a row": "surface M -t basic --limit 2 --xs=-0.1,0.1 --ys 0.1 --workers 1",
    "certificate of one draw": f"{CERTIFY} --limit 2 --draws 1 --sigma 0.1 --confidence 0.5",
    "certificate of few draws": f"{CERTIFY} --limit 2 --draws 10 --sigma 0.1 --confidence 0.6"
    " --items-per-draw 1",
    "certificate of one item": f"{CERTIFY} --limit 1 --draws 20 --sigma 0.1 --confidence 0.6",
    "certificate of pairs": f"{CERTIFY} --limit 2 --draws 12 --sigma 0.1 --confidence 0.6"
    " --antithetic --claim 0.5",
    "certificate of items": f"{CERTIFY} --limit 2 --draws 12 --sigma 0.1 --confidence 0.6"
    " --per-item",
    "strict-basin": "strict-basin M -t basic --limit 1 --sigmas 0.1 --share 0.5 --confidence 0.6"
    " --workers 1",
    "certify-tokens": "certify-tokens M -t basic --limit 1 --draws 12 --confidence 0.6",
    "attack": "attack M -t basic --limit 1 --steps 2 --starts 1 --radius 0.5",
    "proxy attack": "attack M -t basic --limit 2 --steps 1 --method proxy --measure math",
}  # fmt: skip


# each line with one kind of scores, by turns
CASES = [(name, list(SCORES)[n % len(SCORES)]) for n, name in enumerate(LINES)]


@pytest.mark.parametrize(("name", "scores"), CASES)
def test_it_ends_in_a_table_json_and_a_report(name, scores, checkpoint, run_cli, monkeypatch):
    real, chosen = ChoiceTask.oracle, SCORES[scores]

    def oracle(self, item, answers):
        outcome = real(self, item, answers)
        right = chosen(item, outcome)
        margin = abs(outcome.margin or 0.0) * (1 if right else -1)
        return dataclasses.replace(outcome, correct=right, margin=margin)

    monkeypatch.setattr(ChoiceTask, "oracle", oracle)
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, path, **_: path.write_bytes(b"drawn")
    )
    words = [str(checkpoint) if word == "M" else word for word in LINES[name].split()]
    table = run_cli(*words, "--run", "x", "--dtype", "float32")
    printed = run_cli(*words, "--run", "x", "--dtype", "float32", "--json")
    report = run_cli("report", "x")
    for ended in (table, printed, report):
        assert ended.code == 0, ended.err
        assert ended.out
        assert "Traceback" not in ended.err
        assert "could not be made" not in ended.err
        assert not re.search(r"\w+(Error|Warning)\b", ended.err + ended.out)
    body = json.loads(printed.out, parse_constant=pytest.fail)
    assert not body.get("missing"), body["missing"]
    page = Path("x/report.html")
    if page.exists():
        text = page.read_text().partition("<script")[0]
        reasons = re.findall(r"[^>\n]*could not be made[^<\n]*", text)
        assert not [r for r in reasons if re.search(r"Error\(|Warning\(", r)], reasons
