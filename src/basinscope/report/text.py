"""Results as text: the table on the screen and the object of ``--json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from basinscope.errors import printable
from basinscope.landscape.failures import failures
from basinscope.landscape.readouts import nll_sigmas, visages
from basinscope.report.sections import attempt

if TYPE_CHECKING:
    import pandas as pd

    from basinscope.landscape import Landscape
    from basinscope.landscape.surface import Surface


def widths_table(run: Landscape, level: float = 0.5) -> Table:
    """Task, chance, score at zero, and the width on each side, in alpha and in alpha/RMS."""
    table = Table(title=f"Basin half-width at level {level:g} (95% intervals)", title_style="bold")
    for name in ("task", "chance", "score at zero", "side", "draws", "alpha", "alpha/RMS"):
        table.add_column(name, justify="left" if name in ("task", "side") else "right")
    for row in run.widths(level=level).itertuples():
        table.add_row(
            Text(printable(row.task)),
            f"{row.chance:.2f}",
            Text(f"{row.score:.2f} [{row.score_low:.2f}, {row.score_high:.2f}]"),
            Text(printable(f"{row.direction} {side(row.sign)}")),
            str(row.draws),
            Text(_interval(row.width, row.low, row.high)),
            Text(_interval(row.width_rms, row.low_rms, row.high_rms)),
        )
    return table


def notes(run: Landscape, level: float = 0.5) -> list[str]:
    """What the table cannot say: missing widths, items without answers, where other models sit."""
    rows = run.widths(level=level)
    lines = [
        f"{' '.join(filter(None, (row.task, row.direction, side(row.sign))))}: {row.reason}"
        for row in rows.itertuples()
        if row.reason
    ]
    lines += _reached(run) + _risen(run)
    lines += failures(run)
    lines += [
        f"{label}: the other model itself sits at alpha = {run.sits_at(label):.4g} "
        f"(||theta' - theta0|| = {norm:.4g})"
        for label, norm in run.spec.displacements.items()
    ]
    lines += [f"set aside, not believed: {reason}" for reason in run.set_aside]
    return list(dict.fromkeys(lines))


def _reached(run: Landscape) -> list[str]:
    """How wide the intervals of a crossed design have become."""
    means, lines = run.means(), []
    for (task, direction), curve in means[means.draws > 1].groupby(["task", "direction"]):
        if run.crossed(task, direction):
            half = (curve.high - curve.low) / 2
            lines.append(
                f"{task} along {direction}: {curve.draws.min()} to {curve.draws.max()} draws at a "
                f"step, intervals of ±{half.min():.3f} to ±{half.max():.3f}"
            )
    return lines


def _risen(run: Landscape) -> list[str]:
    """Tasks whose mean score rises above that at zero, tested over all their points at once."""
    return [
        f"{row.task}: better under noise than at zero, {row.score:.3f} along {row.direction} at "
        f"{row.step:g} against {row.score_at_zero:.3f} (a rise of {row.rise:.3f}, at least "
        f"{row.low:.3f} at 95% confidence, p <= {row.p_value:.2g} over all {row.points} points): "
        "a sign of sandbagging, or of luck at zero"
        for row in run.rises().itertuples()
        if row.low > 0
    ]


def summary(run: Landscape, level: float = 0.5) -> dict[str, Any]:
    """Everything the table shows, as JSON: infinite and undefined numbers are null.

    A table that cannot be made is empty, and ``missing`` says why.
    """
    model = run.spec.model
    missing: list[str] = []

    def rows(name: str, make: Callable[[], pd.DataFrame]) -> list[dict[str, Any]]:
        table = attempt(name, make, missing)
        records = [] if table is None else table.to_dict(orient="records")
        return [{str(key): _json(value) for key, value in row.items()} for row in records]

    return {
        "model": model.source,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "d": model.d,
        "rms": model.rms,
        "level": level,
        "trials": len(run.trials),
        "set_aside": list(run.set_aside),
        "failures": failures(run),
        "displacements": run.spec.displacements,
        "widths": rows("the table of widths", lambda: run.widths(level=level)),
        "means": rows("the table of scores", run.means),
        "likelihood": rows("the likelihood", run.likelihood),
        "spread": rows("the spread of widths", lambda: run.spread(level=level)),
        "rises": rows("the rises above zero", run.rises),
        "visage": rows("VISAGE", lambda: visages(run)),
        "nll_1pct_sigma": rows("the sigma of the likelihood", lambda: nll_sigmas(run)),
        "missing": missing,
    }


def surface_summary(surface: Surface) -> dict[str, Any]:
    """A surface as JSON."""
    model, plane = surface.spec.model, surface.plane
    return {
        "model": model.source,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "d": model.d,
        "rms": model.rms,
        "x": plane.x,
        "y": plane.y,
        "cosine": plane.cosine,
        "trials": len(surface.trials),
        "set_aside": list(surface.set_aside),
        "points": surface.to_pandas().to_dict(orient="records"),
    }


def side(sign: int) -> str:
    """Which side of zero; nothing where only zero itself was measured."""
    return {1: "+", -1: "-"}.get(sign, "")


def _interval(estimate: float, low: float, high: float) -> str:
    """Estimate with its ends; ``?`` where there is none, which the notes explain."""
    if math.isnan(estimate) and math.isnan(low):
        return "-"
    return f"{_number(estimate)} [{_number(low)}, {_number(high)}]"


def _number(x: float) -> str:
    return f"{x:.3g}" if math.isfinite(x) else "?"


def _json(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def collapse_table(rows: Sequence[Mapping[str, Any]], level: float) -> Table:
    """Brackets of collapse radii, as rows of `basinscope.Attack.summary` have them."""
    table = Table(title=f"Collapse radius at level {level:g}", title_style="bold")
    for name in ("task", "score at zero", "side", "alpha", "norm", "alpha/RMS"):
        table.add_column(name, justify="left" if name in ("task", "side") else "right")
    for row in rows:
        table.add_row(
            Text(printable(row["task"])),
            f"{row['score']:.3g} ({row['n_items']})",
            "+" if row["sign"] > 0 else "-",
            *(Text(_bracket(row[f"{unit}_low"], row[f"{unit}_high"]))
              for unit in ("alpha", "norm", "rms")),
        )  # fmt: skip
    return table


def _bracket(low: float | None, high: float | None) -> str:
    if high is None:
        return "-" if low is None else f"> {low:.4g}"
    return f"[{low:.4g}, {high:.4g}]"
