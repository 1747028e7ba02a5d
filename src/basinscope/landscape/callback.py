"""The width of basins during somebody's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError, typed
from basinscope.landscape.run import landscape
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of


class WidthCallback(TrainerCallback):  # type: ignore[misc]
    """Measures the width of basins every so many steps of a `transformers.Trainer`, and logs it.

    As ``basin/TASK/SIDE/width`` with ``low`` and ``high`` (see `Landscape.width`), for the sides +
    and - of zero along random directions, through ``trainer.log``: to the log history and wherever
    the trainer reports to. An end that is not bounded is not logged.

    Args:
        trainer: to whose log it goes; the callback is added to it by ``trainer.add_callback``.
        tasks: words or objects, as in `basinscope.tasks`.
        every: steps between two measurements; the first is before training.
        options: further arguments of `basinscope.landscape`, such as ``budget="1m"`` or ``draws``.

    Guarantee: the weights, the trainer's random numbers and the module's mode are those of before,
    bit for bit. Of several processes the first alone measures, on a model that it holds whole.
    Cost: that of a search, `every` steps; default `budget`: 5 minutes.
    """

    @typed
    def __init__(
        self, trainer: Any, tasks: str | Task | Sequence[str | Task], *, every: int, **options: Any
    ) -> None:
        if every < 1:
            raise BasinscopeError(f"every={every}", "at least 1", "100")
        self.trainer, self.tasks = trainer, tasks_of(tasks)
        self.every, self.options = every, options

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
        engine = TransformersEngine(model, processing_class, source=f"step-{state.global_step}")
        land = landscape(engine, self.tasks, **self.options)
        for module, training in modes.items():
            module.training = training
        for row in land.widths().to_dict(orient="records"):
            side = f"basin/{row['task']}/{'+' if row['sign'] > 0 else '-'}"
            ends = {f"{side}/{end}": row[end] for end in ("width", "low", "high")}
            if bounded := {end: value for end, value in ends.items() if math.isfinite(value)}:
                self.trainer.log(bounded)
        control.should_log = should_log  # which a log of one's own takes back
