"""The Gaussian-augmented optimiser: gradients at noisy weights, steps from the clean ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from basinscope.errors import BasinscopeError
from basinscope.optim import tensors
from basinscope.weights import noise

Schedule = Callable[[int], float]
"""Factor on sigma, from the number of optimiser steps taken."""


class GaussianAugmented(torch.optim.Optimizer):
    r"""Minimise the loss expected under Gaussian weight noise.

    That is :math:`E_\varepsilon L(\theta + \varepsilon)` with
    :math:`\varepsilon \sim N(0, \sigma^2 I)`, the GO optimiser of arXiv 2505.17646: noise is added,
    loss and gradient are taken there, the clean weights come back, and the base optimiser steps
    from them. To second order this adds :math:`(\sigma^2 / 2)\,\mathrm{tr}\,H` to the loss, for one
    forward and backward pass. With
    plain SGD as its base the clean weights follow Anti-PGD (Orvieto et al. 2022), whose iterate is
    :math:`\theta + \varepsilon`.

    Args:
        params: parameters, named parameters, or groups of them, as torch takes them; a group may
            have its own ``sigma``.
        base: class of the optimiser that steps; further keyword arguments are its own.
        sigma: standard deviation of the noise, of each weight, at least 0.
        seed: names the noise.
        relative: sigma counts in units of each tensor's RMS, taken anew after every step.
        schedule: factor on sigma by the number of steps taken; default 1.
        select: regular expression; only parameters whose name it matches get noise.
        names: named parameters, where ``params`` come without names (as from a Trainer). A tensor
            without a name is called by its place, which is as random but depends on the grouping.
        antithetic: two perturbations in a row are a pair, +noise and -noise.
        independent_ranks: in a process group, every rank draws its own noise; all draw the same
            otherwise.

    Raises:
        BasinscopeError: sigma negative or not finite, a base that is no optimiser, a selection
            that matches nothing.

    Guarantee: inside `perturbed` the weights are round(theta + sigma * noise), one float32 sum
    rounded once; on leaving, also by an exception, they have their bytes of before. The noise is
    that of `basinscope.normals`: a function of (seed, number of the perturbation, name, position),
    equal on any device and for any sharding. With sigma = 0 nothing is written, and the run is that
    of the base bit for bit.
    Cost: one copy of the perturbed weights in memory; two passes over them each time.

    >>> w = torch.nn.Parameter(torch.ones(3))
    >>> opt = GaussianAugmented([("w", w)], base=torch.optim.SGD, sigma=0.1, lr=0.5)
    >>> with opt.perturbed():
    ...     (w ** 2).sum().backward()
    >>> torch.equal(w, torch.ones(3))
    True
    >>> opt.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        sigma: float,
        seed: int = 0,
        relative: bool = False,
        schedule: Schedule | None = None,
        select: str | None = None,
        names: Iterable[tuple[str, torch.Tensor]] | None = None,
        antithetic: bool = False,
        independent_ranks: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_sigma(sigma)
        noise.stream("", seed, 0)
        if not (isinstance(base, type) and issubclass(base, torch.optim.Optimizer)):
            raise BasinscopeError(
                f"base={base!r}",
                "allowed: a class derived from torch.optim.Optimizer",
                "for example base=torch.optim.AdamW",
            )
        self.base = base(params, **kwargs)
        self.relative, self.schedule, self.antithetic = relative, schedule, antithetic
        self.independent_ranks = independent_ranks
        self._names = {id(p): name for name, p in names or ()}
        self._select = re.compile(select) if select is not None else None
        self._clean: dict[int, torch.Tensor] = {}
        self._rms: dict[int, float] = {}
        self._open = False
        super().__init__(self.base.param_groups, self.base.defaults)
        self._share()
        for group in self.param_groups:
            _check_sigma(group.setdefault("sigma", float(sigma)))
            group.update(noise_seed=seed, noise_draw=0, noise_steps=0)
        if not any(True for _ in self._chosen()):
            raise BasinscopeError(
                f"select={select!r} matches no parameter",
                f"the parameters are called like {', '.join(self._all_names()[:3])}",
            )

    @property
    def draws(self) -> int:
        """Number of perturbations made so far."""
        return int(self.param_groups[0]["noise_draw"])

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Noisy weights inside the ``with``: put forward *and* backward there.

        Every call draws fresh noise: one call for each micro-batch.

        Raises:
            BasinscopeError: inside another ``perturbed``.
        """
        if self._open:
            raise BasinscopeError(
                "perturbed() inside another perturbed()",
                "one perturbation at a time",
                "leave the first with-block before entering the next",
            )
        self._open = True
        moved: list[tuple[torch.Tensor, torch.Tensor]] = []
        try:
            with torch.no_grad():
                self._perturb(moved)
            for group in self.param_groups:
                group["noise_draw"] += 1
            yield
        finally:
            with torch.no_grad():
                for live, clean in moved:
                    live.copy_(clean)
            self._open = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the base optimiser from the clean weights; a closure is evaluated at noisy ones.

        Raises:
            BasinscopeError: inside `perturbed`.
        """
        self._refuse_open("step()")

        def noisy() -> Any:
            assert closure is not None
            with self.perturbed(), torch.enable_grad():
                return closure()

        loss = self.base.step(None if closure is None else noisy)
        self._rms.clear()
        for group in self.param_groups:
            group["noise_steps"] += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the base optimiser."""
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the base optimiser; the group may have its own ``sigma``."""
        first = self.param_groups[0] if getattr(self, "param_groups", None) else None
        if first is None or "noise_seed" not in first:
            super().add_param_group(param_group)  # torch's own construction
            return
        self.base.add_param_group(param_group)
        added = self.param_groups[-1]
        _check_sigma(added.setdefault("sigma", first["sigma"]))
        added.update({k: first[k] for k in ("noise_seed", "noise_draw", "noise_steps")})

    def state_dict(self) -> dict[str, Any]:
        """State of the base, and in every group: sigma, seed, perturbations and steps so far.

        Raises:
            BasinscopeError: inside `perturbed`, where a checkpoint would hold noisy weights.
        """
        self._refuse_open("state_dict()")
        return dict(self.base.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume exactly: the next perturbation is the one that would have come next.

        A state of the bare base is taken too; the noise then begins at its first draw.

        Raises:
            BasinscopeError: if it was made with another sigma or seed (the differences are listed).
        """
        self._refuse_open("load_state_dict()")
        found = []
        for i, (own, saved) in enumerate(
            zip(self.param_groups, state_dict["param_groups"], strict=False)
        ):
            for key in ("sigma", "noise_seed"):
                if key in saved and saved[key] != own[key]:
                    found.append(f"{key} of group {i}: {saved[key]} -> {own[key]}")
        if found:
            raise BasinscopeError(
                f"the state was made with other noise ({'; '.join(found)})",
                "a run is resumed with the sigma and the seed that it began with",
                "pass those, or begin a new run",
            )
        kept = [
            {k: group[k] for k in ("sigma", "noise_seed", "noise_draw", "noise_steps")}
            for group in self.param_groups
        ]
        self.base.load_state_dict(state_dict)
        self._share()
        for group, own in zip(self.param_groups, kept, strict=True):
            for key, value in own.items():
                group.setdefault(key, value)
        self._rms.clear()

    def _share(self) -> None:
        """One list of groups and one state, whoever is asked for them."""
        self.base.param_groups = self.param_groups = self.base.param_groups
        self.state = self.base.state

    def _perturb(self, moved: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for live, name, group in self._chosen():
            factor = 1.0 if self.schedule is None else self.schedule(group["noise_steps"])
            sigma = group["sigma"] * factor
            _check_sigma(sigma)
            if self.relative:
                sigma *= self._scale(live)
            if sigma == 0.0:
                continue
            draw = group["noise_draw"]
            if self.antithetic:
                sigma, draw = sigma * (-1) ** (draw % 2), draw // 2
            if self.independent_ranks and torch.distributed.is_initialized():
                world = torch.distributed.get_world_size()
                draw = draw * world + torch.distributed.get_rank()
            whole, local, start = live, tensors.local(live), tensors.start(live)
            clean = self._clean.get(id(whole))
            if clean is None:
                clean = self._clean[id(whole)] = torch.empty_like(
                    local, memory_format=torch.contiguous_format
                )
            clean.copy_(local)
            moved.append((local, clean))
            tensors.add_noise(
                clean, local, sigma, name, seed=group["noise_seed"], draw=draw, start=start
            )

    def _scale(self, live: torch.Tensor) -> float:
        """RMS of a whole tensor, worked out once between two steps."""
        if id(live) not in self._rms:
            square = live.detach().float().square().mean()
            square = square.full_tensor() if isinstance(square, DTensor) else square
            self._rms[id(live)] = math.sqrt(float(square))
        return self._rms[id(live)]

    def _chosen(self) -> Iterator[tuple[torch.Tensor, str, dict[str, Any]]]:
        place = 0
        for group in self.param_groups:
            named = group.get("param_names") or [None] * len(group["params"])
            for parameter, given in zip(group["params"], named, strict=True):
                name = given or self._names.get(id(parameter)) or f"parameter.{place}"
                name = tensors.canonical(name)
                place += 1
                if self._select is None or self._select.search(name):
                    yield parameter, name, group

    def _all_names(self) -> list[str]:
        select, self._select = self._select, None
        try:
            return [name for _, name, _ in self._chosen()]
        finally:
            self._select = select

    def _refuse_open(self, what: str) -> None:
        if self._open:
            raise BasinscopeError(
                f"{what} inside perturbed(), where the weights are noisy",
                "forward and backward belong inside the with-block, everything else after it",
            )


def unwrapped(optimizer: Any) -> GaussianAugmented:
    """The `GaussianAugmented` inside whatever a training library has put around it.

    Raises:
        BasinscopeError: if there is none.
    """
    inner = optimizer
    while not isinstance(inner, GaussianAugmented) and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    if not isinstance(inner, GaussianAugmented):
        raise BasinscopeError(
            f"the optimiser is {type(inner).__name__}",
            "allowed: GaussianAugmented",
            "pass optimizer_cls_and_kwargs=(bs.GaussianAugmented, {...}) to the Trainer",
        )
    return inner


class PerturbedSteps:
    """Mixin for a Trainer of transformers or TRL: every micro-batch runs at noisy weights.

    ``class Widening(bs.PerturbedSteps, Trainer): pass``, with a `GaussianAugmented` passed as
    ``optimizers=`` or ``optimizer_cls_and_kwargs=``. Steps, checkpoints and evaluations see the
    clean weights.
    """

    optimizer: Any

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Forward and backward of one micro-batch at noisy weights."""
        with unwrapped(self.optimizer).perturbed():
            return super().training_step(*args, **kwargs)  # type: ignore[misc]


def _check_sigma(sigma: Any) -> None:
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 <= sigma < math.inf:
        raise BasinscopeError(f"sigma={sigma!r}", "allowed: a finite number of at least 0")
