"""Continuous dropout: Gaussian factors on activations, where a model has its dropout layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from basinscope.errors import BasinscopeError
from basinscope.optim.base import Loss, Method, Setup
from basinscope.weights import noise


class ContinuousDropout(Method):
    """Multiply the activations at every dropout layer by N(1, std^2) (Srivastava et al. 2014, §10).

    Those layers' own rates count as 0 during a step, and nothing is done outside one. In GPT-2
    they sit behind the embeddings and at the end of both branches of every block; dropout of
    attention probabilities is no layer there (fused attention and transformers' eager one apply it
    as a function), and stays off.

    The factors are a function of (seed, step, micro-batch, rank), drawn by a generator of their
    own in the order in which the layers run.

    Raises:
        BasinscopeError: a model without dropout layers, in evaluation mode (where dropout would do
            nothing), or with gradient checkpointing (whose second forward pass would draw other
            factors).
    """

    def __init__(
        self,
        setup: Setup,
        *,
        identity: Mapping[str, Any],
        base: str,
        average: str | None,
        std: float,
    ) -> None:
        self._layers = [m for m in setup.model.modules() if isinstance(m, nn.Dropout)]
        if not self._layers:
            raise BasinscopeError(
                f"dropout in a {type(setup.model).__name__}, which has no dropout layer",
                "a model with torch.nn.Dropout where dropout shall be, its rate may be 0",
                "GPT-2, which has them",
            )
        self._std = std
        kind, options = setup.base(base)
        super().__init__(setup, kind(setup.groups(), **options), identity=identity, average=average)

    def _gradients(self, losses: Sequence[Loss]) -> torch.Tensor:
        if not all(layer.training for layer in self._layers):
            raise BasinscopeError("dropout in evaluation mode", "training mode", "model.train()")
        return self._pass(losses, self._dropping)

    @contextmanager
    def _dropping(self, micro_batch: int) -> Iterator[None]:
        device = self._parameters[0].device
        ready = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if ready else 0
        stream = f"continuous dropout/{micro_batch}/{rank}"
        low, high, _, _ = noise.stream(stream, self.setup.seed, self.steps)
        rng = torch.Generator(device).manual_seed(low | (high & 0x7FFFFFFF) << 32)

        def factor(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            if torch._C._current_graph_task_id() != -1:  # -1: outside any backward pass
                raise BasinscopeError(
                    "dropout with gradient checkpointing, which runs layers again with others",
                    "one forward pass",
                    "switch the model's checkpointing of activations off",
                )
            return output * torch.empty_like(output).normal_(1.0, self._std, generator=rng)

        rates = [layer.p for layer in self._layers]
        handles = [layer.register_forward_hook(factor) for layer in self._layers]
        try:
            for layer in self._layers:
                layer.p = 0.0
            yield
        finally:
            for layer, rate, handle in zip(self._layers, rates, handles, strict=True):
                layer.p = rate
                handle.remove()
