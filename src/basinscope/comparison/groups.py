"""Rows of several run folders, sorted into groups within which methods may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basinscope.comparison.matched import targets
from basinscope.errors import BasinscopeError, nearest
from basinscope.widening import record
from basinscope.widening.rows import RowRecord

_HARMLESS = ("checkpoint_every", "measure.over_training", "measure.over_draws")
"""Settings of a recipe that change no number that is compared."""

REFERENCE = "adamw"
"""The method that the others are compared with, as a recipe sets it: no option, no override."""


@dataclass(frozen=True)
class Group:
    """Rows of studies that agree in all but methods and seeds.

    Attributes:
        size: parameters.
        tokens: that plain ``adamw`` was trained on (without it: the first method).
        equal: what the methods had the same of: tokens, passes or wall.
        rows: label -> seed -> record of the row (docs/how-to/widen.md).
        reference: label of the reference; empty without one.
        targets: new-task NLL at which forgetting is read, by share; empty without a reference.
    """

    size: int
    tokens: int
    equal: str
    rows: Mapping[str, Mapping[int, RowRecord]]
    reference: str
    targets: Mapping[float, float]

    @property
    def title(self) -> str:
        """In words, for tables and figures."""
        return f"{self.size:,} parameters, {self.tokens:,} tokens, equal {self.equal}"


def read_groups(folders: Sequence[Path], reference: str | None = None) -> tuple[Group, ...]:
    """Groups of the rows in run folders, by size, tokens and what was equal.

    Args:
        folders: of runs.
        reference: label of the reference, in the groups that have it; None for `REFERENCE`.

    Raises:
        BasinscopeError: a folder without a study; no rows at all; one label for two methods; a
            reference that is in no group.
    """
    if not folders:
        raise BasinscopeError("no run folder", "run folders of widen", "what --run named")
    studies: dict[str, tuple[dict[str, Any], dict[str, dict[int, RowRecord]]]] = {}
    for folder in folders:
        rows = record.rows(folder)
        spec = record.read_header(folder).spec
        key = _key(spec)
        _, by_label = studies.setdefault(key, (spec, {}))
        for row in rows:
            _add(by_label.setdefault(row.label, {}), row, folder)
    groups = [_group(spec, by_label, reference) for spec, by_label in studies.values() if by_label]
    if not groups:
        raise BasinscopeError(
            f"no rows in {', '.join(str(f) for f in folders)}",
            "a folder with a row whose training is done",
            "run basinscope widen again: it goes on where it stopped",
        )
    if reference is not None and not any(group.reference for group in groups):
        labels = sorted({label for group in groups for label in group.rows})
        raise BasinscopeError(
            f"no method {reference!r}", ", ".join(labels), nearest(reference, labels)
        )
    return tuple(sorted(groups, key=lambda g: (g.equal, g.size, g.tokens)))


def _key(spec: Mapping[str, Any]) -> str:
    # a setting of None is one that studies begun before it was known lack
    recipe = {k: v for k, v in spec["recipe"].items() if k not in _HARMLESS and v is not None}
    texts = {k: v for k, v in spec.items() if k.startswith("text") and v is not None}
    return json.dumps([recipe, texts], sort_keys=True)


def _add(seeds: dict[int, RowRecord], row: RowRecord, folder: Path) -> None:
    """Take a row in; of one that lies in two folders, the further one."""
    for other in seeds.values():
        if other.method != row.method:
            raise BasinscopeError(
                f"two methods are called {row.label!r}: {other.method} and, in {folder}, "
                f"{row.method}",
                "one method for a label",
                "compare the folders one by one, or change a label",
            )
    held = seeds.get(row.seed)
    if held is None or (held.state == "trained" and row.state != "trained"):
        seeds[row.seed] = row


def _group(
    spec: Mapping[str, Any],
    by_label: Mapping[str, Mapping[int, RowRecord]],
    reference: str | None,
) -> Group:
    plain = next(
        (
            label
            for label, seeds in by_label.items()
            if next(iter(seeds.values())).method == {"name": REFERENCE}
        ),
        "",
    )
    first = by_label[plain] if plain else next(iter(by_label.values()))
    if reference is None:
        reference = plain
    elif reference not in by_label:
        reference = ""
    curves = [row.finetune for row in by_label.get(reference, {}).values()]
    row = next(iter(first.values()))
    return Group(
        size=row.size,
        tokens=max(row.tokens for row in first.values()),
        equal=spec["recipe"].get("equal", "tokens"),
        rows={label: dict(sorted(seeds.items())) for label, seeds in by_label.items()},
        reference=reference,
        targets=targets(curves),
    )
