"""From a word or an object to the engine that a run needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from basinscope.engines.base import Engine
from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError
from basinscope.runs import header
from basinscope.runs.spec import RunSpec
from basinscope.runs.store import OWN, Store

Model = str | Path | nn.Module | Engine
"""What every public function takes for a model: a word of `basinscope.load`, or an object."""


def engine_of(
    model: Model,
    run: str | Path | None = None,
    *,
    kind: str = "landscape",
    dtype: str = "auto",
    **options: Any,
) -> Engine:
    """The engine itself; a word or a module is loaded, once the run folder is known to be free.

    A run keeps its dtype: with ``auto``, a model named by a word is loaded in the dtype that the
    run folder was begun in.

    Args:
        model: word, module or engine.
        run: run folder.
        kind: of the run, as its header says it.
        dtype: as in `basinscope.load`.
        options: as in `basinscope.load`.

    Raises:
        BasinscopeError: as `check_folder` and `basinscope.load`.
    """
    if isinstance(model, Engine):
        return model
    begun = None if run is None else check_folder(run, kind)
    if not isinstance(model, str | Path | nn.Module):
        raise BasinscopeError(
            f"a model of type {type(model).__name__}",
            "an alias, a hub id, a folder, a .gguf file, an nn.Module or an engine",
            "smollm2",
        )
    if dtype == "auto" and begun is not None and not isinstance(model, nn.Module):
        dtype = begun.model.dtype
    return load(model, dtype=dtype, **options)


def check_folder(run: str | Path, kind: str) -> RunSpec | None:
    """Refuse a folder that a run could not be kept in; give the spec that it was begun with.

    Args:
        run: run folder; need not be there.
        kind: of `header.KINDS`.

    Raises:
        BasinscopeError: a folder of something else, or of another kind of run, or one that cannot
            be written to.
    """
    folder, begun = Path(run), None
    file = folder / header.KINDS[kind].header
    if not header.exists(file) or header.kind_of(folder) != kind:
        header.check_free(folder, kind, OWN)
    elif file.name == "run.json":
        begun = Store(folder).spec
    if begun is not None:  # what is finished is only read
        return begun
    place = folder.absolute()
    while not header.exists(place):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "is not writable" if place.is_dir() else "is a file"
        raise BasinscopeError(
            f"cannot write to {folder} ({place} {why})",
            "a folder that can be written",
            "another --run",
        )
    return None
