"""Rows of every form that people have, and what is said of those that are malformed."""

from __future__ import annotations

import gzip
import json
import re

import pytest

import basinscope as bs
from basinscope.finetuning.data import Chat, Tally, chats

ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def turns(chat: Chat) -> list[tuple[str, str]]:
    return list(chat.messages)


GOOD = '{"prompt": "a", "answer": "b"}\n'
QA = [("user", "a"), ("assistant", "b")]
SHORT = [QA]
SAID = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
FORMS = {
    "alpaca": (ALPACA, [[("user", "Add.\n\n1 and 2"), ("assistant", "3")]]),
    "no input": (ALPACA | {"input": ""}, [[("user", "Add."), ("assistant", "3")]]),
    "null input": (ALPACA | {"input": None}, [[("user", "Add."), ("assistant", "3")]]),
    "input alone": (
        ALPACA | {"instruction": ""}, [[("user", "1 and 2"), ("assistant", "3")]],
    ),
    "question": ({"question": "a", "answer": "b"}, SHORT),
    "query": ({"query": "a", "response": "b"}, SHORT),
    "prompt": ({"prompt": "a", "completion": "b"}, SHORT),
    "response": ({"instruction": "a", "response": "b"}, SHORT),
    "target": ({"prompt": "a", "target": "b"}, SHORT),
    "the answer that is there": ({"prompt": "a", "output": "", "answer": "b"}, SHORT),
    "rendered besides": ({"instruction": "a", "prompt": "### a: b", "output": "b"}, SHORT),
    "nulls of other rows": (
        {"messages": None, "instances": [], "instruction": None, "prompt": "a", "answer": "b"}
        | {"choices": None, "system": None},
        SHORT,
    ),
    "advbench": ({"goal": "a", "target": "b"}, SHORT),
    "numbers": (
        {"question": 2, "input": -1.5, "answer": 4},
        [[("user", "2\n\n-1.5"), ("assistant", "4")]],
    ),
    "dolly": (
        {"instruction": "When?", "context": "In 1902.", "response": "1902", "category": "qa"},
        [[("user", "When?\n\nIn 1902."), ("assistant", "1902")]],
    ),
    "orca": (
        {"system_prompt": "In French.", "question": "a", "response": "b"},
        [[("system", "In French."), *QA]],
    ),
    "llama-factory": (
        {"instruction": "a", "input": "", "output": "b", "system": "s", "history": [["q", "r"]]},
        [[("system", "s"), ("user", "q"), ("assistant", "r"), *QA]],
    ),
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
                *SAID,
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
                {"role": "user", "content": "left unanswered"},
            ]
        },
        [
            [("system", "s"), *QA],
            [("system", "s"), *QA, ("user", "c"), ("assistant", "d")],
        ],
    ),
    "system beside the messages": ({"messages": SAID, "system": "s"}, [[("system", "s"), *QA]]),
    "an empty system message": (
        {"messages": [{"role": "system", "content": ""}, *SAID], "tools": []}, SHORT,
    ),
    "openai": (
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": "wrong", "weight": 0},
                *SAID[1:],
            ]
        },
        [[("system", "s"), ("user", "a"), ("assistant", "wrong"), ("assistant", "b")]],
    ),
    "sharegpt": (
        {
            "id": "x",
            "conversations": [
                {"from": "gpt", "value": "hello"},
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
            ],
        },
        [[("assistant", "hello"), *QA]],
    ),
    "prompt and completion as messages": (
        {
            "prompt": [*SAID, {"role": "user", "content": "c"}],
            "completion": [{"role": "assistant", "content": "d"}],
        },
        [[*QA, ("user", "c"), ("assistant", "d")]],
    ),
    "prompt as messages": ({"prompt": SAID[:1], "completion": "b"}, SHORT),
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", f"[{GOOD}]"),
        ("table.csv", "prompt,answer\r\na,b\r\n"),
        ("lines.jsonl", GOOD.replace("\n", "\r\n")),
        ("lines.json", GOOD.replace("\n", "\r\n")),
        ("joined.jsonl", GOOD + "\ufeff" + GOOD),
        ("joined.json", GOOD + "\ufeff" + GOOD),
        ("pretty.json", json.dumps(json.loads(GOOD), indent=2) * 2),
        ("LINES.JSONL", GOOD),
        ("TABLE.CSV", "prompt,answer\na,b\n"),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_of_windows_are_read(tmp_path, name, text, mark):
    (tmp_path / name).write_bytes((mark + text).encode())
    assert all(turns(chat) == QA for chat in chats(tmp_path / name))
    assert len(chats(tmp_path / name)) == 1 + name.startswith(("joined", "pretty"))


def test_a_packed_file_may_begin_with_a_mark(tmp_path):
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(("\ufeff" + GOOD).encode()))
    assert len(chats(tmp_path / "data.jsonl.gz")) == 1


def test_rows_of_a_json_list_know_their_lines(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[\n  {"prompt": "a",\n   "answer": "b"},\n\n{"prompt": "c", "answer": "d"}]\n')
    assert [chat.where for chat in chats(path)] == [f"{path}, line 2", f"{path}, line 5"]


WITHOUT = {
    "empty": ALPACA | {"output": ""},
    "blank": ALPACA | {"output": " \n"},
    "null": ALPACA | {"output": None},
    "no prompt": ALPACA | {"instruction": "", "input": ""},
    "no goal": {"goal": "", "target": "b"},
    "no instances": {"instruction": "a", "instances": []},
    "no messages": {"messages": []},
    "an empty question": {"messages": [{"role": "user", "content": ""}, SAID[1]]},
    "an empty reply": {"messages": [SAID[0], {"role": "assistant", "content": None}]},
    "no reply": {"messages": SAID[:1]},
    "no question": {"messages": SAID[1:]},
    "not to be learnt": {"messages": [SAID[0], SAID[1] | {"weight": 0}]},
    "nothing completed": {"prompt": SAID, "completion": []},
}


@pytest.mark.parametrize("case", WITHOUT)
def test_a_row_without_a_prompt_or_an_answer_is_left_out_and_named(case):
    tally = Tally()
    rows = [ALPACA, WITHOUT[case], ALPACA]
    assert [chat.where for chat in chats(rows, tally)] == ["row 0", "row 2"]
    assert (tally.rows, tally.left_out) == (3, ["row 1"])
    (note,) = tally.notes()
    assert note == "1 of 3 rows left out: without a prompt or an answer (row 1)"
    with pytest.raises(
        bs.BasinscopeError, match="data holds 2 rows, none with a prompt and an answer; allowed"
    ):
        chats([WITHOUT[case]] * 2)


def test_a_conversation_ends_where_a_message_is_empty():
    tally = Tally()
    row = {"messages": [*SAID, {"role": "user", "content": ""}, *SAID]}
    assert [turns(chat) for chat in chats([row], tally)] == [QA]
    assert tally.left_out == ["row 0"]


def test_columns_that_are_not_read_are_named():
    tally = Tally()
    chats([ALPACA | {"id": 3, "text": "all of it", "empty": "", "none": None, "": 7}], tally)
    chats([{"messages": [SAID[0], SAID[1] | {"name": "Ann"}], "prompt": "a", "score": 1}], tally)
    assert tally.notes() == [
        "columns not read: id, name of messages, one without a name, prompt, score, text"
    ]


@pytest.mark.parametrize(
    "column",
    ["choices", "options", "tools", "functions", "image", "images", "A", "option_b", "Choice C",
     "passage", "document", "table", "hint", "multiple_choice_options"],
)  # fmt: skip
@pytest.mark.parametrize("row", [ALPACA, {"messages": SAID}])
def test_a_column_that_belongs_to_the_prompt_is_refused(column, row):
    assert len(chats([row | {column: ""}])) == 1, "there is nothing in it"
    with pytest.raises(
        bs.BasinscopeError, match=f"row 1: '{column}' belongs to the prompt, and is not read"
    ):
        chats([row, row | {column: ["iron", "pear"]}])


HALF = '{"prompt": "so \\ud83d", "answer": "b"}'


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
    "rest of a list": (".json", GOOD + "]", "data.json, line 2: Expecting value"),
    "no comma": (".json", f"[{GOOD}{GOOD}]", "data.json, line 2: Expecting ',' or ']'"),
    "no answer": (".jsonl", GOOD + '{"prompt": "a"}\n', "line 2: no answer among ['prompt']"),
    "no prompt": (".jsonl", '{"output": "a"}\n', "line 1: no prompt among ['output']; allowed"),
    "no answer at all": (".csv", "prompt,answer\na,\n", "data.csv holds 1 rows, none with a pro"),
    "yes": (".jsonl", '{"prompt": "a", "answer": true}', "line 1: 'answer' is no text"),
    "no number": (".jsonl", '{"prompt": "a", "answer": NaN}', "line 1: 'answer' is no text"),
    "input": (".jsonl", '{"prompt": "a", "input": {}, "answer": "b"}', "'input' is no text"),
    "two prompts": (
        ".jsonl", '{"instruction": "a", "question": "c", "answer": "b"}',
        "line 1: 'instruction' and 'question' may both be the prompt",
    ),
    "history": (
        ".jsonl", '{"prompt": "a", "history": ["c"], "answer": "b"}',
        "line 1: 'history' is no list of pairs of texts",
    ),
    "half a character": (".jsonl", HALF, "line 1: 'prompt' holds half a character (\\ud83d alone)"),
    "half of one listed": (".json", f"[{HALF}]", "line 1: 'prompt' holds half a character"),
    "depth": (".jsonl", "[" * 50_000 + "]" * 50_000, "line 1: nested too deeply"),
    "depth of a list": (".json", f"[{GOOD}, {'[' * 50_000}", "line 2: nested too deeply"),
    "digits": (".jsonl", GOOD[:-2] + ', "id": ' + "9" * 5000 + "}", "line 1: a number of too many"),
    "digits in a list": (".json", '[{"id": ' + "9" * 5000 + "}]", "line 1: a number of too many"),
    "column twice": (".csv", "prompt,answer,prompt\na,b,c\n", "'prompt' names two columns"),
    "cells": (".csv", "prompt,answer\na,b,c\n", "data.csv, line 2: 3 cells; allowed: 2"),
    "columns": (".csv", "x,y\na,b\n", "data.csv, line 2: no prompt among ['x', 'y']"),
    "quote": (".csv", 'prompt,answer\na,"b\n', "data.csv, line 2: "),
    "messages": (".jsonl", '{"messages": "a"}', "line 1: the messages are no list"),
    "no content": (".jsonl", '{"messages": [{"role": "user"}]}', "line 1, message 0: no content"),
    "a picture": (
        ".jsonl", '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        "line 1, message 0: a part of 'content' is no text",
    ),
    "tool": (
        ".jsonl", '{"messages": [{"role": "tool", "content": "4"}]}',
        "line 1: message 0 has the role 'tool', not one of system, user, assistant",
    ),
    "tool call": (
        ".jsonl",
        '{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": 1}]}]}',
        "line 1: message 0 calls a tool, which is not read",
    ),
    "role": (
        ".jsonl", '{"messages": [{"role": "bot", "content": "a"}]}',
        "line 1: message 0 has the role 'bot', not one of system, user, assistant",
    ),
    "message": (".jsonl", '{"messages": ["a"]}', "line 1: message 0 has the role None"),
    "instances": (".jsonl", '{"instruction": "a", "instances": {}}', "line 1: 'instances' is no"),
    "instance": (".jsonl", '{"instruction": "a", "instances": [1]}', "line 1: instance 0 is no"),
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
    with pytest.raises(
        bs.BasinscopeError, match=f"'{word}': there is nothing: .*; allowed: a file"
    ):
        chats(word)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(bs.BasinscopeError, match="there is an empty folder; allowed: a file in"):
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
