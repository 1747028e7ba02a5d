"""Points that were measured in parts: the batches of a search for the edges, joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from basinscope.runs.spec import sha256
from basinscope.runs.store import Trial

COLUMNS = ("items", "correct", "labels", "margins", "nlls", "tokens")


def joined(trials: Iterable[Trial]) -> list[Trial]:
    """One trial for each task, direction, draw and step, in the order in which they first come.

    Records of parts of the items become the one that those items would have given together, in
    the task's order, which that of step 0 tells. One of all items stands alone.
    """
    points: dict[tuple[Any, ...], list[Trial]] = {}
    orders: dict[str, dict[str, int]] = {}
    for trial in trials:
        points.setdefault((trial.task, trial.direction, trial.draw, trial.step), []).append(trial)
        if trial.whole:
            orders.setdefault(trial.task, {item: n for n, item in enumerate(trial.items)})
    return [
        next((t for t in parts if t.whole), None) or _join(parts, orders.get(point[0], {}))
        for point, parts in points.items()
    ]


def _join(parts: Sequence[Trial], order: dict[str, int]) -> Trial:
    if len(parts) == 1:
        return parts[0]
    tokens = all(trial.tokens for trial in parts)
    by_item: dict[str, tuple[Any, ...]] = {}
    failed = set()
    for trial in parts:
        columns = [getattr(trial, name) for name in COLUMNS[: 6 if tokens else 5]]
        by_item |= {row[0]: row for row in zip(*columns, strict=True)}
        failed |= {trial.items[i] for i in trial.failed}
    # an order that is not known is that of the records
    rows = sorted(by_item.values(), key=lambda row: order.get(row[0], len(order)))
    values = dict(zip(COLUMNS, zip(*rows, strict=True), strict=False))
    first = parts[0]
    key = {name: value for name, value in first.key.items() if name != "items"}
    if len(rows) < first.key["task"]["n_items"]:
        key = {"items": list(values["items"]), **key}
    return first.model_copy(
        update={
            **values,
            "address": sha256(key),
            "key": key,
            "failed": tuple(i for i, row in enumerate(rows) if row[0] in failed),
        }
    )
