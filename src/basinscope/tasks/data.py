"""Where the rows of published benchmarks come from: a folder, or the Hugging Face hub.

The folder is the one given, else that of the environment variable ``BASINSCOPE_DATA``; without
either, `datasets` loads the same rows from the hub (and keeps them in its own cache). A folder that
was named is never left for the hub in silence. Cells are handed on as they are, not a space taken
away, so that the hash of a task's items covers the benchmark's own text.

Layout of the folder::

    mmlu/dev/SUBJECT_dev.csv  mmlu/test/SUBJECT_test.csv   no header: question, A, B, C, D, answer
    gsm8k/train.jsonl  gsm8k/test.jsonl                     question, answer
    advbench/harmful_behaviors.csv                          goal, target
    xstest/xstest_prompts.csv                               id, prompt, type, label, focus, note
    humaneval/HumanEval.jsonl.gz                            task_id, prompt, entry_point, test
    text/wikitext2_test.txt                                 no columns: the text
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from basinscope.errors import BasinscopeError
from basinscope.files import ordinary

VARIABLE = "BASINSCOPE_DATA"
MOST_CHARACTERS = 1 << 26
"""Of a line: a longer one is no row."""


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub: its id, configuration and split."""

    repo: str
    config: str | None
    split: str


@dataclass(frozen=True)
class Row:
    """One row, and where it stands, for messages."""

    where: str
    cells: dict[str, Any]

    def bad(self, reason: str) -> BasinscopeError:
        """Error that names the place and the reason."""
        return BasinscopeError(
            f"{self.where}: {reason}",
            f"the data set's own form (this row holds {sorted(self.cells)})",
            "mend the row, or load the data anew",
        )

    def text(self, column: str) -> str:
        """Text of a column, as it is.

        Raises:
            BasinscopeError: If there is none, nothing but white space, or half a character.
        """
        value = self.cells.get(column)
        if not isinstance(value, str):
            raise self.bad(f"{column!r} is missing" if value is None else f"{column!r} is no text")
        if not value.strip():
            raise self.bad(f"{column!r} is empty")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start].encode("ascii", "backslashreplace").decode()
            raise self.bad(f"{column!r} holds half a character ({half} alone)") from None
        return value


def folder_of(data_dir: str | Path | None) -> Path | None:
    """Absolute path of the data folder: the one given, else ``BASINSCOPE_DATA``; None is the hub.

    Raises:
        BasinscopeError: If it is no folder.
    """
    folder, name = (data_dir, "--data-dir") if data_dir is not None else (_variable(), VARIABLE)
    if folder is None:
        return None
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise BasinscopeError(
            f"{name} {str(folder)!r} is no folder",
            "a folder that holds mmlu/, gsm8k/, advbench/, xstest/ or humaneval/HumanEval.jsonl.gz",
            f"leave out --data-dir and {VARIABLE} to load from the Hugging Face hub",
        )
    return path


def _variable() -> str | None:
    return os.environ.get(VARIABLE) or None


def read(
    folder: Path | None, file: str, hub: Hub, columns: Sequence[str], *, header: bool = True
) -> Iterator[Row]:
    """Rows of one split of a benchmark, one after another.

    Args:
        folder: of `folder_of`; None loads ``hub`` instead.
        file: path in the folder, in .csv, .jsonl or .jsonl.gz.
        hub: the same rows on the hub.
        columns: cells of a row of the file.
        header: whether the first row of a .csv file names the columns.

    Raises:
        BasinscopeError: If the file is missing, has no rows or a malformed one (file, line and
            reason are named), or if the hub cannot be reached.
    """
    if folder is None:
        yield from _hub_rows(hub, file)
        return
    path = folder / file
    if not path.is_file():
        raise BasinscopeError(
            f"no file {file} in the data folder {folder}",
            "one that holds it",
            f"name another --data-dir; or leave out --data-dir and {VARIABLE} to load "
            f"{hub.repo} from the Hugging Face hub",
        )
    is_table = path.suffix.lower() == ".csv"
    rows = _csv_rows(path, columns, header) if is_table else _json_rows(path)
    n = 0
    try:
        ordinary(path)
        for row in rows:
            n += 1
            yield row
    except UnicodeDecodeError as error:
        raise BasinscopeError(
            f"{path}: after row {n}: byte {error.object[error.start]:#04x} is not UTF-8",
            "text in UTF-8",
            "save the file as UTF-8, or load the data anew",
        ) from None
    except OSError as error:
        raise BasinscopeError(
            f"cannot read {path} ({error.strerror or error})",
            "a file that can be read",
            "mend its permissions, or copy it again",
        ) from error
    if n == 0:
        raise BasinscopeError(f"{path} holds no rows", "at least one row", "load the data anew")


def _csv_rows(path: Path, columns: Sequence[str], header: bool) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(_lines(handle), strict=True)
        names, line = None if header else list(columns), 1
        try:
            for cells in reader:
                row, line = Row(f"{path}, line {line}", {}), reader.line_num + 1
                if not cells:
                    continue
                if names is None:
                    names = cells
                    if twice := [name for n, name in enumerate(names) if name in names[:n]]:
                        raise BasinscopeError(
                            f"{row.where}: {twice[0]!r} names two columns",
                            "a name for each",
                            "rename one of them",
                        )
                    if missing := [c for c in columns if c not in names]:
                        raise BasinscopeError(
                            f"{row.where}: no column {missing[0]!r}",
                            f"a column of that name beside {names}",
                            "load the data anew",
                        )
                elif len(cells) != len(names):
                    raise BasinscopeError(
                        f"{row.where}: {len(cells)} cells", f"{len(names)}: {names}", "mend the row"
                    )
                else:
                    yield Row(row.where, dict(zip(names, cells, strict=True)))
        except csv.Error as error:
            raise BasinscopeError(
                f"{path}, line {line}: {error}", 'commas, and cells quoted by "', "mend the line"
            ) from None


def _json_rows(path: Path) -> Iterator[Row]:
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            yield from _objects(path, _unpacked(path, _lines(handle)))
    else:
        with path.open(encoding="utf-8") as handle:
            yield from _objects(path, _lines(handle))


def _lines(handle: TextIO) -> Iterator[str]:
    return iter(lambda: handle.readline(MOST_CHARACTERS), "")


def _unpacked(path: Path, lines: Iterable[str]) -> Iterator[str]:
    line = 1
    try:
        for text in lines:
            yield text
            line += 1
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BasinscopeError(
            f"{path}, line {line}: {error}", "a whole file in gzip", "load the data anew"
        ) from None


def _objects(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        try:
            # Windows programs mark the beginning of a file so, and files are joined
            cells = json.loads(text.lstrip("\ufeff").rstrip("\r\n"))
        except (ValueError, RecursionError) as error:
            raise BasinscopeError(
                f"{where}: {fault_of(error)}", "a JSON object a line", "mend the line"
            ) from None
        if not isinstance(cells, dict):
            raise BasinscopeError(f"{where}: no object", "a JSON object a line", "mend it")
        yield Row(where, cells)


def fault_of(error: ValueError | RecursionError) -> str:
    """What is wrong with a text that is no JSON, or more than can be read."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {error.colno})"
    return (
        "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
    )


def _hub_rows(hub: Hub, file: str) -> Iterator[Row]:
    import datasets  # type: ignore[import-untyped]

    try:
        rows = datasets.load_dataset(hub.repo, hub.config, split=hub.split)
    except Exception as error:  # whatever that library raises, the user needs to know these words
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        network = isinstance(error, (ConnectionError, TimeoutError))
        raise BasinscopeError(
            f"{hub.repo} could not be loaded from the Hugging Face hub: "
            f"{'no network: ' if network else ''}{reason}",
            f"a folder with {file}, given by --data-dir or {VARIABLE}",
            "name such a folder, or run once with a network: the hub's copy is then kept",
        ) from error
    for n, cells in enumerate(rows):
        yield Row(f"{hub.repo} ({hub.split}), row {n}", dict(cells))
