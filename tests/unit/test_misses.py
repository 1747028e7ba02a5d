"""The count of misses that the simulations share is kept, and compared as a number."""

from __future__ import annotations

import misses
import numpy as np
import pytest


@pytest.mark.parametrize("number", [int, np.int64])
def test_counts_are_compared_and_noted(number, tmp_path, monkeypatch):
    monkeypatch.setenv(misses.TABLE, str(tmp_path / "counts"))
    most = misses.limit(1000, 0.05)
    assert number(most) <= most
    assert not number(most + 1) <= most
    assert number(most + 1) > most
    assert not number(most) > most
    rows = [line.split("\t")[1:] for line in (tmp_path / "counts").read_text().splitlines()]
    counts = [["misses", most], ["misses", most + 1], ["bug", most + 1], ["bug", most]]
    assert rows == [[kind, "1000", "0.05", str(n), str(int(most))] for kind, n in counts]


def test_a_bug_stands_beside_its_count():
    lines = ["a/test_x.py::T::test_y[c]\tmisses\t100\t0.05\t2\t17",
             "a/test_x.py::T::test_y[c]\tbug\t100\t0.05\t30\t17"]  # fmt: skip
    assert misses.table(lines) == "| x: T, test_y | c | 100 | 0.05 | 2 | 0.0200 | 17 | 0.3000 |\n"
