"""Which YAML files a word stands for, and what in them is refused before any of it is run."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import yaml

from basinscope.errors import BasinscopeError, nearest
from basinscope.files import entries, ordinary
from basinscope.tasks.lm_eval.library import library

PREFIX: Final = "lm-eval:"
_OPTIONS: Final = ("metric", "filter", "shots", "chat", "multiturn", "system")
_BARE: Final = {"chat": "true", "multiturn": "true"}  # what they are without a value
_GRAMMAR: Final = (
    f"{PREFIX}NAME[@METRIC][@filter=NAME][@shots=N][@chat][@multiturn[=false]][@system=TEXT], "
    "NAME a task or a path, @system last"
)

# the keys that say what a YAML file defines: reading only them takes a quarter of the time
_KEY: Final = re.compile(
    r"""^["']?(task|group|tag|class|include)["']?[ \t]*:(.*(?:\n(?:[ \t-].*|\s*$))*)""", re.M
)
_PLAIN: Final = re.compile(r"""\s*["']?([A-Za-z_][\w.()/-]*)["']?\s*""")


@dataclass(frozen=True)
class Word:
    """A word's parts: a name or path, and what of the task is asked for.

    ``chat``, ``multiturn`` and ``system`` are lm-eval's ``--apply_chat_template``,
    ``--fewshot_as_multiturn`` (true unless told otherwise, as there) and ``--system_instruction``;
    of the last, ``%2C`` stands for a comma, ``%0A`` for a new line.
    """

    name: str
    metric: str = ""
    filter: str = ""
    shots: int | None = None
    chat: bool = False
    multiturn: bool = True
    system: str = ""

    @property
    def options(self) -> str:
        """The word's part after the name."""
        options = {"metric": self.metric, "filter": self.filter, "shots": self.shots}
        parts = [f"@{key}={value}" for key, value in options.items() if value not in ("", None)]
        parts += ["@chat"] * self.chat + ["@multiturn=false"] * (not self.multiturn)
        return "".join([*parts, f"@system={self.system}" if self.system else ""])

    @property
    def instruction(self) -> str | None:
        """Text of the system's message; None if there is none."""
        return unquote(self.system) or None

    @property
    def is_path(self) -> bool:
        """Whether it names files of the user's instead of a task of lm-eval's."""
        return "/" in self.name or self.name.endswith((".yaml", ".yml"))


def parse(word: str) -> Word:
    """Parts of a word.

    >>> word = parse("lm-eval:./my@home/arc.yaml@acc_norm@shots=25@chat@system=Yes/No?")
    >>> word.name, word.options
    ('./my@home/arc.yaml', '@metric=acc_norm@shots=25@chat@system=Yes/No?')

    Raises:
        BasinscopeError: For a part that is unknown, empty, there twice or of no sense.
    """
    front, mark, system = word.removeprefix(PREFIX).partition("@system=")
    folder, slash, last = front.rpartition("/")
    last, *options = last.split("@")
    name, values = folder + slash + last, dict.fromkeys(_OPTIONS, "")
    for option in options + [mark[1:] + system] * bool(mark):
        key, equals, value = option.partition("=")
        if not equals:
            key, value = (key, _BARE.get(key, "")) if key in _OPTIONS else ("metric", key)
        if not value or values.get(key, "?"):
            raise BasinscopeError(
                f"{option!r} in task {word!r}", f"each part once: {_GRAMMAR}", "mend or drop it"
            )
        values[key] = value
    shots, chat, multiturn = values["shots"], values["chat"], values["multiturn"]
    flags = chat in ("", "true") and multiturn in ("", "true", "false")
    if not name or not flags or not (shots.isdecimal() or not shots):
        raise BasinscopeError(f"task {word!r}", _GRAMMAR, "lm-eval:gsm8k")
    if multiturn and not chat:
        raise BasinscopeError(
            f"@multiturn without @chat in task {word!r}",
            "worked examples as turns of a chat, as with lm-eval",
            f"{PREFIX}{name}@chat, which makes them turns, or {PREFIX}{name}@chat@multiturn=false",
        )
    return Word(
        name, values["metric"], values["filter"], int(shots) if shots else None, bool(chat),
        multiturn != "false", values["system"],
    )  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Names to build, and the index in which lm-eval looks them up, and those they refer to."""

    names: tuple[str, ...]
    index: Mapping[str, Any]

    def leaves(self) -> Iterator[tuple[str, dict[str, Any], Path | None]]:
        """Name, settings (functions as text) and file of every task below the names."""
        for name in self.names:
            yield from self._below(name, {})

    def _below(
        self, name: Any, extra: Mapping[str, Any], above: tuple[str, ...] = ()
    ) -> Iterator[Any]:
        entry = self.index[name]
        kind = entry.kind.name
        if name in above:
            raise malformed(entry.yaml_path, f"the group {name!r} holds itself")
        if kind == "TAG":
            for child in sorted(entry.tags):
                yield from self._below(child, extra, above)
            return
        settings = {**_settings(entry.yaml_path), **extra}
        if kind != "GROUP":
            yield name, settings, entry.yaml_path
            return
        children = settings.get("task") or []
        for child in children if isinstance(children, list) else [children]:
            member = child if isinstance(child, dict) else {"task": child}
            below = member.get("group", member.get("task"))
            if below in self.index:
                more = {**extra, **member} if member is child else extra
                yield from self._below(below, more, (*above, name))
            elif member is not child:
                raise malformed(
                    entry.yaml_path, f"the group {name!r} holds no known task {below!r}"
                )
            elif "group" not in member:  # defined in the group's own file
                yield f"{name}::{below}", {**member, **extra}, entry.yaml_path

    def files(self) -> set[Path]:
        """YAML files of the names and of everything below them."""
        paths = {path for _, _, path in self.leaves() if path is not None}
        return paths | {p for name in self.names if (p := self.index[name].yaml_path) is not None}


def expanded(word: str) -> list[str]:
    """Words of a folder's tasks: its groups, and what belongs to none; any other word is itself.

    Raises:
        BasinscopeError: As `find`.
    """
    parts = parse(word)
    if not parts.is_path or not Path(parts.name).expanduser().is_dir():
        return [word]
    folder = parts.name.rstrip("/")
    return [f"{PREFIX}{folder}/{name}{parts.options}" for name in _local(parts.name).names]


def find(word: Word) -> Source:
    """Where the tasks of a word are defined.

    Raises:
        BasinscopeError: For an unknown name, a missing file or folder, or a YAML file that is
            malformed (which is named, with the reason).
    """
    if word.is_path:
        return _local(word.name)
    index = packaged()
    if word.name not in index:
        raise BasinscopeError(
            f"lm-eval {library().version} has no task {word.name!r}",
            f"one of its {len(index):,} tasks, groups and tags (lm-eval ls tasks), or the "
            "path of a YAML file or folder, with a slash",
            nearest(word.name, index, n=3),
        )
    return Source((word.name,), index)


@functools.cache
def packaged() -> dict[str, Any]:
    """lm-eval's own index of its tasks, groups and tags (the same, from a quarter of the work)."""
    index: dict[str, Any] = {}
    heads: dict[Path, dict[str, Any]] = {}
    for path in library().index.TaskIndex._iter_yaml_files(library().root):
        head = _head(path, heads)
        if head.keys() & {"task", "group", "class"}:
            library().index.TaskIndex.process_cfg(head, path, index)
    for entry in index.values():
        entry.cfg = None  # it is not whole: lm-eval is to read the file
    return index


def _head(path: Path, known: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """Keys of a file and of those it includes that say what it defines."""
    if path not in known:
        keys: dict[str, Any] = {}
        for key, body in _KEY.findall(path.read_text("utf-8")):
            plain = _PLAIN.fullmatch(body)
            keys[key] = plain[1] if plain else yaml.load(body, Loader=_Text)  # noqa: S506
        known[path] = keys
        if includes := keys.pop("include", None):
            merged: dict[str, Any] = {}
            for include in includes if isinstance(includes, list) else [includes]:
                merged |= _head((path.parent / include).resolve(), known)
            merged.pop("task_list", None)
            known[path] = {**merged, **keys}
    return known[path]


class _Text(yaml.SafeLoader):
    """Reads a function's name as text."""


_Text.add_constructor("!function", lambda _, node: node.value)


def _local(name: str) -> Source:
    """The user's files; a folder stands for its groups and for every task outside of them."""
    path = Path(name).expanduser()
    if path.is_file():
        index = defined = _defined([path])
        if any(entry.kind.name == "GROUP" for entry in defined.values()):
            index = _defined(_files(path.parent))  # its tasks may stand beside it
        names = [n for n, entry in defined.items() if entry.kind.name != "TAG"]
    elif path.is_dir():
        index = _defined(_files(path))
        groups = [n for n, entry in index.items() if entry.kind.name == "GROUP"]
        leaves = Source(tuple(groups), _with_packaged(index)).leaves()
        below = {leaf for leaf, _, _ in leaves}
        names = [n for n, entry in index.items() if entry.kind.name != "TAG" and n not in below]
    else:
        index = _defined(_files(path.parent))
        names = [path.name] if path.name in index else []
    if not names:
        raise BasinscopeError(
            f"no YAML file at {name!r} defines a task",
            f"a YAML file, a folder of them, or FOLDER/TASK"
            f"{': one of ' if index else ''}{', '.join(sorted(index))}",
            "without a slash, a task of lm-eval's own",
        )
    return Source(tuple(names), _with_packaged(index))


def _files(folder: Path) -> list[Path]:
    return sorted(p for end in ("yaml", "yml") for p in entries(folder, f"**/*.{end}"))


def _defined(files: Sequence[Path]) -> dict[str, Any]:
    """What files of the user's define."""
    index: dict[str, Any] = {}
    where: dict[str, Path] = {}
    for file in files:
        settings = _settings(file)
        if not settings.keys() & {"task", "group", "class"}:
            continue  # a template that others include
        name = settings.get("task") if "group" not in settings else settings["group"]
        if not isinstance(name, str):
            raise malformed(file, f"its name is {name!r}, not a text")
        if name in where:
            raise malformed(file, f"it defines {name!r}, as does {where[name]}")
        where[name] = file
        library().index.TaskIndex.process_cfg(settings, file, index)
    for entry in index.values():
        entry.cfg = None
    return index


def _with_packaged(index: dict[str, Any]) -> dict[str, Any]:
    """The index, with lm-eval's own tasks where a group may refer to them."""
    if any(entry.kind.name == "GROUP" for entry in index.values()):
        return {**packaged(), **index}
    return index


def _settings(file: Path) -> dict[str, Any]:
    """Settings of a file and those it includes, functions as text."""
    try:
        functions(file)  # before lm-eval does, this opens what it includes: no FIFO, no device
        settings = library().yaml.load_yaml(file, resolve_func=False)
    except Exception as error:  # whatever that library says of a file
        raise malformed(file, str(error) or type(error).__name__) from error
    assert isinstance(settings, dict)
    return settings


def malformed(file: Path, reason: str) -> BasinscopeError:
    """Error that names a file and what is wrong with it."""
    return BasinscopeError(
        f"{file}: {' '.join(reason.split())[:300]}", "a task in lm-eval's YAML", "mend the file"
    )


def functions(file: Path) -> list[str]:
    """Python functions that a file of the user's, or one it includes, would have imported."""
    names: list[str] = []
    waiting, seen = [file.resolve()], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen or path.is_relative_to(library().root):
            continue
        seen.add(path)
        root = yaml.compose(ordinary(path).read_text("utf-8"), Loader=_Text)
        names += _tagged(root)
        for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
            if key.value == "include":
                values = value.value if isinstance(value.value, list) else [value]
                waiting += [(path.parent / node.value).resolve() for node in values]
    return names


def _tagged(root: Any) -> list[str]:
    """Functions below a node; each is looked at once, since aliases multiply and go in circles."""
    names: list[str] = []
    nodes, seen = [root], set[int]()
    for node in nodes:
        if id(node) in seen or node is None:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            names += [node.value] if node.tag == "!function" else []
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        else:
            nodes += [part for pair in node.value for part in pair]
    return names
