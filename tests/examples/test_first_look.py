"""The notebook is the script, and runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import jupytext

import basinscope as bs
from basinscope.engines import sources
from basinscope.runs import executor

EXAMPLES = Path(__file__).parents[2] / "examples"


def sources_of(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_the_notebook_is_the_script():
    script = jupytext.read(EXAMPLES / "first_look.py", fmt="py:percent")
    notebook = jupytext.read(EXAMPLES / "first_look.ipynb")
    line = "try: jupytext --to notebook examples/first_look.py"
    assert sources_of(notebook) == sources_of(script), line
    assert sum(cell.cell_type == "code" for cell in script.cells) == 10


def test_it_holds_no_output():
    notebook = jupytext.read(EXAMPLES / "first_look.ipynb")
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_it_runs(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sources.ALIASES, "smollm2")
    monkeypatch.setattr(executor, "cores", lambda: 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").symlink_to(checkpoint)
    whole = bs.landscape
    monkeypatch.setattr(
        bs, "landscape", lambda *a, **k: whole(*a, **{**k, "budget": None, "draws": 3})
    )
    names = runpy.run_path(str(EXAMPLES / "first_look.py"))
    assert names["gate"].verdict in ("kept", "lost", "undecided")
    assert (tmp_path / "first-look.png").exists()
    assert "alpha 0.0:" in capsys.readouterr().out
