"""What every training method has in common: losses in, one optimiser step out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from basinscope.errors import BasinscopeError, nearest
from basinscope.optim.averaging import Average
from basinscope.optim.state import pack, unpack
from basinscope.weights import selection

Loss = Callable[[], torch.Tensor]
"""Forward pass of one micro-batch under the live weights; gives its mean loss, a scalar."""

BASES = ("adamw", "adam", "nadam", "radam", "adamax", "sgd", "rmsprop", "adagrad")


@dataclass(frozen=True)
class Setup:
    """What a method is built from, besides its own options.

    Attributes:
        model: what is trained; its parameters that require gradients are.
        lr: learning rate of the base optimiser; schedules act on `Method.optimizer`.
        weight_decay: for parameters of two dimensions and more, the others have none.
        betas: of the base optimiser; the first is the momentum of SGD.
        seed: names all randomness of the method.
        total_steps: optimiser steps of the whole run, which schedules and tails are shares of.
        backward: what replaces ``loss.backward()``, such as ``accelerator.backward``.
    """

    model: nn.Module
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    seed: int
    total_steps: int
    backward: Callable[[torch.Tensor], Any]

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """Trained parameters under the names that a checkpoint gives them, tied ones once."""
        return [(name, p) for name, p in selection.named(self.model) if p.requires_grad]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with names: matrices with weight decay, the others without."""
        named = self.named()
        decayed = [(n, p) for n, p in named if p.dim() >= 2]
        others = [(n, p) for n, p in named if p.dim() < 2]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def base(self, word: str) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """Class of a base optimiser, and what it is given.

        Raises:
            BasinscopeError: for a word that is not in `BASES`.
        """
        if word not in BASES:
            raise BasinscopeError(f"base={word!r}", ", ".join(BASES), nearest(word, BASES))
        kind = next(k for name, k in vars(torch.optim).items() if name.lower() == word)
        offered = {"lr": self.lr, "betas": self.betas, "momentum": self.betas[0]}
        taken = inspect.signature(kind).parameters
        return kind, {key: value for key, value in offered.items() if key in taken}


class Method:
    """A way to train: takes the micro-batches of a step, leaves the model one step further.

    Made by `basinscope.optim.methods.build`. Subclasses say where gradients are taken
    (`_gradients`), what an update is (`_update`), and which weights are the clean ones (`_clean`).

    Attributes:
        passes: forward and backward passes over the batch that a step takes, in expectation.
        optimizer: the optimiser whose learning rate a schedule may set.
        steps: optimiser steps taken.
        pieces: least number of micro-batches of a step.
    """

    pieces: int = 1

    def __init__(
        self,
        setup: Setup,
        optimizer: torch.optim.Optimizer,
        *,
        identity: Mapping[str, Any],
        average: str | None = None,
        passes: float = 1.0,
    ) -> None:
        self.setup, self.optimizer, self.passes = setup, optimizer, passes
        self._stateful: Any = optimizer
        self.steps = 0
        self._parameters = [p for _, p in setup.named()]
        self._identity = {**identity, "seed": setup.seed, "total_steps": setup.total_steps}
        self._average = (
            None if average is None else Average(average, self._parameters, setup.total_steps)
        )

    def step(self, losses: Sequence[Loss], clip: float | None = None) -> float:
        """One optimiser step on the mean loss of some micro-batches.

        Args:
            losses: one callable for each micro-batch; called as often as the method needs.
            clip: greatest norm of the gradient that the step uses.

        Returns:
            Mean of the losses where the method first took them (at noisy weights under GO).

        Raises:
            BasinscopeError: no micro-batch, a loss that is no callable, or gives no scalar.
        """
        if not losses:
            raise BasinscopeError(
                "a step without a micro-batch", "one loss or more", "a loss for each micro-batch"
            )
        if not all(map(callable, losses)):
            raise BasinscopeError(
                "a loss that is a value",
                "a callable that runs the forward pass: the method says at which weights, and how "
                "often",
                "lambda: model(...).loss",
            )
        self.optimizer.zero_grad()
        mean_loss = self._gradients(losses)
        self._update(losses, clip)
        self.optimizer.zero_grad()
        self.steps += 1
        if self._average is not None:
            with self._clean():
                self._average.update(self.steps - 1)
        return float(mean_loss)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Live weights are those one evaluates or keeps; they have their bytes back on leaving.

        The average where there is one, the clean weights otherwise. To go on training later, save
        the live weights *outside* this context beside `state_dict`.
        """
        average = self._average
        place = average.in_place() if average is not None and average.count else self._clean()
        try:
            with place:
                torch.clear_autocast_cache()  # of the weights that were live before
                yield
        finally:
            torch.clear_autocast_cache()

    def state_dict(self) -> dict[str, Any]:
        """Everything besides the model's weights that going on bit for bit needs.

        Returns:
            ``{"tensors": {name: tensor}, "values": ...}``: the tensors are the live ones, for
            safetensors; the values are JSON.
        """
        average = self._average
        return pack(
            {
                "method": self._identity,
                "steps": self.steps,
                "optimizer": self._stateful.state_dict(),
                "average": None
                if average is None
                else {"count": average.count, "tensors": average.tensors},
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the model's weights must be those of then.

        Raises:
            BasinscopeError: if another method, option, seed or length made it (the differences are
                listed).
        """
        state = unpack(state)
        now, then = self._identity, state["method"]
        differences = [
            f"{key}: {then.get(key)} -> {now.get(key)}"
            for key in sorted({*now, *then})
            if then.get(key) != now.get(key)
        ]
        if differences:
            raise BasinscopeError(
                f"the state is that of another run ({'; '.join(differences)})",
                "the settings that the run began with",
                "pass those, or begin a new run",
            )
        self._stateful.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        if self._average is not None:
            self._average.count = state["average"]["count"]
            self._average.tensors = state["average"]["tensors"]

    def _gradients(self, losses: Sequence[Loss]) -> torch.Tensor:
        """Leave the gradient in ``.grad``, give the mean loss."""
        return self._pass(losses)

    def _update(self, losses: Sequence[Loss], clip: float | None) -> None:
        """Step from the gradient in ``.grad``."""
        self._clip(clip)
        self.optimizer.step()

    def _clean(self) -> AbstractContextManager[None]:
        """Live weights are without noise inside."""
        return nullcontext()

    def _pass(
        self,
        losses: Sequence[Loss],
        around: Callable[[int], AbstractContextManager[None]] = lambda i: nullcontext(),
    ) -> torch.Tensor:
        """One forward and backward pass over every micro-batch, each inside ``around(i)``."""
        total = torch.zeros(())
        for i, loss in enumerate(losses):
            torch.clear_autocast_cache()  # of weights cast before they were moved
            with around(i):
                value = loss()
                if value.dim():
                    raise BasinscopeError(
                        f"a loss of shape {tuple(value.shape)}", "a scalar", "its mean"
                    )
                part = value / len(losses)
                self.setup.backward(part)
            total = total.to(value.device) + part.detach().float()
        return total

    def _clip(self, clip: float | None) -> None:
        if clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, clip)
