"""The HTML page: escaped, self-contained, and every table in its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import basinscope as bs
from basinscope.report.landscapes import landscape_page
from basinscope.report.page import PAGE
from basinscope.report.text import summary

SCRIPTS = 3  # the figures' data, Plotly, and our own


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.in_cell = self.in_script = False
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        self.in_cell = tag in ("td", "th") or (self.in_cell and tag == "button")
        self.in_script = tag == "script"
        self.scripts += self.in_script
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag == "button"
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            return
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()


@pytest.fixture
def page(tmp_path):
    def write(land, **options) -> Page:
        path = landscape_page(land, tmp_path, **options).write(tmp_path / PAGE)
        assert path == tmp_path / "report.html"
        return Page(path.read_text(encoding="utf-8"))

    return write


def test_the_page_stands_alone(draw, page, tmp_path):
    found = page(draw())
    assert all(url.startswith("data:image/png;base64,") for url in found.loads)
    assert len(found.loads) == 3
    assert not found.tags & {"link", "iframe", "object", "base", "form"}
    source = (tmp_path / "report.html").read_text()
    assert not re.search(r"@import|url\(", source.partition("<script")[0])
    assert len(source) < 6e6
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [
        "landscape.csv", "landscape.pdf", "landscape.png", "likelihood.csv", "likelihood.png",
        "spread.csv", "spread.png",
    ]  # fmt: skip


@pytest.mark.usefixtures("no_figure")
def test_names_and_labels_are_escaped(draw, page, hostile):
    nasty = '"><img src=x onerror=alert(1)>'
    found = page(draw((hostile, (nasty, "{{ 7*7 }}"), 0.5), label=f"to:{hostile}"))
    assert found.scripts == SCRIPTS
    assert not found.handlers
    assert len(found.loads) == 3
    assert hostile in found.text
    assert nasty in found.text
    assert "{{ 7*7 }}" in found.text


@pytest.mark.usefixtures("no_figure")
def test_a_long_answer_does_not_blow_up_the_page(draw, page):
    long = "\u202ewritten\x1b[2J " + 9000 * "at length "
    written = page(draw(("a", (long, "y"), 0.5), draws=1))
    assert "\\u202ewritten\\x1b[2J at length" in written.text
    assert "... and 89,713 characters" in written.text
    assert max(len(part) for table in written.tables for row in table for part in row) < 400


@pytest.mark.usefixtures("no_figure")
def test_rows_of_the_tables(draw, page):
    land = draw(("a", ("x", "y"), 0.5), draws=1)
    widths, _, lost, means, compare, thresholding = page(land).tables
    assert [row[0] for row in widths] == ["task", "a", "a"]
    assert [row[3] for row in widths[1:]] == ["axis +", "axis -"]
    assert len({len(row) for row in widths}) == 1
    assert lost[0][:5] == ["item", "direction", "α", "draws", "lost in"]
    assert {(row[2], *row[5:]) for row in lost[1:]} == {("-1", "x", "y"), ("1", "x", "y")}
    assert [row[2] for row in means[1:]] == ["-1", "-0.2", "0", "0.2", "1"]
    assert [row[2] for row in compare[1:]] == ["-1", "-0.2", "0.2", "1"]
    assert means[1][-1] == "1"
    assert [row[2] for row in thresholding[1:]] == ["-1", "-0.2", "0.2", "1"]
    assert len({len(row) for row in thresholding}) == 1


@pytest.mark.usefixtures("no_figure")
def test_kinds_of_answers_stand_under_their_own_task(draw, page):
    tasks = [("safety", ("refuses", "complies"), 0.5), ("other", ("yes", "no"), 0.1)]
    tables = page(draw(*tasks, steps=(-0.2, 1.0), draws=1)).tables
    kinds = tables[1:3]
    assert kinds[0] == [
        ["direction", "α", "complies", "refuses"],
        ["axis", "-0.2", "0", "1"],
        ["axis", "0", "0", "1"],
        ["axis", "1", "1", "0"],
    ]
    assert kinds[1] == [
        ["direction", "α", "no", "yes"],
        ["axis", "-0.2", "1", "0"],
        ["axis", "0", "0", "1"],
        ["axis", "1", "1", "0"],
    ]


@pytest.mark.usefixtures("no_figure")
def test_a_label_called_like_a_column(draw, page):
    (table,) = page(draw(("a", ("task", "step"), 0.5), steps=(1.0,), draws=1)).tables[1:2]
    assert table[0] == ["direction", "α", "step", "task"]
    assert table[2] == ["axis", "1", "1", "0"]


@pytest.mark.usefixtures("no_figure")
def test_numeric_labels_have_no_table(draw, page):
    assert len(page(draw(("a", ("1", "0"), 0.5), draws=1)).tables) == 5


@pytest.mark.usefixtures("no_figure")
def test_how_directions_differ_where_there_are_several_draws(draw, page):
    assert "directions differ" not in page(draw(draws=1)).text
    land = draw(("a", ("1", "0"), 0.5), draws=3)
    found = page(land)
    assert "How much directions differ" in found.text
    _, spread, variance, bands, *_ = found.tables
    assert [row[:4] for row in spread[1:]] == [["a", "axis +", "3", "3"], ["a", "axis -", "3", "3"]]
    assert [row[2] for row in variance[1:]] == ["-1", "-0.2", "0.2", "1"]
    assert [row[2] for row in bands[1:]] == ["-1", "-0.2", "0", "0.2", "1"]
    for table in (spread, variance, bands):
        assert len({len(row) for row in table}) == 1
    halves = [t for t in land.trials if t.direction is None or t.draw == (t.step < 0)]
    assert "directions differ" not in page(bs.Landscape(land.spec, halves)).text


@pytest.mark.usefixtures("no_figure")
def test_cosines_of_the_run_where_they_were_drawn(draw, page, tmp_path):
    assert "Cosines" not in page(draw()).text
    (tmp_path / "figures" / "cosines.png").write_bytes(b"\x89PNG")
    found = page(draw())
    assert "Cosines between directions" in found.text
    assert len(found.loads) == 4


@pytest.mark.usefixtures("no_figure")
def test_missing_numbers_are_dashes_with_a_reason(draw, page):
    found = page(draw(("a", ("x", "y"), 9.0), steps=(1.0,), draws=1))
    assert "nan" not in found.text.lower()
    assert "measure further out" in found.text
    assert found.tables[0][1][5:7] == ["–", "[1, not reached]"]


SECTIONS = ["widths", "means", "compare", "items", "spread", "bands", "variance"]


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    "error", [bs.BasinscopeError("too few draws", "more", "20"), ValueError("a fault of ours")]
)
def test_no_section_takes_the_rest_with_it(draw, page, monkeypatch, section, error):
    land = draw(("a", ("x", "y"), 0.5))
    whole = page(land)

    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(land, section, fail)
    without = page(land)
    assert "could not be made" in without.text
    assert str(error) in without.text
    assert len(without.tables) >= len(whole.tables) - 2
    summed = summary(land)
    assert all(summed[name] for name in ("widths", "means", "spread") if name != section)
    assert len(summed["missing"]) == (section in ("widths", "means", "spread"))


@pytest.mark.parametrize("figure", ["plot_landscapes", "plot_likelihood", "plot_spread"])
def test_a_picture_that_cannot_be_drawn(draw, page, monkeypatch, no_figure, figure):
    def fail(*_args, **_options):
        raise RuntimeError("no font")

    monkeypatch.setattr(f"basinscope.report.landscapes.{figure}", fail)
    shown = page(draw(("a", ("x", "y"), 0.5)))
    assert "could not be made: RuntimeError('no font')" in shown.text
    assert len(shown.tables) >= 5


@pytest.mark.usefixtures("no_figure")
def test_a_width_that_cannot_be_computed_keeps_the_other_rows(draw, monkeypatch):
    land = draw(("a", ("x", "y"), 0.5), ("b", ("x", "y"), 0.5))
    real = type(land).width

    def width(self, task, *args, **options):
        if task == "a":
            raise bs.BasinscopeError("nothing to bracket", "a bracket", "more")
        return real(self, task, *args, **options)

    monkeypatch.setattr(type(land), "width", width)
    rows = land.widths()
    assert list(rows["task"]) == ["a", "a", "b", "b"]
    assert list(rows["reason"])[:2] == ["nothing to bracket"] * 2
    assert rows["width"].notna().sum() == 2


@pytest.mark.usefixtures("no_figure")
def test_step_zero_alone(draw, page):
    found = page(draw(steps=(0.0,)))
    assert found.tables[0][1][:3] == ["t", "0.25", "1 [0.735, 1]"]
    assert "nothing but step 0 was measured" in found.text


@pytest.mark.usefixtures("no_figure")
def test_level_is_that_of_the_call(draw, page):
    assert "at level 0.25" in page(draw(), level=0.25).text


@pytest.mark.usefixtures("no_figure")
def test_the_page_of_a_loaded_run_is_the_same(draw, tmp_path):
    land = draw(run=tmp_path / "run")
    one = landscape_page(land, tmp_path).write(tmp_path / "one.html").read_text()
    two = (
        landscape_page(bs.load_run(tmp_path / "run"), tmp_path)
        .write(tmp_path / "two.html")
        .read_text()
    )
    assert one == two


@pytest.mark.usefixtures("no_figure")
def test_a_disk_that_is_full(draw, tmp_path, monkeypatch):
    land = draw()
    real = Path.replace

    def full(self, target):
        if target.name == "report.html":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(bs.BasinscopeError, match=r"cannot write .*report\.html \(No space left"):
        landscape_page(land, tmp_path).write(tmp_path / PAGE)
