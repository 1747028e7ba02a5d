"""Points of a plane by their words: what worker processes are told."""

from __future__ import annotations

import pytest

import basinscope as bs
from basinscope.directions.planes import Orthogonal, Plane
from basinscope.directions.words import direction


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize(("x", "y"), [(0.1, -0.2), (1e-17, 1 / 3), (-0.0, 5e300)])
def test_a_point_is_rebuilt_exactly(x, y, orthogonal):
    point = Plane(bs.Random(0), bs.Toward("a/b,c:d"), orthogonal).at(x, y)
    again = direction(point.label)
    assert again == point
    assert (repr(again.x), repr(again.y)) == (repr(x), repr(y))


def test_points_share_their_axes():
    """What an axis has read, it has read for all points."""
    words = [Plane(bs.Random(0), bs.Toward("m"), True).at(x, 1.0).label for x in (1.0, 2.0)]
    one, two = map(direction, words)
    assert one.a is two.a
    assert isinstance(one.b, Orthogonal)
    assert one.b.b is two.b.b


@pytest.mark.parametrize(
    "word", ["plane:", "plane:1", "plane:1,2", "plane:1,2:random", "plane:a,b:random&random:1",
             "plane:1,2,3:random&random:1", "plane:nan,0:random&random:1", "plane:1,2:x&random"]
)  # fmt: skip
def test_malformed(word):
    with pytest.raises(bs.BasinscopeError, match="allowed:"):
        direction(word)
