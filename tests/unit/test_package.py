"""The package as a whole: what importing it loads, its names, and the examples of its docs."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import basinscope as bs

ROOT = Path(__file__).parents[2]


def test_importing_loads_neither_transformers_nor_the_compiler():
    code = (
        "import sys, basinscope; "
        "print([m for m in ('transformers', 'torch._dynamo', 'datasets', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["tasks", "landscape"])
def test_functions_keep_their_names_beside_modules_of_the_same_name(name):
    importlib.import_module(f"basinscope.{name}")
    assert callable(getattr(bs, name))


def test_every_public_name_is_there():
    assert all(hasattr(bs, name) for name in bs.__all__)


def test_the_task_of_the_docs_runs(checkpoint):
    text = (ROOT / "docs" / "how-to" / "extending.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, type] = {"__name__": __name__}
    exec(compile(example, "extending.md", "exec"), names)
    land = bs.landscape(bs.load(checkpoint), names["Capitals"](), steps=[0.0])
    assert land.items()["label"].isin(["Paris", "Rome"]).all()
