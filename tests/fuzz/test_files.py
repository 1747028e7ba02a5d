"""Damaged files: the harness in short, and an input of every kind that once went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import basinscope as bs
from fuzz.files import KINDS

ROOT = Path(__file__).parents[2]
LIGHT = (
    "landscape", "strict-basin", "widen", "saved:", "adapter", "benchmarks", "training data", "text",
    "recipe",
)  # fmt: skip


def test_a_hundred_damaged_files_are_read_or_refused():
    kinds = [word for kind in LIGHT for word in ("--kind", kind)]
    command = [sys.executable, "-m", "tests.fuzz.files", "--seed", "7", "--inputs", "100", *kinds]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert " 0 faults" not in ended.stdout
    assert "refused" in ended.stdout


def edited(**changes):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def put(content):
    return lambda path: path.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def linked(place):
    def link(path):
        path.unlink()
        path.symlink_to(place)

    return link


def spec_of(change):
    """The spec in a header changed, and its hash as it was."""

    def edit(path):
        body = json.loads(path.read_text())
        change(body["spec"])
        path.write_text(json.dumps(body))

    return edit


ALIASES = "\n".join(
    ["k0: &k0 [a]", *(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 12))]
)
DEEP = "[" * 20_000
LONG = "x" * 300

CASES = {
    # what never ends
    "a header that is a FIFO": ("widen", "widen.json", fifo, "it is no file"),
    "a header without end": ("landscape", "run.json", linked("/dev/zero"), "it is no file"),
    "a record that is a FIFO": ("widen", "rows/adamw-s0.json", fifo, "it is no file"),
    "a config that is a FIFO": ("adapter", "adapter_config.json", fifo, "it is no file"),
    "weights that are a FIFO": ("adapter", "adapter_model.safetensors", fifo, "safetensors"),
    "a shard that is a FIFO": ("to: of shards", "model-1.safetensors", fifo, "lacks 1 of 2 shards"),
    "a recipe that is a FIFO": ("recipe", "recipe.yaml", fifo, "it is no file|cannot read"),
    "a text that is a FIFO": ("recipe", "old.txt", fifo, "it is no file|cannot read|no text"),
    "a part of a task that is a FIFO": ("lm-eval", "base.yml", fifo, "it is no file"),
    # what is small on the disk and large in memory
    "aliases that multiply": ("recipe", "recipe.yaml", put(ALIASES), "more than 100,000 parts"),
    "a recipe that holds itself": ("recipe", "recipe.yaml", put("a: &a [*a]"), "recursion"),
    "a task of aliases": ("lm-eval", "toy.yaml", put(ALIASES), "no YAML file|toy"),
    # nesting
    "a deep header": ("landscape", "run.json", put(DEEP), "nested too deeply"),
    "a deep config": ("adapter", "adapter_config.json", put(DEEP), "nested too deeply"),
    "a deep recipe": ("recipe", "recipe.yaml", put(DEEP), "is not YAML"),
    "a deep index": ("to: of shards", "model.safetensors.index.json", put(DEEP), "nested too deeply"),
    # other types, other numbers
    "a spec that is not finite": (
        "attack", "attack.json", spec_of(lambda s: s.update(steps=float("nan"))), "its hash does not fit"
    ),
    "rows that are none": ("widen", "widen.json", spec_of(lambda s: s.update(rows=3)), "no recipe or no rows"),
    "a config of other types": ("to:", "config.json", edited(n_layer="two"), "its config cannot be read"),
    "end tokens of another type": (
        "to:", "generation_config.json", edited(eos_token_id={"a": 1}), "cannot be read|eos_token_id"
    ),
    "architectures of another type": ("model", "config.json", edited(architectures=[5], is_decoder=False), "cannot load"),
    "a tokenizer of other types": ("model", "tokenizer_config.json", edited(unk_token=[1]), "cannot load"),
    # names
    "a shard's name that no disk takes": (
        "to: of shards", "model.safetensors.index.json",
        put(json.dumps({"metadata": {}, "weight_map": {"a": LONG}})), "malformed",
    ),
    "a loop of links": ("lm-eval", "toy.yaml", linked("toy.yaml"), "toy.yaml"),
    # what a run goes on from
    "weights of a checkpoint": (
        "resumed fine-tune", "checkpoints/step-000001/model.safetensors", put(b"\x08" + bytes(50)), "cannot be resumed"
    ),
    "the trainer's state": (
        "resumed fine-tune", "checkpoints/step-000001/trainer_state.json", put("{}"), "cannot be resumed"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The valid folder of a kind, made once."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("kind") / "run"
            if kind not in bs.folders.READERS:
                made[kind].mkdir()
            KINDS[kind].make(made[kind])
        return made[kind]

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line(case, original, tmp_path):
    import shutil

    from fuzz.files import relocate

    kind, file, damage, reason = CASES[case]
    copy = Path(shutil.copytree(original(kind), tmp_path / "copy"))
    relocate(copy)
    damage(copy / file)
    with pytest.raises(bs.BasinscopeError, match=reason) as caught:
        KINDS[kind].read(copy)
    assert all(caught.value.args)
    assert str(caught.value).isprintable()
