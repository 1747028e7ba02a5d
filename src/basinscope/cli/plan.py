"""What a command says before it starts, and all that it does with --dry-run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from basinscope.cli.app import print_json

if TYPE_CHECKING:
    from basinscope.engines.base import Engine
    from basinscope.runs.cost import Setting
    from basinscope.runs.forecast import Forecast
    from basinscope.tasks.base import Task

PROBE_S, DRY_RUN_PROBE_S = 3.0, 24.0


def foretell(
    engine: Engine,
    tasks: Sequence[Task],
    settings: Sequence[Setting],
    *,
    workers: int | None,
    dry_run: bool,
    points: int | None = None,
    items: int | None = None,
    answers: int | None = None,
) -> Forecast:
    """Forecast of a command's plan; a worker will load what this process has loaded."""
    from basinscope.runs.forecast import forecast

    return forecast(
        engine, tasks, settings, points=points, items=items, answers=answers,
        workers=workers,
        probe_s=DRY_RUN_PROBE_S if dry_run else PROBE_S, start_s=time.process_time(),
    )  # fmt: skip


def line_of(told: Forecast, *, searched: bool = False) -> str:
    """The plan in a line."""
    if searched:
        what = (
            f"the edges are searched: roughly {told.settings} settings of the weights and "
            f"{told.evaluations:,} evaluations"
        )
    else:
        items = told.evaluations // told.settings
        what = f"{told.settings} settings of the weights x {items} items = "
        what += f"{told.evaluations:,} evaluations"
    return f"{what}, {told}"


def show(told: Forecast, *, searched: bool = False, as_json: bool) -> None:
    """Print the plan."""
    if as_json:
        print_json({**told.to_json(), "searched": searched})
    else:
        print(line_of(told, searched=searched))
