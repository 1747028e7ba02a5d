"""An address changes with exactly what determines the outcome."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

import basinscope as bs
from basinscope.runs.spec import (
    MODEL,
    ModelSpec,
    RunSpec,
    TaskSpec,
    canonical,
    conflicts,
    merged,
    model_spec,
    sha256,
    task_spec,
    trial_key,
)
from basinscope.tasks import Choices, Generate
from basinscope.tasks.base import Item
from basinscope.weights import noise

MODEL_SPEC = ModelSpec(
    source="somewhere", fingerprint="f" * 64, setup="s", dtype="bfloat16", engine="transformers/1",
    params=None, selection="e" * 64, noise="scheme", d=10, rms=0.5,
)  # fmt: skip
TASK_SPEC = TaskSpec(name="basic", chance=0.25, scoring="choice/1", items="a" * 64, n_items=4)
RUN_SPEC = RunSpec(
    kind="landscape", model=MODEL_SPEC, tasks=(TASK_SPEC,), directions=("random",), draws=2,
    steps=(0.0, 0.1), level=0.5,
)  # fmt: skip

OTHER = {"source": "elsewhere", "params": "mlp", "d": 11, "rms": 0.25, "chance": 0.0, "n_items": 5}
IN_NO_ADDRESS = {"source", "params", "noise", "d", "rms"}


def address(model=MODEL_SPEC, task=TASK_SPEC, direction="noise seed=0", draw=1, step=0.1) -> str:
    return sha256(trial_key(model, task, direction, draw, step))


def test_what_of_the_model_stands_in_an_address_is_decided_for_each_field():
    assert set(MODEL) | IN_NO_ADDRESS == set(ModelSpec.model_fields)


@pytest.mark.parametrize("field", sorted(MODEL))
def test_address_changes_with_the_model(field):
    assert address(MODEL_SPEC.model_copy(update={field: "other"})) != address()


@pytest.mark.parametrize("field", sorted(IN_NO_ADDRESS))
def test_address_does_not_change_with_what_decides_nothing(field):
    changed = MODEL_SPEC.model_copy(update={field: OTHER.get(field, "other")})
    assert changed != MODEL_SPEC
    assert address(changed) == address()


@pytest.mark.parametrize("field", sorted(TaskSpec.model_fields))
def test_address_changes_with_the_task(field):
    assert address(task=TASK_SPEC.model_copy(update={field: OTHER.get(field, "b")})) != address()


@pytest.mark.parametrize(
    "point", [{"direction": "noise seed=1"}, {"draw": 2}, {"step": -0.1}, {"step": 0.1 + 2**-56}]
)
def test_address_changes_with_the_point(point):
    assert address(**point) != address()


def test_step_zero_is_the_same_for_every_direction():
    assert trial_key(MODEL_SPEC, TASK_SPEC, None, 0, 0.0)["direction"] is None
    for direction, step in (("noise seed=0", 0.0), (None, 0.1)):
        with pytest.raises(AssertionError, match=r"^$"):
            trial_key(MODEL_SPEC, TASK_SPEC, direction, 0, step)


# --- of real engines, tasks and directions ------------------------------------------------------


def linear(dtype: torch.dtype = torch.float32, bias: float = 0.0) -> torch.nn.Linear:
    module = torch.nn.Linear(4, 2)
    torch.nn.init.constant_(module.weight, 1.0)
    torch.nn.init.constant_(module.bias, bias)
    return module.to(dtype)


def test_model_spec_of_equal_weights_is_equal():
    spec = model_spec(bs.load(linear()))
    assert spec == model_spec(bs.load(linear()))
    assert spec.d == 10
    assert spec.noise == noise.SCHEME
    assert spec.params is None


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (lambda: bs.load(linear(bias=1e-30)), "fingerprint"),
        (lambda: bs.load(linear(), params="weight"), "selection"),
        (lambda: bs.load(linear(torch.bfloat16)), "dtype"),
    ],
)
def test_model_spec_tells_engines_apart(other, field):
    here, there = model_spec(bs.load(linear())), model_spec(other())
    assert getattr(here, field) != getattr(there, field)
    assert address(here) != address(there)


def test_model_spec_does_not_see_where_it_was_loaded_from(checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    here, there = model_spec(bs.load(checkpoint)), model_spec(bs.load(copy))
    assert here.source != there.source
    assert here.model_copy(update={"source": there.source}) == there
    assert address(here) == address(there)


def more_heads(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_head": 4}))


def other_template(folder):
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )


@pytest.mark.parametrize("change", [more_heads, other_template])
def test_address_changes_with_what_turns_weights_into_answers(change, checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    change(copy)
    assert address(model_spec(bs.load(copy))) != address(model_spec(bs.load(checkpoint)))


class Asked:
    """A task with one item."""

    chance, scoring = 0.0, "toy/1"

    def __init__(self, *requests, name="asked", item="0", answer=0):
        self.name = name
        self.items = (Item(item, requests, answer),)


CHOICES = Choices("2 + 2 =", (" 4", " 5"))
GENERATE = Generate("Hello", max_tokens=8, stop=("\n",), chat=True)


@pytest.mark.parametrize(
    "other",
    [
        Asked(Choices("2 + 2 = ", (" 4", " 5"))),
        Asked(Choices("2 + 2 =", (" 5", " 4"))),
        Asked(CHOICES, CHOICES),
        Asked(CHOICES, answer=1),
        Asked(CHOICES, item="1"),
        Asked(CHOICES, name="other"),
        Asked(),
    ],
)
def test_items_hash_covers_what_is_asked(other):
    assert task_spec(other).items != task_spec(Asked(CHOICES)).items


@pytest.mark.parametrize(
    "other",
    [
        Generate("Hello!", max_tokens=8, stop=("\n",), chat=True),
        Generate("Hello", max_tokens=9, stop=("\n",), chat=True),
        Generate("Hello", max_tokens=8, stop=("\n", "."), chat=True),
        Generate("Hello", max_tokens=8, stop=("\n",)),
    ],
)
def test_items_hash_covers_generation(other):
    assert task_spec(Asked(other)).items != task_spec(Asked(GENERATE)).items


def test_items_hash_leaves_out_when_to_stop_early():
    early = Generate("Hello", max_tokens=8, stop=("\n",), chat=True, decided=lambda text: True)
    assert task_spec(Asked(early)) == task_spec(Asked(GENERATE))


def test_task_version_stands_in_the_address():
    one = bs.CallableTask("t", lambda m: [1], n_items=1)
    two = bs.CallableTask("t", lambda m: [1], n_items=1, version="2")
    assert address(task=task_spec(one)) != address(task=task_spec(two))


# --- canonical text -----------------------------------------------------------------------------


def test_canonical_text_and_hash():
    text = canonical({"b": [1, 0.1, None, True], "a": "ä"})
    assert text == '{"a":"\\u00e4","b":[1,0.1,null,true]}'
    assert sha256({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    assert json.loads(text)["b"][1] == 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_canonical_text_has_no_nan(value):
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical({"a": value})


# --- whole runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "certify"},
        {"model": MODEL_SPEC.model_copy(update={"source": "elsewhere"})},
        {"tasks": ()},
        {"directions": ("random:1",)},
        {"draws": 3},
        {"steps": None},
        {"level": 0.25},
    ],
)
def test_run_hash_changes_with_every_field(change):
    assert RUN_SPEC.model_copy(update=change).hash != RUN_SPEC.hash


def test_specs_from_before_a_field_was_added_keep_their_hash():
    # of the RUN_SPEC of the first version, which had no displacements
    old = "28f217f799ad06d4d5ffd6253154bd90b50f7551eb2ba544eb4d0165d8d3c7f8"
    assert RUN_SPEC.hash == old
    text = json.loads(RUN_SPEC.model_dump_json())
    del text["displacements"]
    assert RunSpec.model_validate(text) == RUN_SPEC
    assert RUN_SPEC.model_copy(update={"displacements": {"to:x": 1.0}}).hash != old


def test_a_label_stands_for_one_displacement():
    one, same, other, none = (
        RUN_SPEC.model_copy(update={"displacements": d})
        for d in ({"to:x": 4.0}, {"to:x": 4.0 + 1e-9, "to:y": 1.0}, {"to:x": 4.1}, {})
    )
    assert conflicts(one, same) == conflicts(one, none) == conflicts(none, one) == []
    assert conflicts(one, other) == ["displacement of 'to:x' 4 -> 4.1"]
    assert merged(one, same).displacements == {"to:x": 4.0, "to:y": 1.0}
    assert merged(one, none).displacements == {"to:x": 4.0}


def test_run_spec_survives_its_json():
    read = RunSpec.model_validate(json.loads(canonical(RUN_SPEC.model_dump(mode="json"))))
    assert read == RUN_SPEC
    assert read.hash == RUN_SPEC.hash


@pytest.mark.parametrize("field", [*MODEL, "noise"])
def test_another_model_conflicts(field):
    other = RUN_SPEC.model_copy(update={"model": MODEL_SPEC.model_copy(update={field: "x" * 64})})
    (reason,) = conflicts(RUN_SPEC, other)
    was = getattr(MODEL_SPEC, field)
    most = 12 if len(was) == 64 else None  # a hash is told by its beginning
    assert reason == f"{field} {was[:most]} -> {('x' * 64)[:most]}"


def test_other_items_conflict_and_a_larger_plan_does_not():
    fewer = RUN_SPEC.model_copy(update={"tasks": (TASK_SPEC.model_copy(update={"n_items": 3}),)})
    assert conflicts(RUN_SPEC, fewer) == ["items of 'basic' (4 -> 3)"]
    math = TASK_SPEC.model_copy(update={"name": "math"})
    larger = RUN_SPEC.model_copy(
        update={"tasks": (math,), "directions": ("random:1",), "draws": 8, "steps": None}
    )
    assert conflicts(RUN_SPEC, larger) == []
    both = merged(RUN_SPEC, larger)
    assert both.tasks == (TASK_SPEC, math)
    assert both.directions == ("random", "random:1")
    assert (both.draws, both.steps) == (8, None)
    assert merged(both, larger) == both


def test_half_a_character_in_a_name_is_refused_before_anything_is_measured():
    task = bs.CallableTask("half \udcff", lambda module: [1], n_items=1)
    with pytest.raises(bs.BasinscopeError, match=r"half a character in the name of task 'half"):
        task_spec(task)
