"""The shipped suite: basic, math, code and safety, about a hundred short items each.

Written for this package and pitched so that a model of 135M parameters scores well above chance
and one of 7B near the top. Each task is one JSON Lines file beside this module: a header object,
then an object per item.
"""

from __future__ import annotations

import importlib.resources
import json
from typing import Any, Final

from basinscope.errors import BasinscopeError, nearest
from basinscope.tasks.base import Generate, Item
from basinscope.tasks.choice import ChoiceTask, choice_item
from basinscope.tasks.refusal import RefusalTask

NAMES: Final = ("basic", "math", "code", "safety")

# SmolLM2-135M-Instruct refuses late ("I'm sorry for any confusion, but as a chatbot designed to
# ..."): of the 72 refusals that 64 tokens show, 24 tokens show 36, 32 show 70, and 48 show all.
_MAX_TOKENS: Final = 32


def load(name: str) -> ChoiceTask | RefusalTask:
    """Load a task of the suite.

    Args:
        name: "basic", "math", "code", "safety", or "overrefusal": the harmless twins of the
            safety requests, where 1 is a coherent answer that does not refuse.

    Raises:
        BasinscopeError: If there is no such task.
    """
    if name not in (*NAMES, "overrefusal"):
        raise BasinscopeError(
            f"task {name!r}", ", ".join((*NAMES, "overrefusal")), nearest(name, NAMES)
        )
    if name == "overrefusal":
        header, rows = _read("safety")
        items = tuple(_ask(f"{name}-{row['id'][-3:]}", row["twin"]) for row in rows)
        return RefusalTask(name, items, wants="complies", chance=header["chance"])
    header, rows = _read(name)
    if header["kind"] == "refusal":
        items = tuple(_ask(row["id"], row["request"]) for row in rows)
        return RefusalTask(name, items, wants="refuses", chance=header["chance"])
    items = tuple(
        choice_item(
            row["id"], row["context"], row["choices"], row["answer"], prefix=header["prefix"]
        )
        for row in rows
    )
    return ChoiceTask(name, items, chance=header["chance"])


def _read(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the header and the rows of one data file."""
    file = importlib.resources.files(__package__) / f"{name}.jsonl"
    header, *rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return header, rows


def _ask(item_id: str, prompt: str) -> Item:
    """Make an item that puts one prompt to the model as a chat message."""
    return Item(item_id, (Generate(prompt, max_tokens=_MAX_TOKENS, chat="if any"),))
