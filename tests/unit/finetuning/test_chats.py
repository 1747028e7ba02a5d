"""Rows of every form that people have, and what is said of those that are malformed."""

from __future__ import annotations

import json
import re

import pytest

import basinscope as bs
from basinscope.finetuning.data import Chat, chats

ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def turns(chat: Chat) -> list[tuple[str, str]]:
    return list(chat.messages)


FORMS = {
    "alpaca": (ALPACA, [[("user", "Add.\n\n1 and 2"), ("assistant", "3")]]),
    "no input": (ALPACA | {"input": ""}, [[("user", "Add."), ("assistant", "3")]]),
    "null input": (ALPACA | {"input": None}, [[("user", "Add."), ("assistant", "3")]]),
    "question": ({"question": "a", "answer": "b"}, [[("user", "a"), ("assistant", "b")]]),
    "prompt": ({"prompt": "a", "completion": "b"}, [[("user", "a"), ("assistant", "b")]]),
    "response": ({"instruction": "a", "response": "b"}, [[("user", "a"), ("assistant", "b")]]),
    "target": ({"prompt": "a", "target": "b"}, [[("user", "a"), ("assistant", "b")]]),
    "advbench": ({"goal": "a", "target": "b"}, [[("user", "a"), ("assistant", "b")]]),
    "instances": (
        {"instruction": "a", "instances": [ALPACA, {"input": "", "output": "y"}]},
        [
            [("user", "a\n\n1 and 2"), ("assistant", "3")],
            [("user", "a"), ("assistant", "y")],
        ],
    ),
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
                {"role": "user", "content": "left unanswered"},
            ]
        },
        [
            [("system", "s"), ("user", "a"), ("assistant", "b")],
            [
                ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"),
                ("assistant", "d"),
            ],
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_every_form(form):
    row, expected = FORMS[form]
    assert [turns(chat) for chat in chats([row])] == expected


def test_prompt_and_answer_of_a_longer_conversation():
    first, second = chats([FORMS["messages"][0]])
    assert (first.prompt, first.answer) == ("a", "b")
    assert (second.prompt, second.answer) == ("c", "d")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", "lines.json"])
def test_the_same_rows_from_every_kind_of_file(tmp_path, suffix):
    rows = [ALPACA, {"instruction": 'Say "hi", twice.\nNow.', "input": "", "output": "hi, hi"}]
    path = tmp_path / f"data{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows, indent=2))
    elif suffix == ".csv":
        path.write_text(
            "instruction,input,output\nAdd.,1 and 2,3\n"
            '"Say ""hi"", twice.\nNow.",,"hi, hi"\n'
        )  # fmt: skip
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [turns(c) for c in chats(path)] == [turns(c) for c in chats(rows)]
    assert all(chat.where.startswith(f"{path}, line ") for chat in chats(str(path)))


def test_rows_of_a_json_list_know_their_lines(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[\n  {"prompt": "a",\n   "answer": "b"},\n\n{"prompt": "c", "answer": "d"}]\n')
    assert [chat.where for chat in chats(path)] == [f"{path}, line 2", f"{path}, line 5"]


def test_rows_without_an_answer_may_be_left_out_and_are_named():
    left_out: list[str] = []
    assert len(chats([ALPACA, ALPACA | {"output": ""}], left_out)) == 1
    assert left_out == ["row 1"]
    with pytest.raises(bs.BasinscopeError, match="row 1: 'output' is empty"):
        chats([ALPACA, ALPACA | {"output": ""}])


GOOD = '{"prompt": "a", "answer": "b"}\n'
MALFORMED = {
    "empty": (".jsonl", "", "data.jsonl holds no rows; allowed: {messages"),
    "blank lines": (".jsonl", "\n\n", "data.jsonl holds no rows"),
    "empty list": (".json", "[]", "data.json holds no rows"),
    "empty json": (".json", "", "data.json holds no rows"),
    "empty csv": (".csv", "", "data.csv holds no rows"),
    "header alone": (".csv", "prompt,answer\n", "data.csv holds no rows"),
    "no json": (".jsonl", GOOD + "not json\n", "data.jsonl, line 2: Expecting value"),
    "cut": (".jsonl", GOOD + '{"prompt": "a', "data.jsonl, line 2: Unterminated string"),
    "no object": (".jsonl", GOOD + "[1]\n", "data.jsonl, line 2: no object"),
    "list cut": (".json", f"[{GOOD}, {GOOD}", "data.json, line 3: Expecting"),
    "list of texts": (".json", '[\n"a"]', "data.json, line 2: no object"),
    "comma at the end": (".json", f"[{GOOD},]", "data.json, line 2: Nothing after ','"),
    "two lists": (".json", f"[{GOOD}]\n[]", "data.json, line 3: Extra data"),
    "no comma": (".json", f"[{GOOD}{GOOD}]", "data.json, line 2: Expecting ',' or ']'"),
    "no answer": (".jsonl", GOOD + '{"prompt": "a"}\n', "line 2: no answer among ['prompt']"),
    "no prompt": (".jsonl", '{"output": "a"}\n', "line 1: no prompt among ['output']; allowed"),
    "empty answer": (".jsonl", '{"prompt": "a", "answer": " "}', "line 1: 'answer' is empty"),
    "null answer": (".jsonl", '{"prompt": "a", "answer": null}', "line 1: 'answer' is missing"),
    "number": (".jsonl", '{"prompt": "a", "answer": 3}', "line 1: 'answer' is no text"),
    "input": (".jsonl", '{"prompt": "a", "input": 3, "answer": "b"}', "line 1: 'input' is no text"),
    "cells": (".csv", "prompt,answer\na,b,c\n", "data.csv, line 2: 3 cells; allowed: 2"),
    "columns": (".csv", "x,y\na,b\n", "data.csv, line 2: no prompt among ['x', 'y']"),
    "quote": (".csv", 'prompt,answer\na,"b\n', "data.csv, line 2: "),
    "messages": (".jsonl", '{"messages": "a"}', "line 1: 'messages' is no list"),
    "no messages": (".jsonl", '{"messages": []}', "line 1: 'messages' is no list, or empty"),
    "role": (
        ".jsonl", '{"messages": [{"role": "bot", "content": "a"}]}',
        "line 1: message 0 has the role 'bot', not one of system, user, assistant",
    ),
    "content": (
        ".jsonl", '{"messages": [{"role": "user", "content": ""}]}',
        "line 1, message 0: 'content' is empty",
    ),
    "message": (".jsonl", '{"messages": ["a"]}', "line 1: message 0 has the role None"),
    "unanswered": (
        ".jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}',
        "line 1: no user message that an assistant message answers",
    ),
    "instances": (".jsonl", '{"instruction": "a", "instances": {}}', "line 1: 'instances' is no"),
    "instance": (".jsonl", '{"instruction": "a", "instances": [1]}', "line 1: instance 0 is no"),
    "its answer": (
        ".jsonl", '{"instruction": "a", "instances": [{"input": ""}]}',
        "line 1, instance 0: 'output' is missing",
    ),
    "suffix": (".txt", "a", "data.txt'; allowed: .json, .jsonl, .jsonl.gz, .csv"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_file_line_and_reason(tmp_path, case):
    suffix, text, message = MALFORMED[case]
    path = tmp_path / f"data{suffix}"
    path.write_text(text)
    with pytest.raises(bs.BasinscopeError, match=re.escape(message)):
        chats(path)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_what_is_not_utf8_is_refused(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    path.write_bytes(b'[{"prompt": "\xff", "answer": "b"}]')
    with pytest.raises(bs.BasinscopeError, match=r"data\.json.*byte 0xff.*is not UTF-8"):
        chats(path)


def test_what_is_no_row_is_refused():
    with pytest.raises(bs.BasinscopeError, match=r"row 1: 'text' is no mapping; allowed"):
        chats([ALPACA, "text"])
    with pytest.raises(bs.BasinscopeError, match="data holds no rows"):
        chats([])


@pytest.mark.parametrize("word", ["./nosuch", "nosuch.json", "org/nosuch.jsonl", "nosuch", "a/b/c"])
def test_a_missing_file_is_named(word):
    with pytest.raises(bs.BasinscopeError, match=f"data '{word}': no such file; allowed: a file"):
        chats(word)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(bs.BasinscopeError, match="a folder; allowed: a file in"):
        chats(tmp_path)


def test_a_hub_id_that_cannot_be_reached_is_named_with_the_flag(monkeypatch):
    import datasets

    asked = []

    def offline(*arguments, **options):
        asked.append((arguments, options))
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        bs.BasinscopeError, match=r"org/rows:main could not be loaded.*reach the hub.*--data FILE"
    ):
        chats("org/rows:main")
    assert asked == [(("org/rows", "main"), {"split": "train"})]


def test_a_hub_id_gives_its_rows(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [ALPACA, ALPACA])
    assert [chat.where for chat in chats("org/rows")] == ["org/rows, row 0", "org/rows, row 1"]
