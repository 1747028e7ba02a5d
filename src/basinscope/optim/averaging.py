"""Averages of the weights along a run: exponential, or uniform over its last part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from basinscope.errors import BasinscopeError


def parse_average(word: str) -> tuple[str, float]:
    """Kind of an average and its number, from ``ema:DECAY`` or ``tail:SHARE``.

    Raises:
        BasinscopeError: another word, or a number out of range.
    """
    kind, _, rest = word.partition(":")
    try:
        value = float(rest)
    except ValueError:
        value = math.nan
    if (kind == "ema" and 0 < value < 1) or (kind == "tail" and 0 < value <= 1):
        return kind, value
    raise BasinscopeError(
        f"average={word!r}", "ema:DECAY, 0 < DECAY < 1; tail:SHARE, 0 < SHARE <= 1", "ema:0.99"
    )


class Average:
    """Running average of parameters, put in their place on demand.

    ``ema:DECAY`` is a <- DECAY a + (1 - DECAY) theta after every step, begun at the weights after
    the first; ``tail:SHARE`` is the mean of the weights after each step of the last SHARE of the
    run (Izmailov et al. 2018, arXiv 1803.05407). Both by `torch.optim.swa_utils`.

    Args:
        word: as above; SHARE in (0, 1], DECAY in (0, 1).
        parameters: what is averaged.
        total_steps: optimiser steps of the whole run.

    Raises:
        BasinscopeError: another word, or a number out of range.

    Cost: one copy of the weights, one pass over both after every step that counts.
    """

    def __init__(self, word: str, parameters: Sequence[torch.Tensor], total_steps: int) -> None:
        kind, value = parse_average(word)
        if kind == "ema":
            self._begin, self._into = 0, get_ema_multi_avg_fn(value)  # type: ignore[no-untyped-call]
        else:
            self._begin = total_steps - max(1, round(value * total_steps))
            self._into = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        self._parameters = list(parameters)
        self.tensors: list[torch.Tensor] = []
        self.count = 0

    def update(self, step: int) -> None:
        """Take in the live weights, after the step numbered ``step`` from 0."""
        if step < self._begin:
            return
        live = [p.detach() for p in self._parameters]
        with torch.no_grad():
            if self.count == 0:
                self.tensors = [p.clone() for p in live]
            else:
                self._into(self.tensors, live, self.count)
        self.count += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Live weights are the average inside the ``with``, and have their bytes back after it.

        Before the first average they are left alone.
        """
        live = [p.detach().clone() for p in self._parameters] if self.count else []
        try:
            _write(self._parameters, self.tensors)
            yield
        finally:
            _write(self._parameters, live)


def _write(parameters: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=False):
            parameter.copy_(value)
