"""Values that travel between a program and its tests."""

from __future__ import annotations

import collections
import enum
import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basinscope.tasks.sandboxed import MESSAGE_BYTES, Channel, Other, describe, pack, unpack


def travel(value):
    return unpack(json.loads(json.dumps(pack(value))))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
hashable = scalars | st.tuples(scalars, scalars) | st.frozensets(scalars)
values = st.recursive(
    hashable | st.sets(hashable),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(hashable, inner),
)


@settings(derandomize=True, deadline=None, database=None)
@given(values)
def test_plain_data_come_back_as_they_were(value):
    back = travel(value)
    assert back == value
    assert type(back) is type(value)


def test_long_integers_travel_whatever_their_digits():
    for n in (1 << 63, -(1 << 63), 10**5000, -(10**5000)):
        assert travel(n) == n


def test_subclasses_become_their_base():
    class Text(str):
        def __eq__(self, other):
            return True

        __hash__ = str.__hash__

    class Colour(enum.IntEnum):
        RED = 1

    point = collections.namedtuple("point", "x y")
    assert travel(collections.Counter("aab")) == {"a": 2, "b": 1}
    assert travel(point(1, 2)) == (1, 2)
    assert type(travel(point(1, 2))) is tuple
    assert type(travel(Colour.RED)) is int
    assert travel(Text("a")) != "b"


def test_iterators_and_ranges_become_iterators():
    assert tuple(travel(x * x for x in (1, 2))) == (1, 4)
    assert list(travel(range(3))) == [0, 1, 2]
    assert travel(range(3)) != [0, 1, 2]
    assert travel(iter([1])) != [1]


def test_anything_else_equals_nothing():
    class Everything:
        def __eq__(self, other):
            return True

        __hash__ = None

    assert isinstance(travel(Everything()), Other)
    assert travel(Everything()) != travel(Everything())
    assert travel([Everything()]) != [1]
    assert math.isnan(travel(float("nan")))


@pytest.mark.parametrize(
    "data",
    [
        {}, [], ["list"], ["list", 3], ["eval", "1"], ["set", [["list", []]]], ["int", 5],
        ["int", "x"], ["dict", [[1]]], ["bytes", "x"], [["list"], []], ["complex", ["a", "b"]],
    ],
)  # fmt: skip
def test_what_is_not_of_packs_making_is_an_error(data):
    with pytest.raises((ValueError, TypeError), match=r".+"):
        unpack(data)


def test_exceptions_are_described_by_their_builtin_base():
    class Rude(KeyError):
        def __str__(self):
            raise ValueError

    assert describe(Rude("x")) == ["KeyError", "Rude", ""]
    assert describe(SystemExit(3)) == ["SystemExit", "SystemExit", "3"]


def test_messages_are_bounded_both_ways():
    reading, writing = os.pipe()
    try:
        with pytest.raises(ValueError, match="too large"):
            Channel(writing).send("x" * MESSAGE_BYTES)
        Channel(writing).send([1, "ä"])
        assert Channel(reading).receive() == [1, "ä"]
        os.write(writing, (MESSAGE_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(ValueError, match="a message of"):
            Channel(reading).receive()
    finally:
        os.close(writing)
    with pytest.raises(EOFError):
        Channel(reading).receive()
    os.close(reading)
