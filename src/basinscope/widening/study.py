"""A recipe made ready: its texts as tokens, its rows, and how many steps each of them takes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.errors import BasinscopeError, nearest
from basinscope.optim import methods
from basinscope.optim.methods import Method, MethodSpec
from basinscope.widening import text, tokens
from basinscope.widening.recipe import TOKENS_PER_PARAMETER, Entry, Recipe, Training, Tuning
from basinscope.widening.tokens import Stream


@dataclass(frozen=True)
class StudyRow:
    """One training run of a study: a method and a seed."""

    entry: Entry
    spec: MethodSpec
    seed: int

    @property
    def label(self) -> str:
        """Name of the method in tables, with the settings that are not the recipe's."""
        own = self.entry
        if own.label is not None:
            return own.label
        words = [
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key in OVERRIDES
            if (value := getattr(own, key)) is not None
        ]
        return " ".join([self.spec.label, *words])

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{re.sub(r'[^A-Za-z0-9._=+-]+', '-', self.label).strip('-')}-s{self.seed}"

    def describe(self) -> dict[str, Any]:
        """Method and settings of its own, as JSON takes it."""
        given = {key: getattr(self.entry, key) for key in OVERRIDES}
        return self.spec.to_json() | {k: v for k, v in given.items() if v is not None}


LONGEST_NAME = 200
"""Characters of a row's name: file systems take 255 bytes, and suffixes come after it."""

OVERRIDES = ("lr", "lr_schedule", "warmup", "weight_decay", "stop")
"""Settings that a method may have of its own."""


@dataclass(frozen=True)
class Study:
    """A recipe with its texts as tokens.

    Attributes:
        recipe: as it was given.
        tokenizer: of the model.
        pretraining: tokens that the rows are trained on.
        tuning: tokens of the fine-tuning stage; None without one.
        parameters: of the model.
        steps: of a row that costs one forward and backward pass a step.
    """

    recipe: Recipe
    tokenizer: Any
    pretraining: Stream
    tuning: Stream | None
    parameters: int
    steps: int

    def module(self, seed: int) -> nn.Module:
        """A new model, initialised from the seed; the global generators stay as they were."""
        from basinscope.finetuning.trainer import own_generators

        with own_generators(seed):
            return gpt2(self.recipe, len(self.tokenizer), self.tokenizer.eos_token_id)


def gpt2(recipe: Recipe, vocabulary: int, end: int, device: str = "cpu") -> nn.Module:
    """GPT-2 of the recipe's shape, embeddings tied, without dropout.

    ``gelu_pytorch_tanh`` is the function that GPT-2 calls ``gelu_new``, in one kernel.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=recipe.context,
        n_embd=recipe.model.width,
        n_layer=recipe.model.layers,
        n_head=recipe.model.heads,
        initializer_range=recipe.model.init_std,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        use_cache=False,
        attn_implementation=recipe.attention,
    )
    with torch.device(device):  # not around the import, whose own tensors would follow
        module: nn.Module = GPT2LMHeadModel(config)
    return module


def rows(recipe: Recipe) -> tuple[StudyRow, ...]:
    """Every method with every seed.

    Raises:
        BasinscopeError: an unknown method or option; two methods with one label.
    """
    specs = [(one, MethodSpec(one.name, one.options)) for one in recipe.methods]
    if recipe.finetune is not None:
        MethodSpec(recipe.finetune.method.name, recipe.finetune.method.options)
    all_rows = tuple(StudyRow(one, spec, seed) for seed in recipe.seeds for one, spec in specs)
    names = [row.name for row in all_rows]
    twice = next((row for row in all_rows if names.count(row.name) > 1), None)
    if twice is not None:
        raise BasinscopeError(
            f"two methods are called {twice.label!r}",
            "a label of its own for each",
            "leave out the second, or give it a `label`",
        )
    longest = max(all_rows, key=lambda row: len(row.name))
    if len(longest.name) > LONGEST_NAME:
        raise BasinscopeError(
            f"a method is called {longest.label[:40]!r}... ({len(longest.name)} characters)",
            f"at most {LONGEST_NAME}, since files are called so",
            "give it a shorter `label`",
        )
    return all_rows


def check_methods(recipe: Recipe) -> None:
    """Refuse what a method would refuse in its first step, which may be hours away.

    Raises:
        BasinscopeError: options that do not fit the model, a package that is missing, antithetic
            noise with an odd number of micro-batches.
    """
    stages: list[tuple[Entry, Training | Tuning, int]] = [
        (one, recipe, recipe.accumulate) for one in recipe.methods
    ]
    if recipe.finetune is not None:
        stages.append((recipe.finetune.method, recipe.finetune, 1))
    for one, stage, micro in stages:
        micro = max(micro, _weightless(one, stage, recipe).pieces)
        micro = min(micro, stage.batch)
        if micro % 2 and MethodSpec(one.name, one.options).complete().get("antithetic"):
            raise BasinscopeError(
                f"antithetic noise with {micro} micro-batches in a step",
                "an even number, they come in pairs",
                "accumulate: 2, and a batch of as many",
            )


def total_tokens(recipe: Recipe, parameters: int) -> int:
    """Tokens that a row is trained on, as the recipe asks for."""
    if recipe.tokens is not None:
        return recipe.tokens
    assert recipe.chinchilla is not None
    return round(recipe.chinchilla * TOKENS_PER_PARAMETER * parameters)


def steps_of(recipe: Recipe, parameters: int) -> int:
    """Optimiser steps of a row: its tokens over those of a step, rounded up."""
    return math.ceil(total_tokens(recipe, parameters) / (recipe.batch * recipe.context))


def equal_steps(recipe: Recipe, row: StudyRow, steps: int, pace: float) -> int:
    """Optimiser steps of a row, so that rows are equal in what the recipe says.

    One that stops early takes its share of them; its learning rate's schedule is fitted to it.

    Args:
        recipe: whose ``equal`` is meant.
        row: whose steps.
        steps: of a row that costs one pass a step.
        pace: seconds of its step over those of the recipe's first method.
    """
    cost = {"tokens": 1.0, "passes": passes(row, recipe), "wall": pace}[recipe.equal]
    return max(1, round((row.entry.stop or 1.0) * steps / cost))


def passes(row: StudyRow, recipe: Recipe) -> float:
    """Forward and backward passes of a step of a row, found without any weights."""
    return _weightless(row.entry, recipe, recipe).passes


def _weightless(entry: Entry, stage: Training | Tuning, recipe: Recipe) -> Method:
    return build(
        entry, stage, gpt2(recipe, vocabulary=8, end=0, device="meta"),
        betas=recipe.betas, seed=0, steps=1, backward=torch.Tensor.backward,
    )  # fmt: skip


def copies(row: StudyRow) -> int:
    """Float32 copies of the weights that a method keeps beside the optimiser's own state."""
    own = {"adamw": 0, "averaged": 0, "dropout": 0}.get(row.spec.name, 1)
    return own + int(row.spec.complete()["average"] is not None)


def prepare(recipe: Recipe, data_dir: str | Path | None, beside: Path | None) -> Study:
    """Read and tokenise the texts, and check that they hold what is asked of them.

    Raises:
        BasinscopeError: bad texts or tokenizer; a text too small for the asked tokens.
    """
    rows(recipe)
    check_methods(recipe)
    parts = text.parts(recipe.text, data_dir, beside)
    tokenizer = tokens.tokenizer_of(recipe.tokenizer, parts)
    stream = tokens.stream(tokenizer, parts)
    parameters = recipe.model.parameters(len(tokenizer), recipe.context)
    steps = steps_of(recipe, parameters)
    check_size("the text", stream, recipe, steps, recipe.batch, recipe.repeat)
    tuning = None
    if recipe.finetune is not None:
        own = recipe.finetune
        tuning = tokens.stream(tokenizer, text.parts(own.text, data_dir, beside))
        check_size("the text of finetune", tuning, recipe, own.steps, own.batch, own.repeat)
    return Study(recipe, tokenizer, stream, tuning, parameters, steps)


def check_size(
    name: str,
    stream: Stream,
    recipe: Training,
    steps: int,
    batch: int,
    repeat: float,
) -> None:
    """Refuse a text that has no window, or fewer than ``steps`` of ``batch`` ask for.

    Raises:
        BasinscopeError: which of them.
    """
    context = recipe.context
    there, wanted = stream.windows(context), steps * batch
    if there == 0 or (len(stream.validation) - 1) // context == 0:
        raise BasinscopeError(
            f"{name} has {len(stream.train):,} tokens to train on and "
            f"{len(stream.validation):,} held out",
            f"at least one window of {context} + 1 tokens in each",
            "a longer text, a larger hold_out, or a smaller context",
        )
    if wanted > repeat * there:
        raise too_small(name, there * context, wanted / there, repeat)


def too_small(name: str, there: int, times: float, repeat: float) -> BasinscopeError:
    """Refusal of a text that would have to be read too often."""
    return BasinscopeError(
        f"{name} has {there:,} tokens for the {times * there:,.0f} that are asked for "
        f"({times:.2f} times over it)",
        f"at most {repeat:g} times (repeat)",
        f"a longer text, fewer tokens, or repeat: {math.ceil(times)}",
    )


def build(
    entry: Entry,
    stage: Training | Tuning,
    module: nn.Module,
    *,
    betas: tuple[float, float],
    seed: int,
    steps: int,
    backward: Any,
) -> Method:
    """A method for one stage of a row."""
    return methods.build(
        MethodSpec(entry.name, entry.options),
        module,
        lr=setting(entry, stage, "lr"),
        weight_decay=setting(entry, stage, "weight_decay"),
        betas=betas,
        seed=seed,
        total_steps=steps,
        backward=backward,
    )


def setting(entry: Entry, stage: Training | Tuning, name: str) -> Any:
    """A setting of a stage, the method's own where it has one."""
    own = getattr(entry, name)
    return getattr(stage, name) if own is None else own


def select(all_rows: Sequence[StudyRow], only: Sequence[str] | None) -> tuple[StudyRow, ...]:
    """Rows whose label, method or name is one of the words; all of them without words.

    Raises:
        BasinscopeError: a word that names no row.
    """
    if not only:
        return tuple(all_rows)
    chosen = []
    for word in only:
        named = [row for row in all_rows if word in (row.label, row.spec.name, row.name)]
        if not named:
            raise BasinscopeError(
                f"no row {word!r}",
                f"{', '.join(row.name for row in all_rows)}, or the label of a method",
                nearest(word, [row.name for row in all_rows]),
            )
        chosen += named
    return tuple(row for row in all_rows if row in chosen)
