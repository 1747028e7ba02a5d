"""GaussianAugmented inside the Trainer of transformers."""

from __future__ import annotations

import pytest
import torch
import toys
from transformers import Trainer, TrainingArguments

import basinscope as bs
from basinscope.optim import PerturbedSteps


class Noisy(PerturbedSteps, Trainer):
    pass


def rows(n):
    rng = torch.Generator().manual_seed(5)
    found = [torch.randint(0, 60, (12,), generator=rng) for _ in range(n)]
    return [{"input_ids": row, "labels": row} for row in found]


def arguments(folder, **changed):
    settings = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "max_grad_norm": 0.5, "learning_rate": 1e-2,
        "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "dataloader_pin_memory": False, "seed": 3, **changed,
    }  # fmt: skip
    return TrainingArguments(**settings)


def final(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(model, folder, kind=Noisy, sigma=0.0, **changed):
    with torch.random.fork_rng(devices=[]):
        given = {"lr": 1e-2}
        if kind is Noisy:
            how = (bs.GaussianAugmented, {"base": torch.optim.AdamW, "sigma": sigma, **given})
        else:
            how = (torch.optim.AdamW, given)
        trainer = kind(
            model=model, args=arguments(folder, **changed), train_dataset=rows(16),
            eval_dataset=rows(4), optimizer_cls_and_kwargs=how,
        )  # fmt: skip
        trainer.train()
    return trainer


def test_sigma_zero_is_the_plain_trainer_bit_for_bit(tmp_path):
    plain = run(toys.tiny_model(), tmp_path, Trainer)
    noisy = run(toys.tiny_model(), tmp_path)
    assert torch.equal(final(plain.model), final(noisy.model))


def test_each_micro_batch_draws_and_evaluation_sees_clean_weights(tmp_path):
    trainer = run(toys.tiny_model(), tmp_path, sigma=0.05)
    opt = trainer.optimizer.optimizer
    assert opt.draws == 6  # 3 steps of 2 micro-batches
    clean = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        batch = torch.stack([row["input_ids"] for row in rows(4)])
        expected = trainer.model.eval()(batch, labels=batch).loss
    # the Trainer divides by all 12 labels of a row, the model by the 11 that are foretold
    assert clean == pytest.approx(float(expected) * 11 / 12, rel=1e-5)


def test_a_resumed_run_ends_at_the_same_weights(tmp_path):
    whole = run(toys.tiny_model(), tmp_path / "whole", sigma=0.05, max_steps=4)
    first = run(toys.tiny_model(), tmp_path / "cut", sigma=0.05, max_steps=4, save_strategy="steps",
                save_steps=2)  # fmt: skip
    assert torch.equal(final(first.model), final(whole.model))
    with torch.random.fork_rng(devices=[]):
        again = Noisy(
            model=toys.tiny_model(), args=arguments(tmp_path / "cut", max_steps=4),
            train_dataset=rows(16),
            optimizer_cls_and_kwargs=(
                bs.GaussianAugmented,
                {"base": torch.optim.AdamW, "sigma": 0.05, "lr": 1e-2},
            ),
        )  # fmt: skip
        again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert torch.equal(final(again.model), final(whole.model))


def test_another_optimiser_under_the_mixin_is_refused(tmp_path):
    with pytest.raises(bs.BasinscopeError, match="the optimiser is AdamW"):
        Noisy(
            model=toys.tiny_model(), args=arguments(tmp_path), train_dataset=rows(4),
            optimizer_cls_and_kwargs=(torch.optim.AdamW, {"lr": 0.1}),
        ).train()  # fmt: skip
