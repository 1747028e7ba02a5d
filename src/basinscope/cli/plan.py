"""What a command says before it starts, and all that it does with --dry-run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from basinscope.cli.app import print_json, say

if TYPE_CHECKING:
    from basinscope.engines.base import Engine
    from basinscope.runs.cost import Setting
    from basinscope.runs.forecast import Forecast
    from basinscope.tasks.base import Task

PROBE_S, DRY_RUN_PROBE_S = 3.0, 24.0


def forecast_of(
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


def line_of(forecast: Forecast, *, searched: bool = False) -> str:
    """The plan in a line."""
    settings, evaluations = forecast.settings, forecast.evaluations
    if searched:
        plan = (
            f"the edges are searched: roughly {settings} settings of the weights and "
            f"{evaluations:,} evaluations"
        )
    else:
        items = evaluations // settings
        plan = f"{settings} settings of the weights x {items} items = {evaluations:,} evaluations"
    return f"{plan}, {forecast}"


def show(forecast: Forecast, *, searched: bool = False, as_json: bool) -> None:
    """Print the plan."""
    if as_json:
        print_json({**forecast.to_json(), "searched": searched})
    else:
        say(line_of(forecast, searched=searched))
