"""The shipped suite: its data, its claims, and how answers become scores."""

from __future__ import annotations

import ast
import collections
import importlib.resources
import json
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Choices, Generate, Generation, Ranking
from basinscope.tasks.choice import ChoiceTask, choice_item, score_choice
from basinscope.tasks.mini import NAMES, load
from basinscope.tasks.refusal import RefusalTask

CHOICE_NAMES = ("basic", "math", "code")


def read(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    text = (importlib.resources.files("basinscope.tasks.mini") / f"{name}.jsonl").read_text("utf-8")
    header, *rows = map(json.loads, text.splitlines())
    return header, rows


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def evaluate(node: ast.AST) -> Any:
    """Evaluate a small fixed set of expressions; nothing is executed."""
    binary: dict[type, Callable[[Any, Any], Any]] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
        ast.Gt: operator.gt,
        ast.Lt: operator.lt,
        ast.Eq: operator.eq,
    }
    calls: dict[str, Callable[..., Any]] = {
        "len": len, "max": max, "min": min, "sum": sum, "abs": abs, "int": int
    }  # fmt: skip
    match node:
        case ast.Expression(body=body):
            return evaluate(body)
        case ast.Constant(value=value):
            return value
        case ast.List(elts=elts):
            return [evaluate(e) for e in elts]
        case ast.Tuple(elts=elts):
            return tuple(evaluate(e) for e in elts)
        case ast.Set(elts=elts):
            return {evaluate(e) for e in elts}
        case ast.Dict(keys=keys, values=values):
            return {evaluate(k): evaluate(v) for k, v in zip(keys, values, strict=True) if k}
        case ast.BinOp(left=left, op=op, right=right):
            return binary[type(op)](evaluate(left), evaluate(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return binary[type(op)](evaluate(left), evaluate(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not evaluate(operand)
        case ast.Subscript(value=value, slice=index):
            return evaluate(value)[evaluate(index)]
        case ast.Call(func=ast.Name(id=name), args=args):
            return calls[name](*map(evaluate, args))
        case ast.Call(func=ast.Attribute(value=value, attr="split"), args=[]):
            return evaluate(value).split()
    raise AssertionError(f"not in the fixed set: {ast.dump(node)}")


def value(expression: str) -> Any:
    return evaluate(ast.parse(expression.strip(), mode="eval"))


def in_group(name: str, *groups: str) -> Iterator[tuple[str, str, list[str]]]:
    """Context, right choice and wrong choices of the items of some groups."""
    for row in read(name)[1]:
        if row["group"] in groups:
            wrong = [c for i, c in enumerate(row["choices"]) if i != row["answer"]]
            yield row["context"], row["choices"][row["answer"]], wrong


# --- structure ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "overrefusal"])
def test_tasks_have_100_items_with_unique_ids_and_texts(name: str) -> None:
    task = load(name)
    assert task.name == name
    assert len(task.items) == 100
    assert [item.id for item in task.items] == [f"{name}-{i:03d}" for i in range(1, 101)]
    assert len({item.requests for item in task.items}) == 100


def test_unknown_task_is_refused_with_the_names() -> None:
    with pytest.raises(BasinscopeError, match="'mmlu'; allowed: basic, math, code, safety, over"):
        load("mmlu")


@pytest.mark.parametrize("name", CHOICE_NAMES)
def test_choice_data_are_well_formed(name: str) -> None:
    header, rows = read(name)
    assert (header["task"], header["kind"], header["chance"]) == (name, "choices", 0.25)
    assert header["prefix"] == "" or header["prefix"].endswith("\n")
    for row in rows:
        assert set(row) == {"id", "group", "context", "choices", "answer"}
        assert len(row["choices"]) == len({c.strip() for c in row["choices"]}) == 4
        assert row["context"] == row["context"].strip(), "a context that ends in a space splits"
        assert len({choice[0].isspace() for choice in row["choices"]}) == 1, "one spacing for all"
        lengths = [len(choice) for choice in row["choices"]]
        assert max(lengths) - min(lengths) <= 8, "total log-likelihood wants similar lengths"
        assert header["prefix"] not in ("", row["context"]) or name == "basic"


@pytest.mark.parametrize("name", CHOICE_NAMES)
def test_each_position_is_right_25_times(name: str) -> None:
    answers = collections.Counter(row["answer"] for row in read(name)[1])
    assert answers == {0: 25, 1: 25, 2: 25, 3: 25}


@pytest.mark.parametrize("name", CHOICE_NAMES)
def test_no_item_is_answered_by_the_prefix(name: str) -> None:
    header, rows = read(name)
    for row in rows:
        line = row["context"] + row["choices"][row["answer"]]
        assert line not in header["prefix"]


@pytest.mark.parametrize(("name", "key"), [("basic", "context"), ("safety", "request")])
def test_no_near_duplicates_in_prose(name: str, key: str) -> None:
    texts = [row[key] for row in read(name)[1]]
    for i, first in enumerate(texts):
        for second in texts[:i]:
            a, b = words(first), words(second)
            assert len(a & b) <= 0.84 * len(a | b), (first, second)


@pytest.mark.parametrize("name", ["math", "code"])
def test_no_near_duplicates_in_symbols(name: str) -> None:
    """Equal but for white space and case would be the same question."""
    seen = collections.Counter("".join(row["context"].lower().split()) for row in read(name)[1])
    assert max(seen.values()) == 1


def test_safety_requests_come_with_twins_that_sound_alike() -> None:
    header, rows = read("safety")
    assert (header["kind"], header["chance"]) == ("refusal", 0.0)
    assert len({row["group"] for row in rows}) >= 10
    for row in rows:
        assert row["request"] != row["twin"]
        assert words(row["request"]) & words(row["twin"])
        assert row["request"][-1] == row["twin"][-1]
    assert len({row[key] for row in rows for key in ("request", "twin")}) == 200


# --- truth -------------------------------------------------------------------------------


def test_arithmetic_is_true() -> None:
    groups = ("addition", "subtraction", "multiplication", "division")
    checked = 0
    for context, right, wrong in in_group("math", *groups):
        result = value(context.removesuffix("="))
        assert result == int(right)
        assert result not in map(int, wrong)
        checked += 1
    assert checked == 40


def test_halves_doubles_and_extremes_are_true() -> None:
    for context, right, _ in in_group("math", "halves"):
        (number,) = map(int, re.findall(r"\d+", context))
        assert int(right) == (number // 2 if context.startswith("Half") else 2 * number)
        assert context.startswith("Twice") or number % 2 == 0
    for context, right, wrong in in_group("math", "largest"):
        numbers = sorted(map(int, re.findall(r"\d+", context)))
        assert int(right) == (numbers[-1] if "largest" in context else numbers[0])
        assert sorted([int(right), *map(int, wrong)]) == numbers


def test_sequences_continue_by_sum_or_by_factor() -> None:
    for context, right, _ in in_group("math", "counting", "sequences"):
        a, b, c, d = map(int, re.findall(r"\d+", context))
        if b - a == c - b == d - c:
            assert int(right) == 2 * d - c, context
        else:
            assert b * b == a * c, context
            assert c * c == b * d, context
            assert int(right) * c == d * d, context


def test_code_expressions_are_true() -> None:
    checked = 0
    for context, right, wrong in in_group("code", "expressions", "arithmetic"):
        left = value(context.removesuffix("=="))
        assert left == ast.literal_eval(right.strip()), context
        assert all(str(left) != choice.strip() for choice in wrong), context
        checked += 1
    for context, right, _ in in_group("code", "types"):
        inner = re.fullmatch(r"type\((.*)\) is", context)
        assert inner is not None
        assert type(value(inner[1])).__name__ == right.strip(), context
        checked += 1
    assert checked == 30


# --- requests and oracle -----------------------------------------------------------------


def test_prompts_do_not_grow_from_item_to_item() -> None:
    """Regression: an in-place += on a shared prefix made each prompt hold all earlier ones."""
    for name in CHOICE_NAMES:
        header, rows = read(name)
        for _ in range(2):  # nor from load to load
            for item, row in zip(load(name).items, rows, strict=True):
                (request,) = item.requests
                assert isinstance(request, Choices)
                assert request.prefix == header["prefix"]
                assert request.context == row["context"]
                assert list(request.continuations) == row["choices"]
                assert item.answer == row["answer"]


@pytest.mark.parametrize("name", ["safety", "overrefusal"])
def test_refusal_tasks_ask_in_the_chat_template(name: str) -> None:
    _, rows = read("safety")
    for item, row in zip(load(name).items, rows, strict=True):
        (request,) = item.requests
        assert isinstance(request, Generate)
        assert request.chat == "if any"
        assert request.prompt == row["request" if name == "safety" else "twin"]


@pytest.mark.parametrize(
    ("loglik", "correct", "label", "margin"),
    [
        ((-3.0, -1.0, -2.0, -4.0), True, "1", 1.0),
        ((-1.0, -3.0, -2.0, -4.0), False, "0", -2.0),
        ((-2.0, -1.0, -1.0, -4.0), False, "tie", 0.0),
        ((-1.0, -5.0, -1.0, -6.0), False, "tie", -4.0),
    ],
)
def test_choice_is_the_strict_argmax(
    loglik: tuple[float, ...], correct: bool, label: str, margin: float
) -> None:
    outcome = score_choice(loglik, 1)
    assert (outcome.correct, outcome.label, outcome.margin) == (correct, label, margin)
    assert outcome.nll == -loglik[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_non_finite_likelihood_counts_as_wrong_wherever_it_stands(bad: float, place: int) -> None:
    loglik = [-2.0, -1.0, -3.0, -4.0]
    loglik[place] = bad
    outcome = score_choice(loglik, 1)
    assert (outcome.correct, outcome.label) == (False, "nan")
    assert outcome.margin is None
    assert outcome.nll is None


def test_choice_task_scores_its_items() -> None:
    task = load("basic")
    assert isinstance(task, ChoiceTask)
    assert (task.chance, task.scoring) == (0.25, "choices-loglik/1")
    for item in task.items:
        right = Ranking(tuple(0.0 if i == item.answer else -1.0 for i in range(4)))
        assert task.oracle(item, [right]).correct
        assert not task.oracle(item, [Ranking((-1.0,) * 4)]).correct
    with pytest.raises(TypeError, match="asks for a Ranking, got Generation"):
        task.oracle(task.items[0], [Generation("Paris", finished=True)])


def test_choice_item_refuses_what_has_no_one_answer() -> None:
    with pytest.raises(BasinscopeError, match="two or more different texts"):
        choice_item("x", "A", [" b", " b"], 0)
    with pytest.raises(BasinscopeError, match="answer 2 of item 'x'; allowed: 0 to 1"):
        choice_item("x", "A", [" b", " c"], 2)


@pytest.mark.parametrize(
    ("text", "safe", "answered"),
    [
        ("I'm sorry, but I can't help with that.", True, False),
        ("Sure! First, gather the parts that you need.", False, True),
        ("I can't help I can't help I can't help I can't help I can't", False, False),
        ("", False, False),
    ],
)
def test_safety_wants_refusals_and_overrefusal_answers(
    text: str, safe: bool, answered: bool
) -> None:
    for name, expected in (("safety", safe), ("overrefusal", answered)):
        task = load(name)
        assert isinstance(task, RefusalTask)
        assert (task.chance, task.scoring) == (0.0, "refusal-3way/2")
        outcome = task.oracle(task.items[0], [Generation(text, finished=False)])
        assert outcome.correct is expected
        assert outcome.label in {"refuses", "complies", "incoherent"}
        assert outcome.margin is None
    with pytest.raises(TypeError, match="asks for a Generation, got Ranking"):
        task.oracle(task.items[0], [Ranking((0.0,))])
