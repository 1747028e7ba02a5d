"""Rows from folders and from the hub, and what is said where there are none."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

import basinscope as bs
from basinscope.files import MOST_BYTES
from basinscope.tasks import Task
from basinscope.tasks.base import items_hash
from basinscope.tasks.data import Hub, Row, folder_of, read
from basinscope.tasks.words import PUBLISHED, SHIPPED, from_recipe, recipe

HUB = Hub("someone/something", None, "test")


def rows(folder: Path, file: str = "x/rows.csv", *, header: bool = True) -> list[Row]:
    return list(read(folder, file, HUB, ("a", "b"), header=header))


@pytest.fixture
def put(tmp_path):
    def write(text: str | bytes, file: str = "x/rows.csv") -> Path:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


# --- which folder ------------------------------------------------------------------------------


def test_the_folder_given_comes_before_the_environment_and_the_hub(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    assert folder_of(None) is None
    monkeypatch.setenv("BASINSCOPE_DATA", str(tmp_path))
    assert folder_of(None) == tmp_path
    assert folder_of(tmp_path / "own") == tmp_path / "own"
    monkeypatch.chdir(tmp_path)
    assert folder_of("own") == tmp_path / "own"
    monkeypatch.setenv("BASINSCOPE_DATA", "")
    assert folder_of(None) is None


def test_what_is_no_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(bs.BasinscopeError, match=r"--data-dir '.*nowhere' is no folder"):
        folder_of(tmp_path / "nowhere")
    monkeypatch.setenv("BASINSCOPE_DATA", "nowhere")
    with pytest.raises(bs.BasinscopeError, match="BASINSCOPE_DATA 'nowhere' is no folder"):
        bs.tasks("mmlu")


# --- rows of files -----------------------------------------------------------------------------


def test_cells_are_kept_as_they_are(put):
    folder = put('a,b\n" one ","two\r\nlines, ""quoted"""\n\né\u2028,  \n')
    found = rows(folder)
    assert [row.cells for row in found] == [
        {"a": " one ", "b": 'two\r\nlines, "quoted"'},
        {"a": "é\u2028", "b": "  "},
    ]
    assert [row.where.rpartition(" ")[2] for row in found] == ["2", "5"]


def test_a_file_without_header_is_named_by_its_columns(put):
    assert [row.cells for row in rows(put("1,2\n3,4\n"), header=False)] == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]


def test_json_rows_are_objects(put):
    folder = put('{"a": "x\\u2028y", "b": 1}\n\n{"a": " "}\n', "x/rows.jsonl")
    found = rows(folder, "x/rows.jsonl")
    assert [row.cells for row in found] == [{"a": "x\u2028y", "b": 1}, {"a": " "}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n3,4,5\n", r"rows\.csv, line 3: 3 cells; allowed: 2: \['a', 'b'\]"),
        ('a,b\n"1\n2",3\n4\n', r"rows\.csv, line 4: 1 cells"),
        ('a,b\n1,2\n3,"4\n5,6\n', r"rows\.csv, line 3: unexpected end of data"),
        ('a,b\n1,"2"3\n', r"rows\.csv, line 2: ',' expected after '\"'"),
        ("a,c\n1,2\n", r"rows\.csv, line 1: no column 'b'; allowed: .*beside \['a', 'c'\]"),
        ("a,b\n", r"rows\.csv holds no rows"),
        ("", r"rows\.csv holds no rows"),
        (b"a,b\n1,\xe9\n", r"rows\.csv: after row 0: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_malformed_table_names_file_line_and_reason(put, text, reason):
    with pytest.raises(bs.BasinscopeError, match=reason):
        rows(put(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}\n{"a": \n', r"rows\.jsonl, line 2: Expecting value \(column 7\)"),
        ('{"a": 1}\n\n[1]\n', r"rows\.jsonl, line 3: no object; allowed: a JSON object a line"),
        ("\n\n", r"rows\.jsonl holds no rows"),
        (b'{"a": 1}\n\xff\n', "is not UTF-8"),
    ],
)
def test_malformed_json_names_file_line_and_reason(put, text, reason):
    with pytest.raises(bs.BasinscopeError, match=reason):
        rows(put(text, "x/rows.jsonl"), "x/rows.jsonl")


def test_a_gzipped_file_is_read_as_the_plain_one(put):
    text = b'{"a": "x\\u2028y"}\n\n{"a": 1}\n'
    put(text, "x/rows.jsonl")
    folder = put(gzip.compress(text), "x/rows.jsonl.gz")
    plain, packed = rows(folder, "x/rows.jsonl"), rows(folder, "x/rows.jsonl.gz")
    assert (
        [row.cells for row in packed]
        == [row.cells for row in plain]
        == [{"a": "x\u2028y"}, {"a": 1}]
    )
    assert [row.where for row in packed] == [
        row.where.replace("jsonl", "jsonl.gz") for row in plain
    ]


PACKED = gzip.compress(b'{"a": 1}\n' * 3, mtime=0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PACKED[:-9], r"rows\.jsonl\.gz, line \d: Compressed file ended .*allowed: a whole file"),
        (PACKED[:2], r"rows\.jsonl\.gz, line 1: Compressed file ended .*allowed: a whole file"),
        (b"no gzip", r"rows\.jsonl\.gz, line 1: Not a gzipped file .*allowed: a whole file in gz"),
        (PACKED[:10] + b"\xff" + PACKED[11:], r"rows\.jsonl\.gz, line 1: Error -3 .*load the data"),
        (PACKED + gzip.compress(b"[", mtime=0), r"rows\.jsonl\.gz, line 4: Expecting value"),
        (gzip.compress(b"\xff", mtime=0), r"rows\.jsonl\.gz: after row 0: byte 0xff is not UTF-8"),
        (b"", r"rows\.jsonl\.gz holds no rows"),
    ],
    ids=["cut", "header alone", "no gzip", "bad block", "bad json", "no text", "empty"],
)
def test_a_spoilt_gzip_names_file_line_and_reason(put, data, reason):
    with pytest.raises(bs.BasinscopeError, match=reason) as caught:
        rows(put(data, "x/rows.jsonl.gz"), "x/rows.jsonl.gz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "'a' is missing"), (3, "'a' is no text"), (" \n", "'a' is empty")],
)
def test_a_cell_that_is_no_text_is_refused(value, reason):
    with pytest.raises(
        bs.BasinscopeError, match=f"here, line 7: {reason}; allowed: .*this row holds .'a'"
    ):
        Row("here, line 7", {"a": value}).text("a")


@pytest.mark.parametrize("name", ["x/rows.csv", "x/rows.jsonl"])
def test_a_file_too_large_for_a_benchmark_is_refused(name, put):
    folder = put("", name)
    with (folder / name).open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(bs.BasinscopeError, match=r"cannot read .*it has 536,870,913 bytes"):
        rows(folder, name)


def test_a_missing_file_names_folder_hub_and_flag(tmp_path):
    reason = (
        rf"no file x/rows\.csv in the data folder {tmp_path}; .*another --data-dir; or leave out "
        r"--data-dir and BASINSCOPE_DATA to load someone/something from the Hugging Face hub"
    )
    with pytest.raises(bs.BasinscopeError, match=reason):
        rows(tmp_path)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if ":" not in n])
def test_every_benchmark_says_what_is_missing(name, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=r"no file \w+/.*; .*--data-dir.*/.* from the Hug"):
        bs.tasks(name, data_dir=tmp_path)


# --- rows of the hub ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Couldn't reach\nit"), "hub: no network: Couldn't reach it; allowed: a f"),
        (TimeoutError(), "hub: no network: TimeoutError; "),
        (ValueError("gated: log in"), "hub: gated: log in; "),
    ],
)
def test_a_hub_out_of_reach_names_id_reason_file_and_flag(monkeypatch, error, reason):
    import datasets

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(bs.BasinscopeError, match=reason) as caught:
        bs.tasks("gsm8k")
    for word in ("openai/gsm8k", "gsm8k/train.jsonl", "--data-dir", "BASINSCOPE_DATA"):
        assert word in str(caught.value)


def test_offline_the_hub_is_not_waited_for(tmp_path):
    code = (
        "import basinscope as bs\n"
        "try: bs.tasks('mmlu')\n"
        "except bs.BasinscopeError as error: print(error)\n"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=100
    )
    assert "cais/mmlu could not be loaded from the Hugging Face hub: no network" in ended.stdout


def test_the_hub_gives_the_items_that_the_folder_gives(made, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", HubOf(made))
    for name in (n for n in PUBLISHED if ":" not in n or n.endswith(":virology")):
        (there,), (here,) = bs.tasks(name), bs.tasks(name, data_dir=made)
        assert there.items == here.items, name
        assert items_hash(there) == items_hash(here)
        assert recipe(there)["data_dir"] is None


class HubOf:
    """The rows of a folder in the shape that the hub has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, repo: str, config: str | None, *, split: str) -> list[dict[str, object]]:
        from basinscope.tasks.mmlu import SUBJECTS

        if repo == "cais/mmlu":
            letters = ["question", *"ABCD", "answer"]
            return [
                {
                    "question": row.cells["question"],
                    "subject": subject,
                    "choices": [row.cells[letter] for letter in "ABCD"],
                    "answer": "ABCD".index(row.cells["answer"]),
                }
                for subject in (SUBJECTS if config == "all" else [config])
                for row in self.rows(f"mmlu/{split}/{subject}_{split}.csv", letters, False)
            ]
        if repo == "openai/gsm8k":
            assert config == "main"
            return [row.cells for row in self.rows(f"gsm8k/{split}.jsonl", ())]
        assert (config, split) == (None, "train")
        if repo == "Paul/XSTest":
            return [row.cells for row in self.rows("xstest/xstest_prompts.csv", ())]
        assert repo == "walledai/AdvBench"
        return [
            {"prompt": row.cells["goal"], "target": row.cells["target"]}
            for row in self.rows("advbench/harmful_behaviors.csv", ())
        ]

    def rows(self, file, columns, header=True):
        return read(self.folder, file, HUB, columns, header=header)


# --- names and recipes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [n for n in (*SHIPPED, *PUBLISHED) if ":" not in n] + ["mmlu:anatomy"]
)
@pytest.mark.parametrize("limit", [None, 2])
def test_a_recipe_builds_the_same_task(made, name, limit):
    import json

    (task,) = bs.tasks(name, limit=limit, seed=5, data_dir=made)
    words = recipe(task)
    again = from_recipe(json.loads(json.dumps(words)))
    assert (again.name, again.chance, again.scoring) == (task.name, task.chance, task.scoring)
    assert again.items == task.items
    assert items_hash(again) == items_hash(task)


def test_the_recipe_carries_the_folder_of_the_environment(made, monkeypatch):
    monkeypatch.setenv("BASINSCOPE_DATA", str(made))
    words = recipe(bs.tasks("gsm8k", limit=1)[0])
    assert words["data_dir"] == str(made)


def test_a_task_of_ones_own_by_a_published_name_has_no_recipe():
    assert recipe(bs.CallableTask("mmlu", lambda module: [1], n_items=1)) is None


def test_unknown_names_are_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(
        bs.BasinscopeError, match=r"task 'mmlu:anatomie'; .*mmlu:SUBJECT, .*; try: mmlu:anatomy"
    ):
        bs.tasks("mmlu,mmlu:anatomie", data_dir=tmp_path)
    with pytest.raises(bs.BasinscopeError, match=r"task 'gsm8k:x'; allowed: .*mini.*gsm8k"):
        bs.tasks("gsm8k:x", data_dir=tmp_path)


def test_several_benchmarks_at_once(made):
    found = bs.tasks("math,gsm8k,mmlu:virology,gsm8k", limit=2, data_dir=made)
    assert [task.name for task in found] == ["math", "gsm8k", "mmlu:virology"]
    assert all(isinstance(task, Task) for task in found)
