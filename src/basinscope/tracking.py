"""Figures sent to an experiment tracker."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import Context
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from basinscope import points
from basinscope.errors import BasinscopeError, nearest, printable, typed

TRACKERS = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""Trackers by their word, and the package that pip installs."""

PROJECT = "basinscope"
LONGEST_NAME = 128  # characters of a run's name; W&B takes no more
LONGEST_VALUE = 2000  # of what is kept with it,
LONGEST_KEY = 250  # of a figure's name, and
AT_ONCE = 1000  # figures of one point: MLflow takes no more
LABELS = ("task", "direction", "tuned", "kind", "of", "title", "label", "unit", "item")
"""Keys of a table whose texts say which row it is; other texts are reasons and remarks."""


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
        name: of the tracker's run; of a long one the end.
        config: what the tracker keeps with the run.

    Raises:
        BasinscopeError: a tracker that is unknown, not installed, or does not start.

    Guarantee: no record changes, and a tracker that fails while it runs takes nothing with it: it
    is said once, and the rest is not sent. A run of yours that is open there stays open and gets
    none of it. After an exception W&B and MLflow call the run failed. In a distributed run the
    first process alone sends.
    """
    check_tracker(word)
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    tracker, failed = _Tracker(word, name, config or {}), False
    try:
        with points.heard_by(tracker.send):
            yield
    except BaseException as error:
        failed = not isinstance(error, SystemExit)  # by which a gate says that something is lost
        raise
    finally:
        tracker.finish(failed)


class _Tracker:
    """A tracker's run; what the tracker itself says goes to standard error."""

    def __init__(self, word: str, name: str, config: Mapping[str, str]) -> None:
        self.word, self.failed, self.sent = word, False, 0
        name = printable(name)[-LONGEST_NAME:]
        try:
            with redirect_stdout(sys.stderr):
                start = _in_mlflow if word == "mlflow" else _in_wandb_or_trackio
                short = {key: str(value)[:LONGEST_VALUE] for key, value in config.items()}
                self._log, self._finish = start(word, name, short)
        except Exception as error:
            advice = f"{word}'s own help"
            if word == "mlflow":
                advice = "pip install mlflow, for a local store, or MLFLOW_TRACKING_URI of a server"
            raise BasinscopeError(
                f"{word} does not start: {_line(error)}", "one that starts", advice
            ) from error

    def send(self, figures: Mapping[str, float], step: int | None) -> None:
        finite = [
            (_key(key), float(value)) for key, value in figures.items() if math.isfinite(value)
        ]
        for a in range(0, len(finite), AT_ONCE):
            if self.failed:
                return
            self.sent += 1
            at = self.sent if step is None else step
            self._try(partial(self._log, dict(finite[a : a + AT_ONCE]), step=at))

    def finish(self, failed: bool) -> None:
        if not self.failed:
            self._try(partial(self._finish, failed))

    def _try(self, call: Callable[[], object]) -> None:
        try:
            with redirect_stdout(sys.stderr):
                call()
        except Exception as error:  # whatever it is, what is measured goes on
            if not self.failed:
                sys.stderr.write(f"{self.word}: {_line(error)}; no more is sent to it\n")
            self.failed = True


Started = tuple[Callable[..., object], Callable[[bool], object]]
"""What a run that was started is sent figures by, and ended by."""


def _in_mlflow(word: str, name: str, config: dict[str, str]) -> Started:
    library = import_module(word)
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    there = library.get_experiment_by_name(project)
    experiment = there.experiment_id if there else library.create_experiment(project)
    # set_experiment would be that of the user's next run too, and log_metrics goes to the latest
    run = library.start_run(experiment_id=experiment, run_name=name, nested=True)
    library.log_params(config)
    return (
        partial(library.log_metrics, run_id=run.info.run_id),
        lambda failed: library.end_run("FAILED" if failed else "FINISHED"),
    )


def _in_wandb_or_trackio(word: str, name: str, config: dict[str, str]) -> Started:
    project = os.environ.get(f"{word.upper()}_PROJECT", PROJECT)
    options = {"reinit": "create_new"} if word == "wandb" else {}
    # trackio ends the run that its context holds; in a context of its own there is none
    init = partial(import_module(word).init, project=project, name=name, config=config, **options)
    run = Context().run(init)
    if word == "wandb":
        return run.log, lambda failed: run.finish(exit_code=int(failed))
    return run.log, lambda failed: run.finish()


def _key(name: str) -> str:
    """A figure's name as all trackers take it: to MLflow it is a path, and in its plainest form."""
    parts = re.sub(r"[^\w\-./ ]", "_", name).split("/")
    plain = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return plain if len(plain) <= LONGEST_KEY else f"{plain[:125]}_{plain[-124:]}"


def _line(error: Exception) -> str:
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def rows(answer: Mapping[str, Any], path: Sequence[str] = ()) -> Iterator[dict[str, float]]:
    """Figures of a JSON object, a point for each object in it.

    A figure's name is the way to it: keys, and the labels that stand beside it.

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
                labels = [one[label] for label in LABELS if isinstance(one.get(label), str)]
                yield from rows(one, (*path, key, *labels))
