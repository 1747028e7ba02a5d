"""The package as a whole: what importing it loads, and its names."""

import importlib
import subprocess
import sys

import pytest

import basinscope as bs


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
