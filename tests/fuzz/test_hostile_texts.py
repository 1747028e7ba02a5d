"""Places that show a model's text or a user's name, and texts that are made to break out of them.

Pages escape markup, terminals get nothing that acts on them, JSON and CSV stay whole.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import run_folders
import torch

import basinscope as bs
from basinscope import cli
from basinscope.cli.app import progress
from basinscope.directions.saved import save_direction
from basinscope.errors import printable
from basinscope.tasks.base import Outcome

TEXTS = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;</td></table>",
    "terminal": "\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b[31m\r\x08\x9b31m",
    "rich": "[red]markup[/red] [link=http://x]a[/link] [/] \\[",
    "direction of writing": "abc\u202egnp.exe\u2066\u200f\u2028\u2029",
    "half a character": "half \udcff and \udc80",
    "controls": "NUL \0 BEL \a VT \v FF \f DEL \x7f NEL \x85 BOM \ufeff",
    "table": 'a|b,c;d"e\n=cmd|x\tf\n\n### g',
    "formula": "$\\frac{1}{$ %s {0} {{ 7 * 7 }} {% raw %}",
    "long": "x" * 10_000_000,
}


@dataclass(frozen=True)
class Answering(bs.CallableTask):
    """A task whose answers are labelled with what a model wrote."""

    said: str = ""

    def outcomes(self, module):
        good = (module.weight[0] > 0).tolist()
        labels = [self.said if self.said else "a", "b", *["c"] * (self.n_items - 2)]
        return [Outcome(*one, failed=not one[0]) for one in zip(good, labels, strict=True)]


def path_of(text: str) -> str:
    """As much of a text as a file may be called."""
    return text.replace("\0", "").replace("/", "_")[:60].encode(errors="ignore").decode()


class Place(NamedTuple):
    """A run whose task, answers, model, direction and folder are called so, and a certificate."""

    name: str  # of its task and methods
    text: str  # in command lines
    said: str  # by the model
    run: Path
    cert: Path
    study: Path
    attack: Path
    surface: Path


@pytest.fixture(scope="module", params=TEXTS)
def place(request, tmp_path_factory):
    text = TEXTS[request.param]
    folder = tmp_path_factory.mktemp("hostile") / path_of(text)
    name = text[:1000].encode(errors="ignore").decode()  # half a character is refused in names
    task = Answering(name, None, run_folders.ITEMS, said=text)
    engine = run_folders.layer()
    line = folder / f"{path_of(text)}.safetensors"
    saved = save_direction(line, {"weight": torch.ones(1, run_folders.ITEMS)}, {"by": name})
    bs.landscape(
        engine,
        task,
        directions=[f"saved:{saved}", "random"],
        steps=[0.5],
        draws=2,
        run=folder / "land",
    )
    task = replace(task, said="")
    bs.certify(engine, task, sigma=0.3, draws=60, items_per_draw=4, run=folder / "cert")
    grid = {"xs": [0.0, 0.5], "ys": [0.0]}
    bs.surface(engine, task, bs.Saved(str(saved)), bs.Random(1), **grid, run=folder / "surface")
    run_folders.widen(folder / "study")
    row = folder / "study" / "rows" / "adamw-s0.json"
    body = json.loads(row.read_text())
    row.write_text(json.dumps(body | {"label": name, "stopped": ""}))
    loss = lambda module: -module.weight.sum()  # noqa: E731
    bs.attack(engine, loss, measure=[task], steps=2, radius=1.0, run=folder / "attack")
    return Place(
        name,
        text[:1000],
        text,
        folder / "land",
        folder / "cert",
        folder / "study",
        folder / "attack",
        folder / "surface",
    )


def shown(*words) -> tuple[str, str]:
    """Standard output and error of a line, as bytes that reached a terminal."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with mock.patch.object(sys, "stdout", out), mock.patch.object(sys, "stderr", err):
        try:
            cli.main([str(word).replace("\0", "") for word in words])
        except SystemExit as end:
            if end.code != 2:
                raise
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return texts[0], texts[1]


def check_screen(*texts: str) -> None:
    for text in texts:
        wrong = {c for c in text if not (c.isprintable() or c in "\n\t")}
        assert not wrong, ascii(sorted(wrong))
        assert all(len(line) < 10_000 for line in text.splitlines())


SCREENS = {
    "report": lambda p: ("report", p.run),
    "report of a certificate": lambda p: ("report", p.cert),
    "report of an attack": lambda p: ("report", p.attack),
    "report of a study": lambda p: ("report", p.study),
    "report of a surface": lambda p: ("report", p.surface),
    "compare": lambda p: ("compare", p.study),
    "status": lambda p: ("status", p.run),
    "status of a study": lambda p: ("status", p.study),
    "verify": lambda p: ("verify", p.run),
    "a task that is not there": lambda p: ("strata", p.run, p.text + "?"),
    "a task that nobody knows": lambda p: ("landscape", p.run, "-t", p.text),
    "a direction": lambda p: ("landscape", p.run, "-d", p.text),
    "a model": lambda p: ("landscape", "./" + p.text),
    "a run folder": lambda p: ("status", p.text.replace("\0", "")),
    "an option": lambda p: ("status", f"--{p.text}"),
    "a number": lambda p: ("certify", "m", f"--draws={p.text}"),
}


@pytest.mark.parametrize("words", SCREENS.values(), ids=SCREENS)
def test_a_screen_shows_it_and_is_not_moved_by_it(words, place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out, err = shown(*words(place))
    assert out or err.startswith("error: ")
    check_screen(out, err)
    assert "could not be made" not in out + err


@pytest.mark.parametrize("words", ["status", "compare"])
def test_json_is_one_object_that_holds_the_text_itself(words, place):
    out, _ = shown(words, place.study if words == "compare" else place.run, "--json")
    body = json.loads(out)
    assert any(place.name in value for value in strings(body))


def strings(value):
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


class Elements(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("kind", ["run", "surface"])
def test_a_page_holds_it_as_text(kind, place):
    run = getattr(place, kind)
    shown("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    seen = Elements()
    seen.feed(page)
    assert seen.tags.count("script") <= 3  # the figures' data, Plotly, and our own
    assert "<script>alert" not in page
    assert "onerror=alert(2)>" not in page
    assert not {name for name in seen.attributes if name.startswith("on")}
    if place.text == TEXTS["markup"]:
        assert place.text in "".join(seen.text)


def test_a_picture_in_three_dimensions_runs_no_script_of_it(place):
    pytest.importorskip("plotly")
    page = place.surface / "figures" / "turned.html"
    text = bs.load_run(place.surface).plot_3d(page).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "onerror=alert(2)>" not in text


def test_tables_beside_figures_are_read_back(place):
    shown("report", place.run)
    tables = sorted((place.run / "figures").glob("*.csv"))
    assert tables
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            csv.field_size_limit(1 << 27)
            names, *rows = csv.reader(file)
        assert rows
        assert all(len(row) == len(names) for row in rows)


def test_progress_shows_it(place):
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    from rich.console import Console

    with (
        mock.patch("basinscope.cli.app.screen", Console(file=err, width=80)),
        progress(place.text) as update,
    ):
        update(1, 2, place.text)
    err.flush()
    check_screen(err.buffer.getvalue().decode())


def test_an_error_is_one_line(place):
    error = bs.BasinscopeError(place.said, place.said, place.said)
    assert str(error).isprintable()
    assert len(str(error)) < 30_000
    assert error.given == place.said


@pytest.mark.parametrize("text", ["naïve é 日本 🙂 − ± θ₀", "a\u00a0b", "tab\tline\nline"])
def test_what_is_harmless_is_shown_as_it_is(text):
    assert printable(text) == text
