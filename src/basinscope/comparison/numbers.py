"""Every number of the comparison, with an interval over seeds or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from basinscope.comparison.groups import Group
from basinscope.comparison.matched import SHARES, arrival
from basinscope.stats import Interval, paired_ratio, student
from basinscope.widening.rows import Loss, RowRecord, TuningPoint

Read = Callable[[RowRecord], tuple[float, str]]
"""A number of one row, or NaN and the reason."""


@dataclass(frozen=True)
class Number:
    """One number of one method.

    Attributes:
        label: of the method.
        quantity: what it is; docs/how-to/comparison.md lists them.
        n: seeds behind it.
        interval: estimate and interval over seeds; NaN with a reason.
    """

    label: str
    quantity: str
    n: int
    interval: Interval


def numbers(group: Group, confidence: float) -> list[Number]:
    """Absolute numbers of each method, and those relative to the reference, paired by seed."""
    absolute = _absolute(group)
    relative = {f"{name}_ratio": absolute[name] for name in _RATIOS}
    relative["step_cost"] = absolute["step_s"]
    all_numbers = []
    for label, seeds in group.rows.items():
        for name, read in absolute.items():
            all_numbers.append(Number(label, name, len(seeds), _mean(seeds, read, confidence)))
        for name, read in relative.items():
            n, ratio = _against(group, label, read, confidence)
            all_numbers.append(Number(label, name, n, ratio))
        for share in SHARES:
            n, ratio = _against(group, label, absolute[_at("forgetting", share)], confidence)
            all_numbers.append(Number(label, _at("reduction", share), n, _less(ratio)))
    return all_numbers


_RATIOS = ("nll", "width", "width_rms", "nll_width", "nll_width_rms")


def _absolute(group: Group) -> dict[str, Read]:
    """How each number is read from a row."""
    reads: dict[str, Read] = {
        name: _field(name) for name in ("nll", "score", "rms", "passes", "tokens", "step_s",
                                        "train_s")
    }  # fmt: skip
    losses: tuple[tuple[str, Loss], ...] = (("width", "score"), ("nll_width", "nll"))
    for name, loss in losses:
        reads[name] = _width(loss, lambda row: 1.0)
        reads[f"{name}_rms"] = _width(loss, lambda row: row.rms)
    for tensors in _tensor_groups(group):
        reads[f"width_rms:{tensors}"] = _width("score", partial(_rms_of, tensors))
    reads["new_nll_before"] = _tuned(lambda curve: (curve[0].new_nll, ""))
    reads["new_nll_best"] = _tuned(_least)
    for share in SHARES:
        reads[_at("forgetting", share)] = _forgotten(group, share, "forgetting")
        reads[_at("old_nll", share)] = _forgotten(group, share, "old_nll")
        reads[_at("tuning_steps", share)] = _forgotten(group, share, "step")
    return reads


def _rms_of(tensors: str, row: RowRecord) -> float | None:
    return None if row.rms_of is None else row.rms_of[tensors]


def _at(name: str, share: float) -> str:
    """Name of a quantity at a share of the reference's new-task gain, in percent."""
    return f"{name}_{100 * share:.0f}"


def _field(name: str) -> Read:
    def read(row: RowRecord) -> tuple[float, str]:
        return _number(getattr(row, name), row, f"no {name}")

    return read


def _width(loss: Loss, scale: Callable[[RowRecord], float | None]) -> Read:
    def read(row: RowRecord) -> tuple[float, str]:
        if row.width is None:
            return _number(None, row, "no width")
        value, reason = _number(row.width[loss].estimate, row, row.width[loss].reason)
        unit = scale(row)
        return (value / unit, reason) if unit else (math.nan, "weights that are all zero")

    return read


def _tuned(of: Callable[[Sequence[TuningPoint]], tuple[float | None, str]]) -> Read:
    def read(row: RowRecord) -> tuple[float, str]:
        if not row.finetune:
            return _number(None, row, "it was not fine-tuned")
        value, reason = of(row.finetune)
        return _number(value, row, reason or "not finite")

    return read


def _least(curve: Sequence[TuningPoint]) -> tuple[float | None, str]:
    seen = [point.new_nll for point in curve if point.new_nll is not None]
    return (min(seen), "") if seen else (None, "not finite")


def _forgotten(group: Group, share: float, field: str) -> Read:
    def read(row: RowRecord) -> tuple[float, str]:
        if share not in group.targets:
            return math.nan, "no target: the reference gained nothing, or is not there"
        if not row.finetune:
            return _number(None, row, "it was not fine-tuned")
        there = arrival(row.finetune, group.targets[share])
        return float(getattr(there, field)), there.reason

    return read


def _number(value: float | None, row: RowRecord, reason: str) -> tuple[float, str]:
    """A number of a row; where there is none, why the row has ended or ``reason``."""
    if value is not None and math.isfinite(value):
        return float(value), ""
    if row.state == "trained":
        reason = "not finished yet"
    return math.nan, row.stopped or reason


def _tensor_groups(group: Group) -> list[str]:
    rows = [row for seeds in group.rows.values() for row in seeds.values()]
    every = [set(row.rms_of) for row in rows if row.rms_of]
    return sorted(set.intersection(*every)) if every else []


def _mean(seeds: Mapping[int, RowRecord], read: Read, confidence: float) -> Interval:
    """Student's interval over seeds; no number unless every seed has one: those left look good."""
    values = {seed: read(row) for seed, row in seeds.items()}
    return _missing(values, confidence) or student([v for v, _ in values.values()], confidence)


def _against(group: Group, label: str, read: Read, confidence: float) -> tuple[int, Interval]:
    """The ratio to the reference over the seeds of both."""
    ours, theirs = group.rows[label], group.rows.get(group.reference, {})
    common = [seed for seed in ours if seed in theirs]
    if not common:
        reason = "no seed in common with the reference" if theirs else "no reference"
        return 0, Interval(math.nan, math.nan, math.nan, confidence, reason)
    mine = {seed: read(ours[seed]) for seed in common}
    base = {seed: read(theirs[seed]) for seed in common}
    gap = _missing(mine, confidence) or _missing(base, confidence, "the reference, ")
    if gap is not None:
        return len(common), gap
    divisor = [v for v, _ in base.values()]
    if sum(divisor) <= 0:
        reason = "the reference's mean is not above 0: nothing to divide by"
        return len(common), Interval(math.nan, math.nan, math.nan, confidence, reason)
    return len(common), paired_ratio([v for v, _ in mine.values()], divisor, confidence)


def _missing(
    values: Mapping[int, tuple[float, str]], confidence: float, whose: str = ""
) -> Interval | None:
    lost = {seed: reason for seed, (value, reason) in values.items() if not math.isfinite(value)}
    if not lost:
        return None
    seed, reason = next(iter(lost.items()))
    more = f" ({len(lost)} of {len(values)} seeds)" if len(values) > 1 else ""
    reason = f"{whose}seed {seed}: {reason}{more}"
    return Interval(math.nan, math.nan, math.nan, confidence, reason)


def _less(ratio: Interval) -> Interval:
    """One minus a ratio."""
    return Interval(
        1 - ratio.high, 1 - ratio.estimate, 1 - ratio.low, ratio.confidence, ratio.reason
    )
