"""Tables behind the figures of a comparison: one line for each point that is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from basinscope.comparison.groups import Group
from basinscope.widening.rows import Basins, RowRecord, TrainingPoint

_SHARED = ("group", "size", "tokens", "label")


def frontier(groups: Sequence[Group]) -> pd.DataFrame:
    """Validation NLL and width of every row; ``family`` is the method without its sigma."""
    rows = []
    for group, label, seed, row in _rows(groups):
        width = row.estimate("score")
        if width is None:
            continue
        options = dict(row.method)
        sigma = options.pop("sigma", None)
        rows.append(
            _head(group, label) | {
                "panel": f"{group.size:,} parameters, equal {group.equal}",
                "family": str(sorted(options.items())), "sigma": sigma, "seed": seed,
                "reference": label == group.reference, "nll": row.nll,
                "width": width, "width_rms": row.in_rms("score"),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def curves(groups: Sequence[Group]) -> pd.DataFrame:
    """Score and NLL against alpha / RMS(theta): means over draws, where all draws were measured.

    Along each direction only the neighbourhood of its crossings is measured. A mean over those that
    happen to have a point would be that of another set at each step.
    """
    rows = []
    for group, label, seed, row in _rows(groups):
        if not row.curves or row.rms is None:
            continue
        rms = row.rms
        points = pd.DataFrame(list(row.curves), columns=["alpha", "draw", "score", "nll"])
        points["alpha_rms"] = (points["alpha"] / rms).map(lambda x: float(f"{x:.6g}"))
        draws = points["draw"].nunique()
        at_zero = {"alpha_rms": 0.0, "score": row.score, "nll": row.nll_at_zero}
        own = [at_zero] + [
            {"alpha_rms": x, "score": at["score"].mean(), "nll": at["nll"].mean(skipna=False)}
            for x, at in points.groupby("alpha_rms")
            if len(at) == draws
        ]
        rows += [_head(group, label) | {"seed": seed, "draws": draws} | one for one in own]
    return pd.DataFrame(rows)


def over_training(groups: Sequence[Group]) -> pd.DataFrame:
    """Width and NLL along training, the end included; nothing where only the end was measured."""
    rows = []
    for group, label, seed, row in _rows(groups):
        along = row.over_training
        if not along:
            continue
        points: list[TrainingPoint | RowRecord] = [*along]
        if row.width is not None and along[-1].tokens < row.tokens:
            points.append(row)
        for point in points:
            rows.append(_head(group, label) | {"seed": seed, "at_tokens": point.tokens,
                                               "nll": point.nll} | _widths(point))  # fmt: skip
    return pd.DataFrame(rows)


def scale(numbers: pd.DataFrame) -> pd.DataFrame:
    """Widths of the groups over size and over tokens; nothing for a single group."""
    wanted = numbers[numbers["quantity"].isin(["width", "width_rms"])]
    several = len(wanted[["size", "tokens", "equal"]].drop_duplicates()) > 1
    return wanted.reset_index(drop=True) if several else wanted.iloc[:0]


def forgetting(groups: Sequence[Group]) -> pd.DataFrame:
    """Fine-tuning curves; ``attrs["targets"]`` holds the targets of each group."""
    rows = []
    for group, label, seed, row in _rows(groups):
        start = row.finetune[0].old_nll if row.finetune else None
        for point in row.finetune if start is not None else ():
            if start is not None and point.new_nll is not None and point.old_nll is not None:
                rows.append(
                    _head(group, label) | {
                        "seed": seed, "step": point.step, "new_nll": point.new_nll,
                        "old_nll": point.old_nll, "forgetting": point.old_nll - start,
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs["targets"] = {group.title: dict(group.targets) for group in groups}
    return table


def _rows(groups: Sequence[Group]) -> Iterator[tuple[Group, str, int, RowRecord]]:
    for group in groups:
        for label, seeds in group.rows.items():
            for seed, row in seeds.items():
                yield group, label, seed, row


def _head(group: Group, label: str) -> dict[str, Any]:
    return dict(zip(_SHARED, (group.title, group.size, group.tokens, label), strict=True))


def _widths(point: Basins) -> dict[str, float | None]:
    return {
        "width": point.estimate("score"), "width_rms": point.in_rms("score"),
        "nll_width": point.estimate("nll"), "nll_width_rms": point.in_rms("nll"),
    }  # fmt: skip
