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


def trainer_of(folder, steps=4):
    torch.manual_seed(0)
    rows = [{"input_ids": [1, 2, 3, k], "labels": [1, 2, 3, k]} for k in range(8)]
    options = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2,
        learning_rate=1e-2, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
        disable_tqdm=True, seed=3,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return Trainer(
        model=tiny_model("llama"), args=options, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
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


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
def test_a_bad_interval_is_refused(every):
    with pytest.raises(BasinscopeError, match="every="):
        WidthCallback(None, small(), every=every)
