"""Results as text: the table on the screen and the JSON object."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from basinscope.report.text import notes, summary, widths_table
from basinscope.runs.store import Store


def shown(table) -> str:
    file = io.StringIO()
    Console(file=file, width=160).print(table)
    return file.getvalue()


def strict(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_table_has_a_row_for_each_side(draw):
    text = shown(widths_table(draw(draws=1)))
    assert "level 0.5" in text
    assert text.count("axis +") == text.count("axis -") == 1
    assert "1.00 [0.74, 1.00]" in text
    assert "not reached" not in text


@pytest.mark.parametrize("name", ["[red]task[/red]", "[/]", "[link=x]", "[bold", "\\["])
def test_names_are_no_markup(name, draw):
    land = draw((name, ("x", "y"), 0.5), label=f"to:{name}", draws=1)
    text = shown(widths_table(land))
    assert text.count(name) == 4


def test_summary_is_strict_json(draw, hostile):
    land = draw(("a", ("x", "y"), 9.0), ("b", ("x", "y"), 0.5), weight=0.0, draws=1)
    text = json.dumps(summary(land, 0.25), allow_nan=False)
    read = strict(text)
    assert read["model"] == hostile
    assert (read["d"], read["rms"], read["level"], read["trials"]) == (1, 0.0, 0.25, 10)
    assert read["set_aside"] == []
    assert len(read["widths"]) == 4
    first = read["widths"][0]
    assert first["task"] == "a"
    assert first["width"] is first["high"] is first["width_rms"] is None
    assert first["low"] == 0.0
    assert "further out" in first["reason"]
    flat = [row for row in read["means"] if row["task"] == "a"]
    assert {row["T"] for row in flat} == {None}
    assert [row["step"] for row in flat] == [-1.0, -0.2, 0.0, 0.2, 1.0]
    wide, narrow = (row for row in read["spread"] if row["sign"] == 1)
    assert (wide["draws"], wide["crossed"], wide["greatest"]) == (1, 0, None)
    assert narrow["least"] == narrow["greatest"] == read["widths"][2]["width"]


def test_notes_say_each_reason_once(draw, tmp_path):
    land = draw(("a", ("x", "y"), 9.0), ("b", ("x", "y"), 0.5), steps=(-1.0, 1.0), draws=1)
    found = notes(land)
    assert [note.split(": ")[0] for note in found] == ["a axis +", "a axis -"]
    assert notes(draw(steps=(0.0,))) == ["t: nothing but step 0 was measured"]


def test_notes_name_what_was_set_aside(draw, tmp_path):
    land = draw(run=tmp_path)
    assert notes(land, 0.5) == notes(draw(run=tmp_path), 0.5)
    bad = next((tmp_path / "trials").glob("*.json"))
    bad.write_text("{}")
    again = draw(run=tmp_path)
    (note,) = [note for note in notes(again) if "set aside" in note]
    assert bad.name in note
    assert summary(again)["set_aside"] == list(again.set_aside)
    assert not Store(tmp_path).set_aside
