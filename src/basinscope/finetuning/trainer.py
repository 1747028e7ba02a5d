"""The training loop: Hugging Face's Trainer, with an order of its own and checkpoints of ours.

The Trainer walks once through a list that holds every example in the order in which it is learnt
(`examples.order`), so where a run stands determines what comes next. Master weights are float32,
the forward pass runs under bfloat16 autocast: a step of 3e-5 is below the resolution of a bfloat16
weight and would be lost.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from basinscope.finetuning import checkpoint
from basinscope.finetuning.examples import IGNORED, Example
from basinscope.finetuning.settings import Plan
from basinscope.weights.selection import canonical_name

Report = Callable[[int, float], None]


class NotFiniteError(Exception):
    """NaN or infinity in what the weights gave after ``step`` steps; the losses up to there."""

    def __init__(self, subject: str, step: int, losses: list[float]) -> None:
        super().__init__(subject)
        self.what, self.step, self.losses = subject, step, losses


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Global generators seeded inside the ``with`` (the Trainer draws from them), then put back."""
    before = checkpoint.generators()
    try:
        torch.manual_seed(seed)
        yield
    finally:
        checkpoint.set_generators(before)


def train(
    module: nn.Module,
    tokenizer: Any,
    plan: Plan,
    folder: Path,
    *,
    resume: Path | None = None,
    report: Report | None = None,
) -> list[float]:
    """Train the module in place; checkpoints go to ``folder``.

    Args:
        module: float32; its trainable parameters are trained.
        tokenizer: saved with every checkpoint.
        plan: what to do.
        folder: of the run.
        resume: checkpoint to go on from.
        report: called with the steps done so far and the last loss.

    Returns:
        Mean loss of the answer's tokens, in nats, before each optimiser step.

    Raises:
        NotFiniteError: as soon as a loss or gradient is not finite; the weights are then those
            after ``step`` steps, and no checkpoint holds one that is not finite.
    """
    config: Any = module.config
    caching, level = getattr(config, "use_cache", True), logging.get_verbosity()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.settings.batch,
        gradient_accumulation_steps=plan.settings.accumulate,
        max_steps=plan.steps,
        learning_rate=plan.settings.lr,
        warmup_steps=plan.warmup,
        weight_decay=plan.settings.weight_decay,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        bf16=plan.settings.compute == "bfloat16",
        use_cpu=next(module.parameters()).device.type == "cpu",
        seed=plan.seed % 2**32,  # the Trainer's generators take no larger one
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        log_level="error",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    # one device: DataParallel would sum in another order
    arguments._n_gpu = min(arguments.n_gpu, 1)
    rows = _Rows(plan.examples)
    try:
        loop = _Loop(
            model=module, args=arguments, train_dataset=rows, data_collator=_collate, plan=plan
        )

        def save(step: int) -> None:
            loop.check_weights()
            config.use_cache = caching  # the Trainer switches it off while it trains
            checkpoint.write(checkpoint.place(folder, step), module, tokenizer, loop.snapshot())
            config.use_cache = False

        loop.remove_callback(PrinterCallback)
        loop.add_callback(_Steps(loop, save, report))
        loop.train(resume_from_checkpoint=None if resume is None else str(resume))
        loop.check_weights()
        loop.check_loss(rows[len(rows) - 1])
        return loop.losses
    finally:
        config.use_cache = caching
        logging.set_verbosity(level)


@torch.no_grad()
def estimate_s(module: nn.Module, plan: Plan) -> float:
    """Rough seconds of one step: a forward pass over one example, times three, by tokens."""
    tokens = [len(example.tokens) for example in plan.examples]
    example = plan.examples[tokens.index(sorted(tokens)[len(tokens) // 2])]
    device = next(module.parameters()).device
    row = torch.tensor([example.tokens], device=device)
    took = math.inf
    for _ in range(2):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, plan.settings.compute == "bfloat16"):
            module(input_ids=row)
        took = min(took, time.perf_counter() - start)
    return 3 * took * sum(tokens) / len(example.tokens) / plan.steps


class _Loop(Trainer):  # type: ignore[misc]
    """The Trainer with our order, optimiser, state and a check of every number."""

    optimizer: Any

    def __init__(self, *, plan: Plan, **options: Any) -> None:
        super().__init__(**options)
        self.plan = plan
        self.losses: list[float] = []
        self.micro = 0.0  # loss of the step under way

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW or the class that was given, over parameters named as in the checkpoint."""
        if self.optimizer is None:
            module = self.model if model is None else model
            decaying = set(self.get_decay_parameter_names(module))
            groups: list[dict[str, Any]] = [
                {"params": [], "weight_decay": self.plan.settings.weight_decay},
                {"params": [], "weight_decay": 0.0},
            ]
            for raw, parameter in module.named_parameters():
                if parameter.requires_grad:
                    name = canonical_name(module, raw) or raw
                    groups[raw not in decaying]["params"].append((name, parameter))
            made, options = self.plan.optimizer or (torch.optim.AdamW, {"fused": True})
            options = {"lr": self.plan.settings.lr, **options}
            self.optimizer = made([group for group in groups if group["params"]], **options)
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """One forward and backward pass; at noisy weights if the optimiser asks for it."""
        bare = getattr(self.optimizer, "optimizer", self.optimizer)
        perturbed = getattr(bare, "perturbed", nullcontext)
        with perturbed():
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.micro += float(loss)
        self._check(math.isfinite(self.micro), "the loss was")
        return loss

    def snapshot(self) -> dict[str, Any]:
        """Everything beside the weights that determines what comes next."""
        return {
            "trainer": dataclasses.asdict(self.state),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "generators": checkpoint.generators(),
            "losses": self.losses,
        }

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        self._saved = checkpoint.read(Path(folder))
        checkpoint.read_weights(Path(folder), self.model)

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if folder is not None:
            with checkpoint.resuming(Path(folder)):
                self.optimizer.load_state_dict(self._saved["optimizer"])
                self.lr_scheduler.load_state_dict(self._saved["schedule"])
                self.losses = list(self._saved["losses"])

    def _load_rng_state(self, folder: str | None) -> None:
        if folder is not None:
            with checkpoint.resuming(Path(folder)):
                checkpoint.set_generators(self._saved["generators"])

    def check_weights(self) -> None:
        """Raise unless every weight is finite."""
        good = all(bool(torch.isfinite(p).all()) for p in self.model.parameters())
        self._check(good, "the weights were")

    def check_gradients(self) -> None:
        """Raise unless every gradient is finite."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self._check(
            bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))), "the gradient was"
        )

    @torch.no_grad()
    def check_loss(self, example: Example) -> None:
        """Raise unless the trained weights give a finite loss."""
        self.model.eval()
        loss = self.compute_loss(self.model, self._prepare_inputs(_collate([example])))
        self._check(bool(torch.isfinite(loss)), "the loss was")

    def _check(self, good: bool, subject: str) -> None:
        if not good:
            raise NotFiniteError(subject, self.state.global_step, self.losses)


class _Steps(TrainerCallback):  # type: ignore[misc]
    """What happens at every optimiser step."""

    def __init__(self, loop: _Loop, save: Callable[[int], None], report: Report | None) -> None:
        self.loop, self.save, self.report = loop, save, report

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.loop.check_gradients()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.loop.plan.after_step is not None:
            with torch.no_grad():
                self.loop.plan.after_step(self.loop.model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.loop.losses.append(self.loop.micro)
        self.loop.micro = 0.0
        step = state.global_step
        if step % self.loop.plan.save_every == 0 and step < self.loop.plan.steps:
            self.save(step)
        if self.report is not None:
            self.report(step, self.loop.losses[-1])


class _Rows(Dataset[Example]):
    """A list as a data set."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def _collate(rows: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Batch padded on the right; what pads is neither seen nor learnt."""
    longest = max(len(row.tokens) for row in rows)
    return {
        "input_ids": torch.tensor([[*r.tokens, *[0] * (longest - len(r.tokens))] for r in rows]),
        "attention_mask": torch.tensor(
            [[1] * len(r.tokens) + [0] * (longest - len(r.tokens)) for r in rows]
        ),
        "labels": torch.tensor([[*r.labels, *[IGNORED] * (longest - len(r.tokens))] for r in rows]),
    }
