"""Addresses of a fixed run: records that were measured before are found again after a change.

``fixed_run.json`` holds addresses and hashes of plans alone, which are the same on every processor;
outcomes are compared by ``tests/fixed_run.py --compare``, on one machine. Where addresses are meant
to change, write it again: ``python tests/fixed_run.py --write FILE --addresses-only``.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "fixed_run", Path(__file__).parents[1] / "fixed_run.py"
)
fixed_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixed_run)

GOLDEN = json.loads(Path(__file__).with_name("fixed_run.json").read_text(encoding="utf-8"))
LONG = ("attack", "widen")  # their plans alone are the same everywhere: not worth their seconds


@pytest.mark.parametrize("name", [name for name in fixed_run.PARTS if name not in LONG])
def test_plans_and_addresses_are_those_of_before(name):
    if fixed_run.PARTS[name].of_text and fixed_run.versions() != GOLDEN["versions"]:
        pytest.skip(f"addresses of text hold what {GOLDEN['versions']} make of a model's folder")
    now = fixed_run.addresses_only(name, fixed_run.collect(name))
    assert fixed_run.first_difference(GOLDEN["parts"][name], now) is None


def test_the_first_difference_is_said():
    before = {"plans": {"run.json": "a"}, "addresses": ["1", "2"], "tables": {"means": "x\ny\n"}}
    say = fixed_run.first_difference
    assert say(before, dict(before)) is None
    assert say(before, before | {"addresses": ["2", "3"]}) == (
        "1 addresses are gone and 1 new, of 2: 1 is gone"
    )
    assert say(before, before | {"tables": {"means": "x\nz\n"}}) == "tables, means: line 2: y -> z"
    assert say(before, before | {"plans": {}}) == "plans, run.json: is gone"
    assert say({}, before) == "plans are new"
