"""The statistics run on a laptop without a model: numpy and scipy only."""

import ast
import sys
from pathlib import Path

import pytest

from basinscope import stats

SOURCES = sorted(Path(stats.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_imports_numpy_scipy_and_the_standard_library_only(path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
    others = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    allowed = ("numpy", "scipy", "basinscope.stats")
    assert all(name.startswith(allowed) for name in others), others


def test_every_public_name_exists_and_is_documented() -> None:
    assert stats.__all__ == sorted(stats.__all__)
    assert all(getattr(stats, name).__doc__ for name in stats.__all__)
