"""From what people have (JSON, JSON Lines, CSV, a hub id, rows) to chats that end in an answer.

What a row means is seen from its keys:

- ``messages`` (OpenAI) or ``conversations`` (ShareGPT): a list of ``{"role", "content"}`` or
  ``{"from", "value"}``; each assistant turn is an answer, but for those of ``weight`` 0;
- ``goal`` and ``target`` (AdvBench);
- ``instruction``, ``prompt``, ``question`` or ``query``, perhaps with ``input`` or ``context``, and
  ``output``, ``response``, ``answer``, ``completion`` or ``target`` (Alpaca and its kin; an input
  follows its instruction after a blank line). ``history``, pairs of a prompt and its answer, stands
  before them. Prompt and completion may be lists of messages, of which the completion's are learnt;
- ``instruction`` and ``instances``, a list of ``{"input", "output"}`` (self-instruct).

``system`` or ``system_prompt`` is a system message, of any of them. A column that belongs to the
prompt in another way (choices, tools, pictures) is refused; any other is named as unread. A row
without a prompt or an answer is left out and counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from basinscope.errors import BasinscopeError
from basinscope.files import describe, ordinary
from basinscope.tasks.data import Hub, Row, fault_of, read

Rows = str | Path | Sequence[Mapping[str, Any]]
"""A file, a hub id, or the rows themselves."""

CHATS: Final = ("messages", "conversations")
PROMPTS: Final = ("instruction", "prompt", "question", "query")
INPUTS: Final = ("input", "context")
ANSWERS: Final = ("output", "response", "answer", "completion", "target")
SYSTEMS: Final = ("system", "system_prompt")
ROLES: Final = ("system", "user", "assistant")
SUFFIXES: Final = (".json", ".jsonl", ".jsonl.gz", ".csv")
_OTHER_NAMES: Final = {
    "developer": "system", "human": "user", "gpt": "assistant", "model": "assistant",
}  # fmt: skip
# names of columns that a question cannot do without, as data sets have them
_BELONGS: Final = re.compile(
    r"((multiple_choice_)?(choice|option|ending)s?[_ ]?\w?|[a-e]|tools?|functions?|images?|"
    r"pictures?|audios?|videos?|passages?|paragraphs?|documents?|articles?|stor(y|ies)|evidence|"
    r"knowledge|background|tables?|schema|hints?|facts?)",
    re.IGNORECASE,
)
_FORMS: Final = (
    f"{{{'|'.join(CHATS)}: [{{role, content}}]}}, {{goal, target}}, "
    f"{{{'|'.join(PROMPTS)}, {'|'.join(INPUTS)}?, {'|'.join(ANSWERS)}}} or "
    "{instruction, instances}"
)
_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")


@dataclass
class Tally:
    """What became of the rows of some data.

    Attributes:
        rows: how many there are.
        left_out: where those stand that have no prompt or no answer, in whole or from a turn on.
        unread: columns that were not read.
    """

    rows: int = 0
    left_out: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    def notes(self) -> list[str]:
        """What must not pass in silence."""
        lines = []
        if n := len(self.left_out):
            more = ", ..." if n > 1 else ""
            lines.append(
                f"{n} of {self.rows} rows left out: without a prompt or an answer "
                f"({self.left_out[0]}{more})"
            )
        if self.unread:
            lines.append(f"columns not read: {', '.join(sorted(self.unread))}")
        return lines


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


def chats(data: Rows, tally: Tally | None = None) -> list[Chat]:
    """Every answer of some data with what came before it, in the order of the rows.

    Args:
        data: path of a .json (a list, or one object after another), .jsonl, .jsonl.gz or .csv file;
            a hub id ``org/name`` or ``org/name:config`` (its split "train"); or the rows
            themselves.
        tally: what became of the rows is added to it.

    Raises:
        BasinscopeError: no such file, no rows, none with an answer, a malformed row (file, line
            and reason are named), a hub that cannot be reached.
    """
    tally = Tally() if tally is None else tally
    answers: list[Chat] = []
    lacking: list[str] = []
    before = tally.rows
    for row in _rows(data):
        tally.rows += 1
        parts = list(_of_row(row, tally))
        answers += (part for part in parts if isinstance(part, Chat))
        lacking += [part for part in parts if isinstance(part, str)][:1]
    if not answers:
        name = str(data) if isinstance(data, (str, Path)) else "data"
        n = tally.rows - before
        rows = f"{n} rows, none with a prompt and an answer" if n else "no rows"
        raise BasinscopeError(f"{name} holds {rows}", _FORMS, "give a file that holds some")
    tally.left_out += lacking
    return answers


def _rows(data: Rows) -> Iterator[Row]:
    if not isinstance(data, (str, Path)):
        if not isinstance(data, Iterable):
            raise BasinscopeError(f"data {data!r:.60}", _FORMS, "give rows or a file")
        for n, cells in enumerate(data):
            if not isinstance(cells, Mapping):
                raise BasinscopeError(f"row {n}: {cells!r:.60} is no mapping", _FORMS, "mend it")
            yield Row(f"row {n}", {str(name): cell for name, cell in cells.items()})
        return
    path = Path(data).expanduser()
    if path.is_file():
        name = path.name.lower()
        if not name.endswith(SUFFIXES):
            raise BasinscopeError(f"data {str(data)!r}", ", ".join(SUFFIXES), "turn it into .jsonl")
        if name.endswith(".json"):
            yield from _objects(path)
        elif path.stat().st_size:
            yield from read(path.parent, path.name, Hub("", None, ""), ())
    elif isinstance(data, Path) or not _HUB_ID.fullmatch(data) or data.endswith(SUFFIXES):
        raise BasinscopeError(
            f"data {str(data)!r}: there is {describe(path)}",
            f"a file in {', '.join(SUFFIXES)}, or a hub id such as tatsu-lab/alpaca",
            "name a file that is there",
        )
    else:
        yield from _hub(data)


def _objects(path: Path) -> Iterator[Row]:
    """Elements of a JSON list, or one object after another, each with the line it begins on."""
    try:
        text = ordinary(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BasinscopeError(
            f"cannot read {path} ({error.strerror or error})",
            "a file that can be read",
            "mend its permissions; .jsonl for a large one",
        ) from error
    except UnicodeDecodeError as error:
        raise BasinscopeError(
            f"{path}: byte {error.object[error.start]:#04x} at {error.start} is not UTF-8",
            "text in UTF-8",
            "save the file as UTF-8",
        ) from None
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s\ufeff]*")

    def skip(at: int) -> int:
        return at + len(blank.match(text, at)[0])  # type: ignore[index]

    at = skip(0)
    listed = text[at : at + 1] == "["
    at = skip(at + 1) if listed else at
    line, seen = 1, 0
    try:
        while at < len(text) and not (listed and text[at] == "]"):
            line, seen = line + text.count("\n", seen, at), at
            cells, at = decoder.raw_decode(text, at)
            if not isinstance(cells, dict):
                raise BasinscopeError(f"{path}, line {line}: no object", "objects", "mend the line")
            yield Row(f"{path}, line {line}", cells)
            at = skip(at)
            if listed and text[at : at + 1] == ",":
                at = skip(at + 1)
                if text[at : at + 1] == "]":
                    raise json.JSONDecodeError("Nothing after ','", text, at)
            elif listed and text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        if listed and at == len(text):
            raise json.JSONDecodeError("Expecting value", text, at)
        if listed and skip(at + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, skip(at + 1))
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else line
        raise BasinscopeError(
            f"{path}, line {line}: {fault_of(error)}",
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


class _Reader:
    """Columns of a row, and which of them were read."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.names: set[str] = set()

    def value(self, column: str) -> Any:
        """What stands in a column; None for nothing."""
        self.names.add(column)
        return None if self.is_blank(column) else self.row.cells[column]

    def text(self, column: str) -> str:
        """Text of a column, of a number as Python writes it; empty where there is none."""
        value = self.value(column)
        if isinstance(value, float) and math.isfinite(value):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return "" if value is None else self.row.text(column)

    def joined(self, columns: Iterable[str]) -> str:
        """Texts of some columns with blank lines between them."""
        return "\n\n".join(filter(None, map(self.text, columns)))

    def is_blank(self, column: str) -> bool:
        """Whether a column holds nothing but white space, or no elements, or is not there."""
        value = self.row.cells.get(column)
        if isinstance(value, str):
            return not value.strip()
        return value is None or (isinstance(value, list) and not value)

    def first(self, names: Sequence[str]) -> str:
        """The first of some columns that holds something, else that is there; empty for none."""
        there = [name for name in names if name in self.row.cells]
        return next((name for name in there if not self.is_blank(name)), "".join(there[:1]))

    def unread(self) -> set[str]:
        """Columns that hold something and were not read.

        Raises:
            BasinscopeError: if one of them belongs to the prompt.
        """
        names = {n for n in self.row.cells.keys() - self.names if not self.is_blank(n)}
        if belonging := sorted(filter(_BELONGS.fullmatch, names)):
            raise self.row.bad(f"{belonging[0]!r} belongs to the prompt, and is not read")
        return {name or "one without a name" for name in names}


def _of_row(row: Row, tally: Tally) -> Iterator[Chat | str]:
    """Chats of a row, and the places of what lacks a prompt or an answer."""
    reader = _Reader(row)
    system = reader.joined(SYSTEMS)
    before = [("system", system)] if system else []
    chat, prompt, answer = map(reader.first, (CHATS, PROMPTS, ANSWERS))
    if chat and not reader.is_blank(chat):
        yield from _conversation(row, reader.value(chat), before, 0, tally)
    elif not reader.is_blank("instances"):
        text = reader.text("instruction")
        yield from _instances(row, reader.value("instances"), before, text)
    elif {"goal", "target"} <= row.cells.keys() and (not prompt or not reader.is_blank("goal")):
        yield _answered(before, reader.text("goal"), reader.text("target"), row.where)
    elif not prompt or not answer:
        if not chat and "instances" not in row.cells:
            missing = "answer" if prompt else "prompt"
            raise BasinscopeError(
                f"{row.where}: no {missing} among {sorted(row.cells)}", _FORMS, "rename a column"
            )
        yield row.where
        return
    elif isinstance(asked := row.cells[prompt], list):
        reader.value(prompt)
        said = reader.value(answer)
        if not isinstance(said, list):
            said = [{"role": "assistant", "content": reader.text(answer)}]
        yield from _conversation(row, asked + said, before, len(asked), tally)
    else:
        both = [name for name in PROMPTS if not reader.is_blank(name)]
        if both[:2] == ["instruction", "prompt"]:  # the one rendered from the other
            del both[1]
        if len(both) > 1:
            raise row.bad(f"{both[0]!r} and {both[1]!r} may both be the prompt")
        before += _history(row, reader.value("history") or [])
        yield _answered(before, reader.joined((prompt, *INPUTS)), reader.text(answer), row.where)
    tally.unread |= reader.unread()


def _answered(
    before: Sequence[tuple[str, str]], prompt: str, answer: str, where: str
) -> Chat | str:
    """Chat of one answer, or the place of what lacks it."""
    if not prompt or not answer:
        return where
    return Chat((*before, ("user", prompt), ("assistant", answer)), where)


def _history(row: Row, pairs: Any) -> list[tuple[str, str]]:
    """Turns before a prompt, from pairs of a prompt and its answer."""
    turns: list[tuple[str, str]] = []
    for pair in pairs:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise row.bad("'history' is no list of pairs of texts")
        turns += zip(("user", "assistant"), pair, strict=True)
    return turns


def _instances(
    row: Row, instances: Any, before: Sequence[tuple[str, str]], instruction: str
) -> Iterator[Chat | str]:
    if not isinstance(instances, list):
        raise row.bad("'instances' is no list")
    for n, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise row.bad(f"instance {n} is no object")
        reader = _Reader(Row(f"{row.where}, instance {n}", instance))
        prompt = "\n\n".join(filter(None, (instruction, reader.text("input"))))
        yield _answered(before, prompt, reader.text("output"), reader.row.where)


def _conversation(
    row: Row, messages: Any, before: Sequence[tuple[str, str]], first: int, tally: Tally
) -> Iterator[Chat | str]:
    """Every answer from message ``first`` on; where it has none, or ends early, its place."""
    if not isinstance(messages, list):
        raise row.bad("the messages are no list")
    said = list(before)
    asked = answered = False
    for n, message in enumerate(messages):
        cells = message if isinstance(message, dict) else {}
        reader = _Reader(Row(f"{row.where}, message {n}", cells))
        role = reader.value(reader.first(("role", "from")))
        role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise row.bad(f"message {n} has the role {role!r}, not one of {', '.join(ROLES)}")
        if not reader.is_blank("tool_calls") or not reader.is_blank("function_call"):
            raise row.bad(f"message {n} calls a tool, which is not read")
        text = _content(reader)
        learnt = reader.value("weight") != 0
        tally.unread |= {f"{name} of messages" for name in reader.unread()}
        if not text and role == "system":  # no message
            continue
        if not text:
            answered = False
            break
        said.append((role, text))
        asked |= role == "user"
        if role == "assistant" and asked and n >= first and learnt:
            answered = True
            yield Chat(tuple(said), row.where)
    if not answered:
        yield row.where


def _content(reader: _Reader) -> str:
    """Text of a message, which may come in parts."""
    column = reader.first(("content", "value"))
    if not column:
        raise reader.row.bad("no content")
    parts = reader.value(column)
    if not isinstance(parts, list):
        return reader.text(column)
    every = (part.get("text") if isinstance(part, dict) else part for part in parts)
    texts = [text for text in every if isinstance(text, str)]
    if len(texts) < len(parts):
        raise reader.row.bad(f"a part of {column!r} is no text")
    return _Reader(Row(reader.row.where, {column: "".join(texts)})).text(column)
