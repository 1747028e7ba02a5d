"""What commands share: which tasks are scored, how a model is loaded, where a run goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from basinscope.errors import BasinscopeError, nearest

if TYPE_CHECKING:
    from basinscope.directions.base import Direction
    from basinscope.engines.base import Engine
    from basinscope.tasks.base import Task


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


LOAD: dict[str, Callable[[str], Any]] = {
    "params": str,
    "trust_remote_code": _flag,
    "revision": str,
    "device_map": str,
    "attn_implementation": str,
    "token_budget": int,
}
"""Arguments of `basinscope.load` that ``--load`` takes."""


def pairs(
    option: str, words: Sequence[str] | None, readers: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Keyword arguments given as ``KEY=VALUE``.

    Raises:
        BasinscopeError: a key that is none of them, or a value that its reader refuses.
    """
    chosen = {}
    for word in words or ():
        key, _, text = word.partition("=")
        try:
            chosen[key] = readers[key](text)
        except (KeyError, ValueError):
            raise BasinscopeError(
                f"{option} {word}",
                f"KEY=VALUE with {', '.join(readers)}",
                f"another value of {key}" if key in readers else nearest(key, readers),
            ) from None
    return chosen


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Which tasks are scored."""

    tasks: Annotated[str, Parameter(name=["--tasks", "-t"])] = "mini"
    """mini (basic, math, code, safety), one of these, overrefusal, mmlu, mmlu:SUBJECT, mmlu-gen,
    gsm8k, gsm8k-flexible, either with -chat, advbench, advbench-substring, xstest, xstest-unsafe,
    humaneval, humaneval-instruct, lm-eval:NAME, or the likelihood of a text: nll:FILE or
    nll:wikitext2; by commas."""
    limit: int | None = None
    """most items of each task, the same ones at every setting of the weights."""
    data_dir: Path | None = None
    """folder with the data of published tasks; default $BASINSCOPE_DATA, else the Hugging Face
    hub."""
    allow_code_execution: bool = False
    """run code that the model writes, in a bubblewrap sandbox (needed by humaneval)."""

    def read(self) -> list[Task]:
        """The tasks."""
        import basinscope as bs

        return bs.tasks(self.tasks, limit=self.limit, **self.source)

    def one(self) -> Task:
        """The one task of a command that takes one."""
        from basinscope.tasks.words import one

        return one(self.tasks, limit=self.limit, **self.source)

    @property
    def source(self) -> dict[str, Any]:
        """Where data come from, and whether code may run."""
        return {"data_dir": self.data_dir, "allow_code_execution": self.allow_code_execution}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OneTask(TaskOptions):
    """`TaskOptions` of a command that takes one task."""

    tasks: Annotated[str, Parameter(name=["--tasks", "-t"])] = "basic"
    """One task, named as in landscape."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Attacked(TaskOptions):
    """What is attacked."""

    tasks: Annotated[str, Parameter(name=["--tasks", "-t"])] = "basic"
    """what is attacked: a task of choices (basic, math, code, mmlu), nll:FILE, or a text file."""
    limit: int = 48
    """most items, or blocks of a text, that are attacked; the others are held out."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded whose dtype is known."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    load: list[str] | None = None
    """KEY=VALUE, repeats: any other argument of basinscope.load, which are params (a regular
    expression: only matching parameters are perturbed), trust_remote_code (true: a hub checkpoint
    may run its own code), revision, device_map, attn_implementation and token_budget."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `basinscope.load`, without the dtype.

        Raises:
            BasinscopeError: a word of ``--load`` that is none of them, or has a bad value.
        """
        return {"device": self.device} | pairs("--load", self.load, LOAD)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions(LoadOptions):
    """How a model is loaded."""

    dtype: str = "auto"
    """auto, bfloat16, float32 or float16; with auto a run that is resumed keeps its dtype."""

    def engine(
        self, model: str, run: Path | None = None, kind: str = "landscape", dtype: str = ""
    ) -> Engine:
        """The model, loaded in the run's dtype where the run folder has begun.

        Args:
            model: alias, hub id, folder or file.
            run: run folder; refused, before anything is loaded, if it holds another kind of run.
            kind: of the run.
            dtype: what ``auto`` stands for here; default what suits the machine.
        """
        from basinscope.runs.models import engine_of

        wanted = dtype if dtype and self.dtype == "auto" else self.dtype
        return engine_of(model, run, kind=kind, dtype=wanted, **self.arguments)

    def note(self, engine: Engine, *directions: Direction) -> str:
        """Why this dtype, or which would be faster; why not the quickest way; what is left out."""
        chosen = engine.chosen if engine.dtype_is_auto or self.dtype != "auto" else ""
        for direction in directions:
            direction.fit(engine)
        omits = (direction.omits for direction in directions)
        return "\n".join(filter(None, (chosen, engine.fallback, *omits)))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """Where records go, and how results are printed."""

    run: Path | None = None
    """run folder, where the same line resumes; default runs/MODEL, of other commands than landscape
    with the command's name behind it."""
    json: bool = False
    """print one JSON object instead of text."""
    track: str | None = None
    """send what is measured, point by point, and the results to trackio, wandb or mlflow."""

    def __post_init__(self) -> None:
        """Refuse a tracker before anything is loaded."""
        if self.track is not None:
            from basinscope.tracking import check_tracker

            check_tracker(self.track)

    def folder(self, model: str, command: str = "") -> Path:
        """The run folder."""
        name = os.path.basename(os.path.realpath(model)).removesuffix(".gguf") or "run"
        return self.run or Path("runs") / "-".join(filter(None, (name, command)))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlannedOutput(Output):
    """`Output` of a command that says beforehand what it will take."""

    dry_run: bool = False
    """measure nothing; say how many evaluations and tokens that is and how long it takes, from
    short real batches."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(PlannedOutput):
    """`PlannedOutput` of a command that measures in several processes."""

    workers: int | None = None
    """processes of one thread each; default one for each core."""


TASKS, ONE_TASK, ATTACKED = TaskOptions(), OneTask(), Attacked()
LOAD_ONLY, MODEL = LoadOptions(), ModelOptions()
OUTPUT, PLANNED, RUN = Output(), PlannedOutput(), RunOptions()
