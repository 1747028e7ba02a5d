"""The width of basins during somebody's training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError, typed
from basinscope.landscape.run import landscape
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of


class WidthCallback(TrainerCallback):  # type: ignore[misc]
    """Measures the width of basins every so many steps of a `transformers.Trainer`, and logs it.

    As ``basin/TASK/SIDE/width`` with ``low`` and ``high`` (see `Landscape.width`), for the sides +
    and - of zero along random directions (of several directions ``basin/TASK/DIRECTION/SIDE``),
    through ``trainer.log``: to the log history and wherever the trainer reports to. An end that is
    not bounded is not logged.

    Args:
        trainer: to whose log it goes; the callback is added to it by ``trainer.add_callback``.
        tasks: words or objects, as in `basinscope.tasks`.
        every: steps between two measurements; the first is before training.
        options: further arguments of `basinscope.landscape`, such as ``budget="1m"`` or ``draws``;
            a ``run`` is the folder of those of all steps.

    Guarantee: the weights, the trainer's random numbers and the module's mode are those of before,
    bit for bit. What the first measurement refuses is an error; what only a later one refuses, such
    as weights that have become infinite, is a warning, and training goes on. Of several processes
    the first alone measures, on a model that it holds whole.
    Cost: that of a search, `every` steps; default `budget`: 5 minutes.
    """

    @typed
    def __init__(
        self, trainer: Any, tasks: str | Task | Sequence[str | Task], *, every: int, **options: Any
    ) -> None:
        if every < 1:
            raise BasinscopeError(f"every={every}", "at least 1", "100")
        self.trainer, self.tasks = trainer, tasks_of(tasks)
        self.every, self.options, self.measured = every, options, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure before the first step."""
        if state.global_step == 0:
            self._measure(state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after every so many steps."""
        if state.global_step % self.every == 0:
            self._measure(state, control, **kwargs)

    def _measure(
        self, state: Any, control: Any, model: Any = None, processing_class: Any = None, **rest: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        should_log = control.should_log
        modes = {module: module.training for module in model.modules()}
        try:
            rows = self._widths(model, processing_class, f"step-{state.global_step}")
        except BasinscopeError as error:
            if not self.measured:
                raise
            warnings.warn(f"no width at step {state.global_step}: {error}", stacklevel=2)
            return
        finally:
            for module, training in modes.items():
                module.training = training
        self.measured = True
        several = len({row["direction"] for row in rows}) > 1
        for row in rows:
            along = f"/{row['direction']}" if several else ""
            side = f"basin/{row['task']}{along}/{'+' if row['sign'] > 0 else '-'}"
            ends = {f"{side}/{end}": row[end] for end in ("width", "low", "high")}
            if bounded := {end: value for end, value in ends.items() if math.isfinite(value)}:
                self.trainer.log(bounded)
        control.should_log = should_log  # which a log of one's own takes back

    def _widths(self, model: Any, tokenizer: Any, step: str) -> list[dict[str, Any]]:
        engine = load(model, tokenizer=tokenizer)
        engine.source, options = step, dict(self.options)
        if options.get("run") is not None:
            options["run"] = Path(options["run"]) / step
        rows: list[dict[str, Any]] = (
            landscape(engine, self.tasks, **options).widths().to_dict(orient="records")
        )
        return rows
