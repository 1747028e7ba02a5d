"""``training.json``: what a fine-tuning folder was made from, how far it is, what came out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from basinscope import files
from basinscope.errors import BasinscopeError
from basinscope.finetuning.recipes import GENERATED
from basinscope.runs import header
from basinscope.runs.spec import Frozen, Number
from basinscope.tasks.base import Generate, Item, Subset, Task
from basinscope.tasks.words import one

FILE: Final = "training.json"
_HASHED: Final = ("data", "model")  # their values would tell nobody anything


class Guarantee(Frozen):
    """What a certificate says of the weights that came out, and what it leaves out.

    The first fields are those of `basinscope.certify.Verdict`, None where not finite; the others
    are the certificate's.
    """

    label: str
    word: str
    reason: str
    r: float | None
    outside: float | None
    bound: float | None
    radius: float | None
    ratio: float | None
    target: float
    score: dict[str, float] | None = None
    smoothed: dict[str, float] | None = None
    task: str
    score_at_theta0: float
    p_lower_at_theta0: float
    sigma: float
    geometry: str
    confidence: float
    fingerprint_of_theta0: str
    does_not_cover: tuple[str, ...]


class TrainingRecord(header.TrainingHeader):
    """``training.json``, one line for each field."""

    kind: Literal["finetune"] = "finetune"
    model: str  # as the user named it
    recipe: str | None
    dtype: str = "bfloat16"  # of the weights it began with
    source: str  # of the data
    prompts: tuple[str, ...]  # their hashes, see `prompt_hash`
    counts: dict[str, int] = Field(
        default_factory=dict
    )  # of rows and examples, by what became of them
    notes: tuple[str, ...]
    state: Literal["running", "done", "diverged"] = "running"
    displacement: float | None = None  # ||theta' - theta0||; None where no weights came out yet
    steps: int = 0  # optimiser steps behind the weights
    losses: tuple[Number, ...] = ()  # before each step
    diverged: str = ""  # why training stopped early
    guarantee: Guarantee | None = None  # of ``stay_within``


def check_folder(folder: Path) -> None:
    """Refuse a run folder that holds something else, such as the model itself."""
    if not header.exists(folder / FILE):
        header.check_free(folder, "finetune", (GENERATED, "checkpoints"), "--run")


def read(folder: Path) -> TrainingRecord:
    """Record of a fine-tuning folder.

    Raises:
        BasinscopeError: if there is none, or it is corrupt.
    """
    if not header.exists(folder / FILE):
        raise header.missing(folder, "finetune")
    return header.parse(folder / FILE, TrainingRecord)


def dtype_of(folder: Path) -> str | None:
    """Dtype of the model that a run began with; None where none has begun."""
    return read(folder).dtype if (folder / FILE).is_file() else None


def begin(folder: Path, new: TrainingRecord, resume: bool) -> TrainingRecord:
    """Record of this run: the one that is there, if it is of the same run, or a new one.

    Raises:
        BasinscopeError: the folder holds another run (the differences are listed).
    """
    old = read(folder) if header.exists(folder / FILE) else None
    if old is None or not resume:
        if old is not None:
            _clear(folder)
        save(folder, new)
        return new
    if changes := header.differences(old.spec, new.spec, _HASHED):
        raise BasinscopeError(
            f"{folder} holds another fine-tune ({'; '.join(changes)})",
            "one fine-tune in a folder",
            "another --run, or start over with resume=False (--no-resume)",
        )
    if old.state != "running":
        return old
    return old.model_copy(update={"notes": old.notes + old.changes(new)})


def save(folder: Path, record: TrainingRecord) -> None:
    """Write the record, whole or not at all."""
    files.write(folder / FILE, json.dumps(record.model_dump(mode="json"), indent=1))


def prompt_hash(text: str) -> str:
    """Sha256 of a prompt; case and white space do not matter."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()


def prompts(texts: Iterable[str]) -> tuple[str, ...]:
    """Hashes of prompts, each once, sorted."""
    return tuple(sorted({prompt_hash(text) for text in texts}))


def held_out(task: str | Task, *folders: str | Path) -> Task:
    """The items of a task whose prompts no fine-tune in these folders was trained on.

    Args:
        task: word or object, such as ``advbench``.
        folders: run folders of `finetune`.

    Raises:
        BasinscopeError: a folder without ``training.json``; nothing left.

    Guarantee: prompts are compared by the hash of their text, whatever its case and white space;
        a paraphrase of a prompt that was trained on stays in.
    """
    task = one(task)
    seen = {prompt for folder in folders for prompt in read(Path(folder)).prompts}

    def fresh(item: Item) -> bool:
        asked = (r.prompt for r in item.requests if isinstance(r, Generate))
        return not any(prompt_hash(prompt) in seen for prompt in asked)

    kept = tuple(item for item in task.items if fresh(item))
    if not kept:
        raise BasinscopeError(
            f"all {len(task.items)} items of task {task.name!r} were trained on",
            "a task with items that were not",
            "a larger --limit of the task, or a smaller one of the fine-tune",
        )
    whole, seed = (task.whole, task.seed) if isinstance(task, Subset) else (task, 0)
    return Subset(whole, kept, seed)


def _clear(folder: Path) -> None:
    """Remove the weights and checkpoints of an earlier run; what else lies there is left."""
    files.remove_drafts(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for path in (*folder.glob("*.safetensors"), folder / FILE):
        path.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Of the packages that the bits of the weights depend on."""
    return {package: version(package) for package in ("torch", "transformers", "accelerate")}
