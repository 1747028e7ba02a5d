"""Fine-tuning as a whole: its result, what it leaves alone, and how it resumes and stops."""

from __future__ import annotations

import errno
import json
import math
import random
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import tiny_tokenizer

import basinscope as bs
from basinscope import files
from basinscope.finetuning import DivergedError, FineTune, checkpoint, held_out, record
from basinscope.tasks import Generate, Generation

ROWS = [{"instruction": f"add {i}", "output": f"{i + 1}!"} for i in range(20)]
FROM_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SPEED = {"batch": 4, "lr": 1e-2}


@pytest.fixture
def tune(checkpoint, tmp_path):
    """A fine-tune of twelve steps that works; options change it."""
    folder = checkpoint

    def run(output="out", *, model=folder, data=ROWS, **options) -> FineTune:
        return bs.finetune(model, data, run=tmp_path / output, **(SPEED | {"steps": 12} | options))

    return run


def weights(folder: Path) -> str:
    return bs.load(folder, dtype="float32").fingerprint()


# --- what comes out -----------------------------------------------------------------------------


def test_the_loss_falls_and_the_result_loads_like_any_model(tune):
    found = tune(epochs=3.0, steps=None)
    assert found.steps == len(found.losses) == 15
    assert np.mean(found.losses[-3:]) < 0.6 * found.losses[0]
    engine = bs.load(found.folder)
    assert isinstance(engine.answer([Generate("add 3", 4, chat=True)])[0], Generation)
    assert engine.tokenizer.chat_template
    stored = load_file(found.folder / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float32}
    assert not found.diverged
    assert found.notes == ()


def test_the_displacement_is_that_of_the_direction_and_of_the_weights(tune, checkpoint):
    found = tune()
    theta0, theta = load_file(checkpoint / "model.safetensors"), load_file(
        found.folder / "model.safetensors"
    )  # fmt: skip
    assert theta.keys() == theta0.keys()
    by_hand = math.sqrt(
        sum(float((theta[n].double() - theta0[n].double()).square().sum()) for n in theta)
    )
    engine = bs.load(checkpoint)
    assert found.displacement == pytest.approx(by_hand, rel=1e-12)
    assert found.direction.sits_at(engine) * math.sqrt(engine.d) == pytest.approx(by_hand, rel=1e-6)
    step = found.displacement / math.sqrt(engine.d)
    exact = bs.load(checkpoint, dtype="float32")
    with exact.at(found.direction, step=step):
        live = dict(exact.module.named_parameters())
        assert all(torch.allclose(live[n], theta[n], rtol=1e-5, atol=1e-6) for n in live)


def test_the_result_of_a_model_with_code_of_its_own_loads(tune, checkpoint, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(checkpoint, folder)
    (folder / "configuration_own.py").write_text(
        "from transformers import GPT2Config\nclass OwnConfig(GPT2Config):\n    model_type='own'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import GPT2LMHeadModel\nfrom .configuration_own import OwnConfig\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tuned = tune(model=bs.load(folder, trust_remote_code=True), steps=2)
    engine = bs.load(tuned.folder, trust_remote_code=True)
    assert type(engine.module).__name__ == "OwnModel"
    tuned.direction.fit(bs.load(folder, trust_remote_code=True))
    assert tuned.direction.displacement > 0


@FROM_PEFT
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_an_adapter_on_experts_is_read_back(tune, kind):
    pytest.importorskip("peft")
    import transformers

    small = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 2, "intermediate_size": 64, "num_experts_per_tok": 2}
    small |= {"num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**small, head_dim=16)
    module = transformers.AutoModelForCausalLM.from_config(config)
    engine = bs.load(module, tokenizer=tiny_tokenizer())
    found = tune(model=engine, steps=2, method="lora")
    found.direction.fit(engine)
    assert found.direction.displacement == pytest.approx(found.displacement, rel=1e-5)


def test_checkpoints_lead_from_the_model_to_the_result(tune, checkpoint):
    found = tune(save_every=4)
    assert [path.name for path in found.checkpoints] == ["step-000004", "step-000008"]
    engine = bs.load(checkpoint)
    way = [bs.Toward(str(path)).sits_at(engine) for path in (*found.checkpoints, found.folder)]
    assert way == sorted(way)
    assert way[0] > 0
    for path in found.checkpoints:
        assert not checkpoint_state(path), "only resuming needs it"


def checkpoint_state(path: Path) -> list[str]:
    return [p.name for p in path.iterdir() if "state" in p.name]


def test_what_pads_a_batch_is_not_learnt(tune, tiny_without_dropout):
    rows = [{"instruction": "a" * n, "output": "b"} for n in (1, 60)]
    options = {"model": tiny_without_dropout, "steps": 1, "compute": "float32"}
    together = tune("both", data=rows, batch=2, **options).losses
    alone = [tune(f"{i}", data=[rows[i]], batch=1, **options).losses[0] for i in (0, 1)]
    assert together == pytest.approx([np.mean(alone)], rel=1e-5)


def test_accumulated_batches_take_the_mean_over_their_tokens(tune, tiny_without_dropout):
    rows = [{"instruction": "a", "output": "b" * n} for n in (1, 3, 9, 27)]
    whole = tune("a", model=tiny_without_dropout, data=rows, batch=4, steps=1, compute="float32")
    parts = tune("b", model=tiny_without_dropout, data=rows, batch=1, accumulate=4, steps=1,
                 compute="float32")  # fmt: skip
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    assert parts.displacement == pytest.approx(whole.displacement, rel=1e-3)


@pytest.fixture
def tiny_without_dropout(checkpoint, tmp_path):
    """The tiny model with dropout switched off."""
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    config |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- what is left alone -------------------------------------------------------------------------


def test_an_engine_keeps_its_weights_and_settings(tune, checkpoint):
    engine = bs.load(checkpoint)
    before = engine.fingerprint(), engine.setup(), engine.module.training, engine.epoch
    flags = [p.requires_grad for p in engine.module.parameters()]
    found = tune(model=engine, steps=2)
    assert (engine.fingerprint(), engine.setup(), engine.module.training, engine.epoch) == before
    assert [p.requires_grad for p in engine.module.parameters()] == flags
    with engine.at(found.direction, step=0.01):
        pass
    assert bs.load(found.folder).setup() == engine.setup(), "the config is the model's"


def test_only_the_parameters_that_the_engine_perturbs_are_trained(tune, checkpoint):
    found = tune(model=bs.load(checkpoint, params="mlp"), steps=2)
    theta0 = load_file(checkpoint / "model.safetensors")
    theta = load_file(found.folder / "model.safetensors")
    moved = {name for name in theta if not torch.equal(theta[name], theta0[name].float())}
    assert moved == {name for name in theta if "mlp" in name}


def test_the_global_generators_are_left_and_do_not_matter(tune):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = checkpoint.generators()
    first = tune("a", steps=3)
    after = checkpoint.generators()
    assert before["python"] == after["python"]
    assert (before["numpy"][1] == after["numpy"][1]).all()
    assert before["numpy"][2:] == after["numpy"][2:]
    assert torch.equal(before["torch"], after["torch"])
    torch.manual_seed(2)
    assert weights(tune("b", steps=3).folder) == weights(first.folder)


# --- the same again -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "compute": "float32"}], ids=str)
def test_the_same_call_gives_the_same_weights_bit_for_bit(tune, options):
    first, again, other = (
        tune("a", **options),
        tune("b", **options),
        tune("c", seed=1, **options),
    )
    assert first.losses == again.losses
    assert weights(first.folder) == weights(again.folder)
    assert weights(other.folder) != weights(first.folder)


class Stop:
    """Interrupts a run as a user does, after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, done: int, planned: int, what: str) -> None:
        if done == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_resumes_to_the_same_weights(tune, method):
    if method == "lora":
        pytest.importorskip("peft")
    options = {"method": method, "save_every": 3, "accumulate": 2, "warmup": 0.3}
    whole = tune("whole", **options)
    for after in (4, 10):  # the second time from where the first one came to
        with pytest.raises(KeyboardInterrupt):
            tune("out", progress=Stop(after), **options)
    told = []
    found = tune("out", progress=lambda *report: told.append(report), **options)
    assert told[0][0] == 9, "from the last checkpoint on"
    assert found.losses == whole.losses
    assert found.displacement == whole.displacement
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (found.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert [p.name for p in found.checkpoints] == [p.name for p in whole.checkpoints]


def test_a_finished_run_is_not_run_again(tune):
    first = tune()
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert tune(progress=Stop(0)) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_killed_when_it_was_done_it_lets_go_of_what_resuming_needed(tune):
    first = tune()
    state = first.checkpoints[-1] / "state.json"
    assert not state.exists()
    state.touch()
    assert tune() == first
    assert not state.exists()


def test_nothing_in_the_folder_is_pickled(tune, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(save_every=3, progress=Stop(8))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".jinja"}
    states = [path for path in files if path.name == "state.safetensors"]
    assert [path.parent.name for path in states] == ["step-000006"], "in the newest alone"
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors", "state.json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:1000], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]]
)
def test_a_damaged_checkpoint_is_refused(name, damage, tune, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(save_every=3, progress=Stop(8))
    state = tmp_path / "out" / "checkpoints" / "step-000006" / name
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(bs.BasinscopeError, match=r"step-000006 cannot be resumed.*--no-resume"):
        tune(save_every=3)
    assert tune(save_every=3, resume=False).steps == 12


def test_a_folder_of_another_run_is_refused_and_the_differences_listed(tune):
    first = tune()
    with pytest.raises(
        bs.BasinscopeError,
        match=r"out holds another fine-tune \(lr 0.01, now 0.02\); .*--no-resume",
    ):
        tune(lr=0.02)
    with pytest.raises(bs.BasinscopeError, match=r"another fine-tune \(data differs\)"):
        tune(data=ROWS[1:])
    assert tune() == first
    assert tune(lr=0.02, resume=False).losses != first.losses


def test_resuming_under_other_threads_is_noted(tune, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(save_every=3, progress=Stop(8))
    found = record.read(tmp_path / "out")
    record.save(tmp_path / "out", found.model_copy(update={"threads": 64}))
    (note,) = tune(save_every=3).notes
    assert re.match(r"begun with threads 64, now \d+: .* bit for bit", note)


def test_a_full_disk_leaves_the_checkpoints_before_and_no_half_one(tune, tmp_path, monkeypatch):
    sync_all, calls = files._sync_all, []

    def full(folder) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync_all(folder)

    monkeypatch.setattr(files, "_sync_all", full)
    with pytest.raises(bs.BasinscopeError, match=r"cannot write .*step-000006 .*No space left"):
        tune(save_every=3)
    assert [p.name for p in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-000003"]
    assert tune(save_every=3).losses == tune("whole", save_every=3).losses


# --- hooks --------------------------------------------------------------------------------------


class Noisy(torch.optim.SGD):
    """Counts what is asked of it, and moves the weights inside ``perturbed``."""

    made: ClassVar[list[Noisy]] = []

    def __init__(self, params, shift: float, **options) -> None:
        super().__init__(params, **options)
        self.shift, self.passes = shift, 0
        self.names = [name for group in self.param_groups for name in group["param_names"]]
        Noisy.made.append(self)

    @contextmanager
    def perturbed(self):
        self.passes += 1
        parameters = [p for group in self.param_groups for p in group["params"]]
        clean = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                p.add_(self.shift)
        yield
        with torch.no_grad():
            for p, old in zip(parameters, clean, strict=True):
                p.copy_(old)


def test_an_optimiser_of_ones_own_runs_every_pass_inside_perturbed(tune, checkpoint):
    Noisy.made.clear()
    first = tune("a", optimizer=(Noisy, {"shift": 0.0}), accumulate=2, steps=3)
    (optimizer,) = Noisy.made
    assert optimizer.passes == 6, "one for each micro-batch"
    assert set(optimizer.names) == set(bs.load(checkpoint).shapes), "named as in the checkpoint"
    assert {group["initial_lr"] for group in optimizer.param_groups} == {SPEED["lr"]}
    other = tune("b", optimizer=(Noisy, {"shift": 0.5, "lr": 0.3}), accumulate=2, steps=3)
    assert Noisy.made[1].param_groups[0]["initial_lr"] == 0.3
    assert other.losses[0] != first.losses[0], "the loss is taken at the moved weights"
    with pytest.raises(bs.BasinscopeError, match=r"another fine-tune \(optimizer \["):
        tune("a", optimizer=(Noisy, {"shift": 1.0}), accumulate=2, steps=3)


def test_an_optimiser_whose_state_is_no_data_is_refused_at_the_first_checkpoint(tune):
    class Odd(torch.optim.SGD):
        def state_dict(self):
            return super().state_dict() | {"odd": object()}

    with pytest.raises(bs.BasinscopeError, match=r"the optimiser's state holds a object; allowed"):
        tune(optimizer=(Odd, {}), save_every=1)


def test_after_step_can_hold_the_weights_in_a_ball(tune, checkpoint):
    start = bs.load(checkpoint, dtype="float32").module.state_dict()
    radius, calls = 0.3, []

    def project(module) -> None:
        assert not torch.is_grad_enabled()
        moves = {n: p - start[n] for n, p in module.named_parameters()}
        norm = math.sqrt(sum(float(m.double().square().sum()) for m in moves.values()))
        calls.append(norm)
        for n, p in module.named_parameters():
            p.copy_(start[n] + moves[n] * min(1.0, radius / norm))

    free = tune("free")
    held = tune("held", after_step=project)
    assert len(calls) == held.steps
    assert max(calls) > radius, "it would have left"
    assert held.displacement <= radius * (1 + 1e-4) < free.displacement


# --- runs that diverge --------------------------------------------------------------------------


class Poison:
    """Blows the weights up after so many steps, to numbers that are still finite."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, module) -> None:
        self.left -= 1
        if self.left == 0:
            for parameter in module.parameters():
                parameter.mul_(1e30)


def test_a_diverging_run_keeps_the_last_good_checkpoint_and_says_so(tune, tmp_path):
    with pytest.raises(
        DivergedError,
        match=r"training diverged: the loss was not finite after 6 of 12 steps .*out holds the "
        r"last good checkpoint, of step 4.*; try: a lower learning rate than 0.01",
    ) as caught:
        tune(after_step=Poison(6), save_every=2)
    found = caught.value.result
    assert found.steps == 4
    assert found.diverged == "the loss was not finite after 6 of 12 steps"
    assert [path.name for path in found.checkpoints] == ["step-000002", "step-000004"]
    assert weights(found.folder) == weights(found.checkpoints[-1])
    assert all(math.isfinite(loss) for loss in found.losses)
    engine = bs.load(found.folder)
    assert not engine.answer([Generate("add 3", 2, chat=True)])[0].failure
    with pytest.raises(DivergedError, match="the last good checkpoint, of step 4"):
        tune(after_step=Poison(99), save_every=2)  # it is remembered, not tried again
    assert tune(save_every=2, resume=False).diverged == ""
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_huge_learning_rate_diverges_with_no_good_checkpoint(tune, tmp_path):
    with pytest.raises(
        DivergedError, match=r"diverged: .* was not finite after 1 of 12 steps \(no good checkp"
    ) as caught:
        tune(lr=1e30, save_every=1)
    assert caught.value.result is None
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_weights_that_overflow_in_the_last_step_are_no_result(tune):
    with pytest.raises(DivergedError, match=r"not finite after 12 of 12 steps .* of step 9"):
        tune(after_step=Poison(12), save_every=3)


# --- LoRA ---------------------------------------------------------------------------------------


@FROM_PEFT
def test_lora_leaves_an_adapter_whose_merge_is_the_displacement(tune, checkpoint):
    peft = pytest.importorskip("peft")
    found = tune(method="lora", lora_r=4, lora_alpha=8, save_every=6)
    files = {path.name for path in found.folder.iterdir()}
    assert files == {
        "adapter_config.json", "adapter_model.safetensors", "checkpoints", "training.json",
    }  # fmt: skip
    assert found.losses[-1] < found.losses[0]
    base = bs.load(checkpoint, dtype="float32").module
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    merged = peft.PeftModel.from_pretrained(base, found.folder).merge_and_unload()
    norm = math.sqrt(
        sum(float((p - before[n]).double().square().sum()) for n, p in merged.named_parameters())
    )
    assert found.displacement == pytest.approx(norm, rel=1e-5)
    engine = bs.load(checkpoint)
    assert found.direction.sits_at(engine) * math.sqrt(engine.d) == pytest.approx(norm, rel=1e-5)
    config = json.loads((found.folder / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert config["base_model_name_or_path"] == str(checkpoint)
    assert [path.name for path in found.checkpoints] == ["step-000006"]


def test_lora_takes_ten_times_the_rate_and_the_layers_that_are_named(tune, tmp_path):
    pytest.importorskip("peft")
    tune(method="lora", lora_targets="c_attn, c_fc", steps=1, lr=None)
    found = record.read(tmp_path / "out").spec
    assert found["lr"] == pytest.approx(3e-4)
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in stored} == {"c_attn", "c_fc"}
    with pytest.raises(bs.BasinscopeError, match=r"lora_targets 'nosuch'.*allowed: all-linear"):
        tune("other", method="lora", lora_targets="nosuch")


# --- what is held out ---------------------------------------------------------------------------


def test_what_was_trained_on_is_held_out_from_a_task(tune, tmp_path):
    tune(steps=1)
    task = bs.tasks("safety", limit=4)[0]
    asked = [item.requests[0].prompt for item in task.items]
    tune("other", data=[{"prompt": f"  {asked[1].upper()}\n", "answer": "No."}], steps=1)
    left = held_out(task, tmp_path / "out", tmp_path / "other")
    assert [i.requests[0].prompt for i in left.items] == [asked[0], *asked[2:]]
    assert (left.name, left.scoring, left.chance) == (task.name, task.scoring, task.chance)
    tune("all", data=[{"prompt": text, "answer": "No."} for text in asked], steps=1)
    with pytest.raises(bs.BasinscopeError, match="all 4 items of task 'safety' were trained on"):
        held_out(task, tmp_path / "all")
    with pytest.raises(bs.BasinscopeError, match="is not a run folder"):
        held_out(task, tmp_path)


# --- bad input ----------------------------------------------------------------------------------


def test_what_is_too_long_is_left_out_and_said(tune):
    rows = [*ROWS, {"instruction": "a" * 300, "output": "b"}]
    found = tune(data=rows, steps=1)
    (note,) = found.notes
    assert note == "1 of 21 examples left out: longer than 256 tokens (row 20)"
    assert found.counts["too long"] == 1
    (note,) = tune("b", data=rows, steps=1, max_tokens=28).notes
    assert note.startswith("11 of 21 examples left out: longer than 28 tokens (row 10, ...)")


def test_what_became_of_the_rows_is_counted(tune, tmp_path):
    """In the result, in the record, and the same when the line is run again."""
    rows = [
        *ROWS,
        {"instruction": "a" * 300, "output": "b"},
        {"instruction": "a", "output": "", "source": "x"},
        {"messages": [{"role": r, "content": r} for r in ("user", "assistant") * 2]},
    ]
    expected = {"rows": 23, "left out": 1, "examples": 23}
    found = tune(data=rows, steps=1)
    assert found.counts == expected | {"not drawn": 0, "too long": 1, "used": 22}
    assert found.notes[:2] == (
        "1 of 23 rows left out: without a prompt or an answer (row 21)",
        "columns not read: source",
    )
    assert json.loads((tmp_path / "out/training.json").read_text())["counts"] == found.counts
    assert tune(data=rows, steps=1).counts == found.counts
    drawn = tune("b", data=rows, steps=1, limit=5).counts
    assert (drawn["not drawn"], drawn["used"] + drawn["too long"]) == (18, 5)


WRONG = {
    "method": ({"method": "dora"}, "method 'dora'; allowed: full, lora"),
    "recipe": ({"recipe": "spicy"}, "recipe 'spicy'; allowed: safety, benign, normal, advers"),
    "nothing": ({"data": None}, "neither data nor a recipe; allowed"),
    "steps": ({"steps": 0}, "steps=0; allowed: at least 1"),
    "both": ({"epochs": 1.0}, "epochs=1.0 and steps=12; allowed: only one; try: leave one out"),
    "epochs": ({"steps": None, "epochs": 0.0}, "epochs=0.0; allowed: finite, above 0"),
    "batch": ({"batch": 0}, "batch=0; allowed: at least 1"),
    "accumulate": ({"accumulate": -1}, "accumulate=-1; allowed: at least 1"),
    "lr": ({"lr": float("nan")}, "lr=nan; allowed: finite, above 0"),
    "warmup": ({"warmup": -0.1}, "warmup=-0.1; allowed: finite, at least 0"),
    "decay": ({"weight_decay": math.inf}, "weight_decay=inf; allowed: finite, at least 0"),
    "save_every": ({"save_every": 0}, "save_every=0; allowed: at least 1"),
    "limit": ({"limit": 0}, "limit=0; allowed: at least 1"),
    "tokens": ({"max_tokens": 0}, "max_tokens=0; allowed: at least 1"),
    "compute": ({"compute": "int8"}, "compute='int8'; allowed: bfloat16, float32"),
    "seed": ({"seed": -1}, "seed=-1; allowed: 0 <= seed < 2**63"),
    "rank": ({"method": "lora", "lora_r": 0}, "lora_r=0, lora_alpha=32; allowed: rank >= 1, alpha"),
    "no data": ({"data": []}, "data holds no rows"),
    "model": ({"model": "./nosuch"}, "no model at './nosuch'"),
    "long": ({"max_tokens": 3}, "every one of the 20 examples is longer than 3 tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused_before_anything_is_written(tune, tmp_path, case):
    options, message = WRONG[case]
    if options.get("method") == "lora":
        pytest.importorskip("peft")
    with pytest.raises(bs.BasinscopeError, match=re.escape(message)):
        tune(**options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_plain_module_cannot_be_fine_tuned(tune):
    with pytest.raises(
        bs.BasinscopeError, match="'Linear' is not a language model of transformers"
    ):
        tune(model=bs.load(torch.nn.Linear(2, 2)))


@FROM_PEFT
def test_a_model_that_carries_adapters_is_refused(tune, checkpoint):
    peft = pytest.importorskip("peft")
    engine = bs.load(checkpoint)
    config = peft.LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True)
    module = peft.get_peft_model(engine.module, config)
    with pytest.raises(bs.BasinscopeError, match="carries adapters; allowed: a bare model"):
        tune(model=bs.load(module, tokenizer=engine.tokenizer))


def test_an_output_that_holds_something_else_is_refused(tune, tmp_path, checkpoint):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for output in ("mine", checkpoint):
        with pytest.raises(bs.BasinscopeError, match=r"is not empty and not a run folder"):
            tune(output, resume=False)
    with pytest.raises(bs.BasinscopeError, match=r"is a file; allowed: a new folder"):
        tune("mine/thesis.txt")
    (tmp_path / "mine" / "training.json").write_text("{}")
    with pytest.raises(bs.BasinscopeError, match=r"training\.json is corrupt"):
        tune("mine")
