"""The width of basins during a training: logged, and the training as it is without it."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from toys import tiny_model, tiny_tokenizer
from transformers import Trainer, TrainingArguments

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.landscape.callback import WidthCallback


def trainer_of(folder, steps=4, model=None, **further):
    torch.manual_seed(0)
    rows = [{"input_ids": [1, 2, 3, k], "labels": [1, 2, 3, k]} for k in range(8)]
    options = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2,
        report_to=[], logging_steps=1, use_cpu=True, disable_tqdm=True, seed=3,
        **{"learning_rate": 1e-2, "save_strategy": "no"} | further,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return Trainer(
        model=tiny_model() if model is None else model, args=options,
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    )  # fmt: skip


def small():
    return bs.CallableTask(
        "small", lambda module: next(module.parameters()).flatten()[:40].abs() < 1, 40
    )


def test_widths_are_logged_and_training_is_as_without_them(tmp_path):
    plain = trainer_of(tmp_path / "plain")
    plain.train()
    watched = trainer_of(tmp_path / "watched")
    options = {"steps": [-8.0, -2.0, -0.5, 0.5, 2.0, 8.0], "draws": 24}
    watched.add_callback(WidthCallback(watched, small(), every=2, **options))
    watched.train()
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in watched.model.modules())
    for old, new in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(old, new)
    assert watched.model.training
    history = watched.state.log_history
    assert [row["loss"] for row in history if "loss" in row] == [
        row["loss"] for row in plain.state.log_history if "loss" in row
    ]
    widths = [row for row in history if "basin/small/+/width" in row]
    assert [row["step"] for row in widths] == [0, 2, 4]
    assert [row["step"] for row in history if "basin/small/-/width" in row] == [0, 2, 4]
    for row in widths:
        low, width, high = (row[f"basin/small/+/{end}"] for end in ("low", "width", "high"))
        assert 0.0 <= low <= width <= high <= 8.0


def test_it_is_the_width_of_the_model_as_it_stands(tmp_path):
    trainer = trainer_of(tmp_path, steps=2)
    options = {"steps": [0.5, 1.0, 2.0], "draws": 8}
    trainer.add_callback(WidthCallback(trainer, small(), every=2, **options))
    trainer.train()
    land = bs.landscape(trainer.model, small(), **options)
    (logged,) = [
        row
        for row in trainer.state.log_history
        if "basin/small/+/width" in row and row["step"] == 2
    ]
    assert logged["basin/small/+/width"] == land.width("small").estimate


def test_an_end_that_is_not_bounded_is_not_logged(tmp_path):
    trainer = trainer_of(tmp_path, steps=1)
    trainer.add_callback(WidthCallback(trainer, small(), every=5, steps=[0.01], draws=2))
    trainer.train()
    assert not [row for row in trainer.state.log_history if "basin/small/+/high" in row]


def lora():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    some = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.3)
    return get_peft_model(tiny_model(), some)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("model", "further"),
    [
        (lora, {}),
        (lambda: tiny_model(dtype=torch.bfloat16), {"gradient_accumulation_steps": 2}),
        (tiny_model, {"bf16": True, "gradient_checkpointing": True}),
    ],
    ids=["lora", "bfloat16", "mixed"],
)
def test_training_is_as_without_it_in_every_setup(tmp_path, model, further):
    plain = trainer_of(tmp_path, 3, model(), **further)
    plain.train()
    watched = trainer_of(tmp_path, 3, model(), **further)  # which sets the seed
    (basic,) = bs.tasks("basic", limit=4)
    widths = WidthCallback(watched, [small(), basic], every=1, steps=[1.0], draws=2)
    watched.add_callback(widths)
    watched.train()
    for old, new in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(old, new)
    assert widths.measured


def test_a_training_that_is_resumed_measures_on_and_ends_the_same(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    plain = trainer_of(tmp_path / "plain", 4, **options)
    plain.train()
    watched = trainer_of(tmp_path / "watched", 4, **options)
    watched.add_callback(WidthCallback(watched, small(), every=3, steps=[0.5, 8.0], draws=8))
    watched.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-2"))
    for old, new in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(old, new)
    history = watched.state.log_history
    assert {row["step"] for row in history if any(k.startswith("basin/") for k in row)} == {3}


def test_no_tokenizer_is_needed_without_texts(tmp_path):
    trainer = trainer_of(tmp_path, 1)
    trainer.processing_class = trainer.callback_handler.processing_class = None
    trainer.add_callback(WidthCallback(trainer, small(), every=1, steps=[8.0], draws=2))
    trainer.train()
    assert any("basin/small/+/low" in row for row in trainer.state.log_history)


def test_each_step_has_a_run_folder_of_its_own(tmp_path):
    trainer = trainer_of(tmp_path, 2)
    run = tmp_path / "runs"
    trainer.add_callback(WidthCallback(trainer, small(), every=1, steps=[8.0], draws=2, run=run))
    trainer.train()
    assert {folder.name for folder in run.iterdir()} == {"step-0", "step-1", "step-2"}
    assert bs.load_run(run / "step-2").spec.model.source == "step-2"


def test_several_directions_are_logged_apart(tmp_path):
    trainer = trainer_of(tmp_path, 1)
    options = {"directions": ["random", "layerwise"], "steps": [8.0], "draws": 2}
    trainer.add_callback(WidthCallback(trainer, small(), every=5, **options))
    trainer.train()
    names = {name for row in trainer.state.log_history for name in row}
    assert {"basin/small/random/+/low", "basin/small/layerwise/+/low"} <= names


def test_weights_that_become_infinite_do_not_end_the_training_by_it(tmp_path):
    trainer = trainer_of(tmp_path, 2, learning_rate=1e38, max_grad_norm=0.0)
    trainer.add_callback(WidthCallback(trainer, small(), every=1, steps=[8.0], draws=2))
    with pytest.warns(UserWarning, match=r"no width at step \d: the weights of .* not finite"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.model.training


def test_what_cannot_be_measured_at_all_is_refused_before_the_training(tmp_path):
    trainer = trainer_of(tmp_path, 2)
    trainer.add_callback(WidthCallback(trainer, small(), every=1, steps=[float("nan")]))
    with pytest.raises(BasinscopeError, match="steps"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
def test_a_bad_interval_is_refused(every):
    with pytest.raises(BasinscopeError, match="every="):
        WidthCallback(None, small(), every=every)
