"""basinscope measures, certifies and widens the capability basins of language models.

See the README for the two commands to begin with, and the docstrings of the names below. The rest
is imported from its room: ``from basinscope.tasks import Choices``.

Importing the package loads none of its rooms; a name loads its room when it is first asked for.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

# torch's threads wait for each other by spinning, for so long that two of them on cores that others
# use come to a standstill; it is read when torch is loaded
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from basinscope.attack import attack as attack
    from basinscope.certify import Certificate as Certificate
    from basinscope.certify import certify as certify
    from basinscope.certify import strict_basin as strict_basin
    from basinscope.certify.smoothed import smoothed as smoothed
    from basinscope.check import check as check
    from basinscope.check import unchanged as unchanged
    from basinscope.comparison.compare import compare as compare
    from basinscope.directions import Adapter as Adapter
    from basinscope.directions import Merge as Merge
    from basinscope.directions import Pruned as Pruned
    from basinscope.directions import Quantised as Quantised
    from basinscope.directions import Random as Random
    from basinscope.directions import Saved as Saved
    from basinscope.directions import Toward as Toward
    from basinscope.directions import direction as direction
    from basinscope.engines import Engine as Engine
    from basinscope.engines import load as load
    from basinscope.errors import BasinscopeError as BasinscopeError
    from basinscope.finetuning import finetune as finetune
    from basinscope.folders import load_run as load_run
    from basinscope.geometries import geometry as geometry
    from basinscope.landscape import Landscape as Landscape
    from basinscope.landscape import landscape as landscape
    from basinscope.landscape.surface import surface as surface
    from basinscope.optim import GaussianAugmented as GaussianAugmented
    from basinscope.tasks import CallableTask as CallableTask
    from basinscope.tasks import tasks as tasks
    from basinscope.weights import normals as normals
    from basinscope.widening import widen as widen

    __version__: str

_NAMES = {
    "attack": ("attack",),
    "certify": ("Certificate", "certify", "smoothed", "strict_basin"),
    "check": ("check", "unchanged"),
    "comparison": ("compare",),
    "directions": (
        "Adapter", "Merge", "Pruned", "Quantised", "Random", "Saved", "Toward", "direction",
    ),
    "engines": ("Engine", "load"),
    "errors": ("BasinscopeError",),
    "finetuning": ("finetune",),
    "folders": ("load_run",),
    "geometries": ("geometry",),
    "landscape": ("Landscape", "landscape", "surface"),
    "optim": ("GaussianAugmented",),
    "tasks": ("CallableTask", "tasks"),
    "weights": ("normals",),
    "widening": ("widen",),
}  # fmt: skip
_ROOMS = {name: room for room, names in _NAMES.items() for name in names}

__all__ = sorted(_ROOMS)


class _Package(ModuleType):
    """This package: it finds a name in its room when it is first asked for.

    Five functions have the name of their room (``bs.landscape``): the name is the function's, and
    the room is reached by ``from basinscope.landscape import ...``.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            value: Any = _version()
        elif name in _ROOMS:
            value = getattr(import_module(f"basinscope.{_ROOMS[name]}"), name)
        else:
            raise AttributeError(f"module 'basinscope' has no attribute {name!r}", name=name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # the import system binds every room to its package
        if not (name in _ROOMS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("basinscope")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


sys.modules[__name__].__class__ = _Package
