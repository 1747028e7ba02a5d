"""``training.json``: what a fine-tuning folder was made from, how far it is, what came out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from basinscope import files
from basinscope.errors import BasinscopeError
from basinscope.finetuning.recipes import GENERATED
from basinscope.tasks.base import Generate, Item, Subset, Task
from basinscope.tasks.words import one

FILE: Final = "training.json"
RUNNING, DONE, DIVERGED = "running", "done", "diverged"
_HASHED: Final = ("data", "model")  # their values would tell nobody anything
_OWN: Final = (FILE, GENERATED, "checkpoints")


def check_folder(folder: Path) -> None:
    """Refuse a run folder that holds something else, such as the model itself."""
    if folder.is_dir() and not (folder / FILE).is_file():
        others = [path.name for path in folder.iterdir() if path.name not in _OWN]
        if any(not name.startswith(files.DRAFT) for name in others):
            raise BasinscopeError(
                f"{folder} is not empty and no fine-tuning folder",
                "allowed: a new folder, or the one of the same line",
                "give another --run",
            )
    elif folder.exists() and not folder.is_dir():
        raise BasinscopeError(f"{folder} is a file", "allowed: a folder", "give another --run")


def read(folder: Path) -> dict[str, Any]:
    """Record of a fine-tuning folder.

    Raises:
        BasinscopeError: if there is none, or it is corrupt.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if found["state"] not in (RUNNING, DONE, DIVERGED):
            raise ValueError(f"its state is {found['state']!r}")
    except FileNotFoundError:
        raise BasinscopeError(
            f"{folder} is no fine-tuning folder (it has no {FILE})",
            "allowed: the folder given to --run of basinscope finetune",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BasinscopeError(
            f"{folder / FILE} is corrupt ({error})", "", "give another --run"
        ) from None
    assert isinstance(found, dict)
    return found


def dtype_of(folder: Path) -> str | None:
    """Dtype of the model that a run began with; None where none has begun."""
    if not (folder / FILE).is_file():
        return None
    return str(read(folder).get("dtype", "bfloat16"))


def begin(folder: Path, new: dict[str, Any], resume: bool) -> dict[str, Any]:
    """Record of this run: the one that is there, if it is of the same run, or a new one.

    Raises:
        BasinscopeError: the folder holds another run (the differences are listed).
    """
    new = {**new, "state": RUNNING, "versions": _versions(), "threads": torch.get_num_threads()}
    old = read(folder) if (folder / FILE).is_file() else None
    if old is None or not resume:
        if old is not None:
            _clear(folder)
        save(folder, new)
        return new
    keys = sorted(old["spec"].keys() | new["spec"].keys())
    differing = [
        f"{key} differs"
        if key in _HASHED
        else f"{key} {old['spec'].get(key)!r:.60}, now {new['spec'].get(key)!r:.60}"
        for key in keys
        if old["spec"].get(key) != new["spec"].get(key)
    ]
    if differing:
        raise BasinscopeError(
            f"{folder} holds another fine-tune ({'; '.join(differing)})",
            "a folder holds one",
            "give another --run, or start over with resume=False (--no-resume)",
        )
    if old["state"] == RUNNING:
        for key in ("versions", "threads"):
            if old[key] != new[key]:
                old["notes"].append(
                    f"resumed with other {key} ({old[key]}, now {new[key]}): the weights need not "
                    "be those of an uninterrupted run bit for bit"
                )
    return old


def save(folder: Path, record: dict[str, Any]) -> None:
    """Write the record, whole or not at all."""
    files.write(folder / FILE, json.dumps(record, indent=1))


def prompt_hash(text: str) -> str:
    """Sha256 of a prompt; case and white space do not matter."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()


def prompts(texts: Iterable[str]) -> list[str]:
    """Hashes of prompts, each once, sorted."""
    return sorted({prompt_hash(text) for text in texts})


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
    seen = {prompt for folder in folders for prompt in read(Path(folder))["prompts"]}

    def fresh(item: Item) -> bool:
        asked = (r.prompt for r in item.requests if isinstance(r, Generate))
        return not any(prompt_hash(prompt) in seen for prompt in asked)

    kept = tuple(item for item in task.items if fresh(item))
    if not kept:
        raise BasinscopeError(
            f"all {len(task.items)} items of task {task.name!r} were trained on",
            "allowed: a task with items that were not",
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


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("torch", "transformers", "accelerate")}
