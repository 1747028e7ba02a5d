"""Figures sent to an experiment tracker."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from basinscope import points
from basinscope.errors import BasinscopeError, nearest, printable, typed

TRACKERS = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""Trackers by their word, and the package that pip installs."""

PROJECT = "basinscope"


def check_tracker(word: str) -> None:
    """Refuse a tracker that is unknown or not installed."""
    if word not in TRACKERS:
        raise BasinscopeError(f"tracker {word!r}", ", ".join(TRACKERS), nearest(word, TRACKERS))
    if find_spec(word) is None:
        raise BasinscopeError(
            f"tracker {word!r} is not installed", "one that is", f"pip install {TRACKERS[word]}"
        )


@contextmanager
@typed
def track(word: str, name: str, config: Mapping[str, str] | None = None) -> Iterator[None]:
    """Send what is measured and trained in the body to a tracker, point by point.

    A trial is sent as ``TASK/DIRECTION/alpha``, ``.../draw`` and ``.../score``, a training step as
    ``loss``, a step of an attack as ``radius`` and ``loss``.

    Args:
        word: trackio, wandb or mlflow. Each is set up by its own variables (``TRACKIO_DIR``,
            ``WANDB_MODE``, ``MLFLOW_TRACKING_URI``). The project, or experiment, is ``basinscope``
            unless ``TRACKIO_PROJECT``, ``WANDB_PROJECT`` or ``MLFLOW_EXPERIMENT_NAME`` names it.
        name: of the tracker's run.
        config: what the tracker keeps with the run.

    Raises:
        BasinscopeError: a tracker that is unknown, not installed, or does not start.

    Guarantee: no record changes, and a tracker that fails while it runs takes nothing with it: it
    is said once, and the rest is not sent. In a distributed run the first process alone sends.
    """
    check_tracker(word)
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    tracker = _Tracker(word, name, config or {})
    try:
        with points.heard_by(tracker.send):
            yield
    finally:
        tracker.finish()


class _Tracker:
    """A tracker's run; what the tracker itself says goes to standard error."""

    def __init__(self, word: str, name: str, config: Mapping[str, str]) -> None:
        self.word, self.failed, self.sent = word, False, 0
        library, name = import_module(word), printable(name)
        try:
            with redirect_stdout(sys.stderr):
                if word == "mlflow":
                    library.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
                    library.start_run(run_name=name)
                    library.log_params(dict(config))
                    self._log, self._finish = library.log_metrics, library.end_run
                else:  # whose functions are the same
                    project = os.environ.get(f"{word.upper()}_PROJECT", PROJECT)
                    run = library.init(project=project, name=name, config=dict(config))
                    self._log, self._finish = run.log, run.finish
        except Exception as error:
            raise BasinscopeError(
                f"{word} does not start: {_line(error)}", "one that starts", f"{word}'s own help"
            ) from error

    def send(self, figures: Mapping[str, float], step: int | None) -> None:
        finite = {
            re.sub(r"[^\w\-./ ]", "_", key): float(value)
            for key, value in figures.items()
            if math.isfinite(value)
        }
        if self.failed or not finite:
            return
        self.sent += 1
        self._try(lambda: self._log(finite, step=self.sent if step is None else step))

    def finish(self) -> None:
        if not self.failed:
            self._try(self._finish)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            with redirect_stdout(sys.stderr):
                call()
        except Exception as error:  # whatever it is, what is measured goes on
            if not self.failed:
                sys.stderr.write(f"{self.word}: {_line(error)}; no more is sent to it\n")
            self.failed = True


def _line(error: Exception) -> str:
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def rows(answer: Mapping[str, Any], path: Sequence[str] = ()) -> Iterator[dict[str, float]]:
    """Figures of a JSON object, a point for each object in it.

    A figure's name is the way to it: keys, and the texts that stand beside it.

    >>> list(rows({"d": 3, "widths": [{"task": "basic", "low": 0.1, "high": None}]}))
    [{'d': 3}, {'widths/basic/low': 0.1}]
    """
    figures = {
        "/".join((*path, key)): value
        for key, value in answer.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if figures:
        yield figures
    for key, value in answer.items():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, Mapping):
                texts = [text for text in one.values() if isinstance(text, str)]
                yield from rows(one, (*path, key, *texts))
