"""One rule: every public function takes the word or the object, and refuses what is neither."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import basinscope as bs
from basinscope.attack import collapse_radius
from basinscope.certify import certify_tokens, untied
from basinscope.finetuning import held_out
from basinscope.landscape import cosines, interpolation_steps, trajectory

ROWS = [{"instruction": f"add {i}", "output": f"{i + 1}!"} for i in range(4)]


@pytest.fixture(scope="module")
def model(checkpoint):
    """The word of a model: its folder."""
    return str(checkpoint)


@pytest.fixture(scope="module")
def tuned(checkpoint, tmp_path_factory):
    """The word of a direction: of somewhat other weights."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("tuned") / "tuned")
    weights = load_file(folder / "model.safetensors")
    moved = {name: (w.float() + 0.01).to(w.dtype) for name, w in weights.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return f"to:{folder}"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The shipped tasks by their first six items: what is asked here is not their score."""
    from basinscope.tasks import mini
    from basinscope.tasks.base import Subset

    shipped = mini.load

    def load(name):
        task = shipped(name)
        return Subset(task, tuple(task.items[:6]))

    monkeypatch.setattr(mini, "load", load)


class TestWords:
    def test_landscape(self, model, tuned, tmp_path):
        by_word = bs.landscape(
            model, "basic,math", directions=["random:1", tuned], steps=[0, 0.02], draws=1,
            run=tmp_path / "x",
        )  # fmt: skip
        engine = bs.load(model)
        by_object = bs.landscape(
            engine, bs.tasks("basic,math"), directions=[bs.Random(1), bs.direction(tuned)],
            steps=[0, 0.02], draws=1,
        )  # fmt: skip
        assert by_word.to_pandas().equals(by_object.to_pandas())
        mixed = bs.landscape(engine, ["basic", *bs.tasks("math")], directions="random:1", steps=[0])
        assert set(mixed.to_pandas()["task"]) == {"basic", "math"}

    def test_surface_cosines_and_paths(self, model, tuned):
        plane = bs.surface(model, "basic", "random", tuned, xs=[0, 0.01], ys=[0])
        assert (plane.plane.x, plane.plane.y) == ("random", tuned)
        assert list(cosines(model, ["random", tuned]).index) == ["random", tuned]
        path = trajectory(model, "random", tuned, tuned.removeprefix("to:"))
        assert path["residual"].iloc[1] < 1e-3
        steps = interpolation_steps(model, tuned, 2, beyond=0)
        assert steps == [0, bs.direction(tuned).sits_at(bs.load(model))]

    def test_certificates(self, model, tuned):
        loose = {"sigma": 0.001, "draws": 12, "confidence": 0.5}
        cert = bs.certify(model, "basic", geometry="rms", **loose)
        assert cert.plan.geometry == "rms"
        judged = cert.verdict(tuned, model, "basic", geometry="rms")
        assert judged.label == tuned
        assert judged.score is not None
        basin = bs.strict_basin(model, "basic", sigmas=1e-9, share=0.5, confidence=0.5, tau=0.9)
        assert basin.sigma == 1e-9
        bounds = certify_tokens(model, "basic", draws=12, confidence=0.5)
        assert len(bounds.p_items) == 6
        assert untied(model).tokenizer is not None
        assert bs.smoothed(model, 0.001, geometry="rms").score("basic").n_items == 6

    def test_attacks(self, model):
        worst = bs.attack(model, "basic", measure="math", radius=1.0, steps=1, starts=1)
        assert {edge.task for edge in worst.collapse} == {"basic", "math"}
        (edge, _) = collapse_radius(model, "random:2", "basic", tolerance=0.1)
        assert edge.direction == "random:2"

    def test_an_attack_on_a_file(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("basic", "text.txt"):
            (tmp_path / name).write_text("a few words, and a few more of them\n" * 20)
        options = {"radius": 1.0, "steps": 1, "starts": 1}
        assert bs.attack(model, "text.txt", **options).objective == "text.txt"
        assert bs.attack(model, tmp_path / "basic", **options).objective == "basic"
        task = bs.attack(model, "basic", **options)
        assert task.collapse[0].n_items == 6, "a task's word means the task, whatever lies there"

    def test_finetune(self, model, tmp_path):
        tuned = bs.finetune(model, ROWS, run=tmp_path / "out", steps=1, batch=2)
        assert tuned.direction.displacement is None, "not fitted yet"
        assert len(held_out("basic", tmp_path / "out").items) == 6

    def test_an_engine_is_moved_along_a_word(self, model):
        engine = bs.load(model)
        with engine.at("random:3", step=0.01):
            by_word = engine.fingerprint()
        with engine.at(bs.Random(3), step=0.01):
            assert engine.fingerprint() == by_word

    def test_the_functions_of_words(self, model):
        (task,) = bs.tasks("basic")
        assert bs.tasks(task) == bs.tasks([task, task]) == [task]
        assert [t.name for t in bs.tasks([task, "math"])] == ["basic", "math"]
        assert len(bs.tasks(task, limit=2)[0].items) == 2
        shape = bs.geometry("params:wte", bs.load(model))
        assert bs.geometry(shape, bs.load(model)) is shape
        assert bs.geometry(None, bs.load(model)).label == "isotropic"


def of_layer() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


WRONG = {
    "a model": (lambda: bs.landscape(3, "basic"), r"a model of type int; allowed: an alias"),
    "a model of a certificate": (lambda: bs.certify(None, "basic"), r"a model of type NoneType"),
    "a task": (lambda: bs.landscape("m", 3), r"a task of type int; allowed: a word such as basic"),
    "a class of tasks": (lambda: bs.certify("m", torch.nn.Linear), r"a task of type type"),
    "tasks": (lambda: bs.certify("m", "basic,math"), r"2 tasks \(basic, math\); allowed: one"),
    "a word of a task": (lambda: bs.landscape("m", "basc"), r"task 'basc'; .*try: basic"),
    "a direction": (
        lambda: bs.landscape("m", "basic", directions=[3]),
        r"a direction of type int; allowed: ",
    ),
    "a module": (
        lambda: bs.surface("m", "basic", of_layer(), "random", xs=[0], ys=[0]),
        r"a direction of type Linear",
    ),
    "a word of a direction": (
        lambda: bs.landscape("m", "basic", directions=["rndom:1"]),
        r"try: random",
    ),
    "a word of an axis": (
        lambda: bs.surface("m", "basic", "random", "tto:x", xs=[0], ys=[0]),
        r"try: to",
    ),
    "cosines": (lambda: cosines("m", ["random", 3]), r"a direction of type int"),
    "a path": (lambda: trajectory("m", "random", "nosuch", []), r"direction 'nosuch'"),
    "interpolated": (lambda: interpolation_steps("m", "to:./gone", 3), r"no model at './gone'"),
    "a geometry": (lambda: bs.certify("m", "basic", geometry=3), r"a geometry of type int"),
    "a word of a geometry": (
        lambda: bs.strict_basin("m", "basic", geometry="iso"),
        r"geometry 'iso'; allowed: isotropic",
    ),
    "noise": (lambda: bs.smoothed("m", 0.1, geometry="rsm"), r"try: rms"),
    "an objective": (lambda: bs.attack("m", 3), r"an objective of type int; allowed: a task"),
    "a word of an objective": (lambda: bs.attack("m", "bassic"), r"try: basic"),
    "what is measured": (lambda: bs.attack("m", "basic", measure="x"), r"task 'x'"),
    "a radius": (lambda: collapse_radius("m", "randm", "basic"), r"try: random"),
    "tokens": (lambda: certify_tokens("m", "basic", mode="suffix"), r"mode='suffix'"),
    "a fine-tune": (lambda: bs.finetune("m", recipe="safty", run="x"), r"try: safety"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_neither_is_refused_before_a_model_is_loaded(case, monkeypatch):
    def loaded(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("basinscope.engines.base.Engine.__init__", loaded)
    monkeypatch.setattr("basinscope.engines.transformers.TransformersEngine.__init__", loaded)
    call, message = WRONG[case]
    with pytest.raises(bs.BasinscopeError) as raised:
        call()
    assert re.search(message, str(raised.value)), raised.value
    assert "\n" not in str(raised.value)
