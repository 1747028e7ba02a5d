"""From what people have (JSON, JSON Lines, CSV, a hub id, rows) to chats that end in an answer.

What a row means is seen from its keys:

- ``messages``: a list of ``{"role", "content"}``; each assistant turn is an answer;
- ``goal`` and ``target`` (AdvBench);
- ``instruction``, ``prompt`` or ``question``, perhaps with ``input``, and ``output``, ``response``,
  ``answer``, ``completion`` or ``target`` (Alpaca and its kin; an input follows its instruction
  after a blank line);
- ``instruction`` and ``instances``, a list of ``{"input", "output"}`` (self-instruct).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from basinscope.errors import BasinscopeError
from basinscope.tasks.data import Hub, Row, read

Rows = str | Path | Sequence[Mapping[str, Any]]
"""A file, a hub id, or the rows themselves."""

PROMPTS: Final = ("instruction", "prompt", "question")
ANSWERS: Final = ("output", "response", "answer", "completion", "target")
ROLES: Final = ("system", "user", "assistant")
SUFFIXES: Final = (".json", ".jsonl", ".jsonl.gz", ".csv")
_FORMS: Final = (
    "{messages: [{role, content}]}, {goal, target}, "
    f"{{{'|'.join(PROMPTS)}, input?, {'|'.join(ANSWERS)}}} or {{instruction, instances}}"
)
_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")


@dataclass(frozen=True)
class Chat:
    """A conversation whose last message is the answer to be learnt; ``where`` it stands."""

    messages: tuple[tuple[str, str], ...]
    where: str

    @property
    def prompt(self) -> str:
        """What the user said last."""
        return next(text for role, text in reversed(self.messages[:-1]) if role == "user")

    @property
    def answer(self) -> str:
        """What is to be learnt."""
        return self.messages[-1][1]


def pair(prompt: str, answer: str, where: str) -> Chat:
    """One question and its answer."""
    return Chat((("user", prompt), ("assistant", answer)), where)


def chats(data: Rows, left_out: list[str] | None = None) -> list[Chat]:
    """Every answer of some data with what came before it, in the order of the rows.

    Args:
        data: path of a .json (a list), .jsonl, .jsonl.gz or .csv file; a hub id ``org/name`` or
            ``org/name:config`` (its split "train"); or the rows themselves.
        left_out: where given, a row whose answer is empty is named here instead of refused (the
            Alpaca data have some).

    Raises:
        BasinscopeError: no such file, no rows, a malformed row (file, line and reason are named),
            a hub that cannot be reached.
    """
    found = [chat for row in _rows(data) for chat in _of_row(row, left_out)]
    if not found:
        raise BasinscopeError(f"{_name(data)} holds no rows", _FORMS, "a file with a row")
    return found


def _name(data: Rows) -> str:
    return str(data) if isinstance(data, (str, Path)) else "data"


def _rows(data: Rows) -> Iterator[Row]:
    if not isinstance(data, (str, Path)):
        for n, cells in enumerate(data):
            if not isinstance(cells, Mapping):
                raise BasinscopeError(f"row {n}: {cells!r:.60} is no mapping", _FORMS, "mend it")
            yield Row(f"row {n}", dict(cells))
        return
    path = Path(data).expanduser()
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise BasinscopeError(f"data {str(data)!r}", ", ".join(SUFFIXES), "turn it into .jsonl")
        if path.suffix == ".json" and (text := _text(path)).lstrip().startswith("["):
            yield from _list(path, text)
        elif path.stat().st_size:
            yield from read(path.parent, path.name, Hub("", None, ""), ())
    elif isinstance(data, Path) or not _HUB_ID.fullmatch(data) or data.endswith(SUFFIXES):
        what = "a folder" if path.is_dir() else "no such file"
        raise BasinscopeError(
            f"data {str(data)!r}: {what}",
            f"a file in {', '.join(SUFFIXES)}, or a hub id such as tatsu-lab/alpaca",
            "check the path",
        )
    else:
        yield from _hub(data)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BasinscopeError(
            f"{path}: byte {error.object[error.start]:#04x} at {error.start} is not UTF-8",
            "text in UTF-8",
            "save the file as UTF-8",
        ) from None


def _list(path: Path, text: str) -> Iterator[Row]:
    """Elements of a JSON list, each with the line it begins on."""
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")

    def skip(at: int) -> int:
        found = blank.match(text, at)
        assert found is not None
        return found.end()

    line, seen = 1, 0
    try:
        at = skip(text.index("[") + 1)
        while text[at : at + 1] != "]":
            line, seen = line + text.count("\n", seen, at), at
            cells, at = decoder.raw_decode(text, at)
            if not isinstance(cells, dict):
                raise BasinscopeError(f"{path}, line {line}: no object", "objects", "mend the line")
            yield Row(f"{path}, line {line}", cells)
            at = skip(at)
            if text[at : at + 1] == ",":
                at = skip(at + 1)
                if text[at : at + 1] == "]":
                    raise json.JSONDecodeError("Nothing after ','", text, at)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        if skip(at + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, skip(at + 1))
    except json.JSONDecodeError as error:
        raise BasinscopeError(
            f"{path}, line {error.lineno}: {error.msg} (column {error.colno})",
            "a JSON list of objects, or an object a line",
            "mend the line",
        ) from None


def _hub(name: str) -> Iterator[Row]:
    import datasets  # type: ignore[import-untyped]

    repo, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(repo, config or None, split="train")
    except Exception as error:  # whatever that library raises, the user needs to know these words
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BasinscopeError(
            f"{name} could not be loaded from the Hugging Face hub: {reason}",
            f"a file in {', '.join(SUFFIXES)}, or the id of a data set within reach",
            "give a file with --data FILE, or run once with a network: the hub's copy is then kept",
        ) from error
    for n, cells in enumerate(rows):
        yield Row(f"{name}, row {n}", dict(cells))


def _of_row(row: Row, left_out: list[str] | None) -> Iterator[Chat]:
    cells = row.cells
    if "messages" in cells:
        yield from _conversation(row)
    elif "goal" in cells and "target" in cells:
        yield pair(row.text("goal"), row.text("target"), row.where)
    elif "instances" in cells:
        instances = cells["instances"]
        if not isinstance(instances, list) or not instances:
            raise row.bad("'instances' is no list, or empty")
        for n, instance in enumerate(instances):
            if not isinstance(instance, dict):
                raise row.bad(f"instance {n} is no object")
            own = Row(f"{row.where}, instance {n}", instance)
            yield pair(_joined(row.text("instruction"), own), own.text("output"), own.where)
    else:
        prompt = next((name for name in PROMPTS if name in cells), None)
        answer = next((name for name in ANSWERS if name in cells), None)
        if prompt is None or answer is None:
            missing = "prompt" if prompt is None else "answer"
            raise BasinscopeError(
                f"{row.where}: no {missing} among {sorted(map(str, cells))}", _FORMS, "rename one"
            )
        if left_out is not None and cells[answer] == "":
            left_out.append(row.where)
        else:
            yield pair(_joined(row.text(prompt), row), row.text(answer), row.where)


def _joined(instruction: str, row: Row) -> str:
    """Instruction with its input, after a blank line, where there is one."""
    given = row.cells.get("input")
    if given is not None and not isinstance(given, str):
        raise row.bad("'input' is no text")
    return f"{instruction}\n\n{given}" if given and given.strip() else instruction


def _conversation(row: Row) -> Iterator[Chat]:
    messages = row.cells["messages"]
    if not isinstance(messages, list) or not messages:
        raise row.bad("'messages' is no list, or empty")
    said: list[tuple[str, str]] = []
    asked = answered = False
    for n, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise row.bad(f"message {n} has the role {role!r}, not one of {', '.join(ROLES)}")
        said.append((role, Row(f"{row.where}, message {n}", message).text("content")))
        asked |= role == "user"
        if role == "assistant" and asked:
            answered = True
            yield Chat(tuple(said), row.where)
    if not answered:
        raise row.bad("no user message that an assistant message answers")
