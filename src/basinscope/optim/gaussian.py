"""The Gaussian-augmented optimiser: gradients at noisy weights, steps from the clean ones."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any, Literal

import torch
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from basinscope.errors import BasinscopeError
from basinscope.optim import tensors
from basinscope.weights import noise
from basinscope.weights.selection import bare_names, named

_COUNTS = ("noise_draw", "noise_steps")

Schedule = Callable[[int], float]
"""Factor on sigma, from the number of optimiser steps taken."""

Relative = bool | Literal["model"]
"""Unit of sigma: that of the weights, each tensor's RMS, or the RMS of all of them together."""


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
        relative: ``True``: sigma counts in units of each tensor's RMS; ``"model"``: in units of the
            RMS of all perturbed weights together, as widths are, so that all get the same noise.
            Taken anew after every step.
        schedule: factor on sigma by the number of steps taken; default 1.
        select: regular expression; only parameters whose name it matches get noise.
        names: the module, whose canonical names are taken, or named parameters; for ``params``
            that come without names (as from a Trainer), or from a wrapper whose names are not the
            checkpoint's. A tensor without a name is called by its place, which is as random but
            depends on the grouping.
        antithetic: two perturbations in a row are a pair, +noise and -noise.
        cast: ``torch.bfloat16`` computes at bfloat16 weights made from float32 ones: the noise is
            added in float32 in the same pass that casts, float32 weights stay untouched as the
            master copy (no second one is kept), and gradients are added to float32 ``.grad`` on
            leaving `perturbed`. Every float32 parameter of the groups is cast, also without noise.
        independent_ranks: in a process group, every rank draws its own noise; all draw the same
            otherwise.

    Raises:
        BasinscopeError: sigma negative or not finite, a base that is no optimiser, a selection
            that is no pattern or matches nothing, another ``cast``.

    Guarantee: inside `perturbed` the weights are round(theta + sigma * noise), one float32 sum
    rounded once; on leaving, also by an exception, they have their bytes of before. The noise is
    that of `basinscope.normals`: a function of (seed, number of the perturbation, name, position),
    equal on any device and for any sharding; its draws are numbered from 2^32 on, so that no
    measurement meets noise of the training. With sigma = 0 nothing is written, and the run is that
    of the base bit for bit (without ``cast``). Weights that autocast has cached are dropped on both
    ways.
    Cost: one copy of the perturbed weights in memory (of half the size with ``cast``); three passes
    over them each time (one).

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
        relative: Relative = False,
        schedule: Schedule | None = None,
        select: str | None = None,
        names: torch.nn.Module | Iterable[tuple[str, torch.Tensor]] | None = None,
        antithetic: bool = False,
        cast: torch.dtype | None = None,
        independent_ranks: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_sigma(sigma)
        if cast not in (None, torch.bfloat16):
            raise BasinscopeError(f"cast={cast!r}", "torch.bfloat16, or None", "leave cast out")
        check_relative(relative)
        noise.stream("", seed, 0)
        if not (isinstance(base, type) and issubclass(base, torch.optim.Optimizer)):
            raise BasinscopeError(
                f"base={base!r}", "a subclass of torch.optim.Optimizer", "base=torch.optim.AdamW"
            )
        self.base = base(params, **kwargs)
        self.relative, self.schedule, self.antithetic = relative, schedule, antithetic
        self.cast, self.independent_ranks = cast, independent_ranks
        self._named_by_module = isinstance(names, torch.nn.Module)
        pairs = named(names) if isinstance(names, torch.nn.Module) else names or ()
        self._names = {id(p): name for name, p in pairs}
        self._select = _pattern(select)
        self._buffers: dict[int, torch.Tensor] = {}
        self._rms: dict[int, float] = {}
        self._grads: dict[int, torch.Tensor | None] = {}
        self._open = False
        super().__init__(self.base.param_groups, self.base.defaults)
        self._share()
        for group in self.param_groups:
            _check_sigma(group.setdefault("sigma", float(sigma)))
            group.update(
                noise_seed=seed,
                noise_relative=relative,
                noise_antithetic=antithetic,
                noise_select=select,
                noise_independent_ranks=independent_ranks,
                noise_draw=0,
                noise_steps=0,
            )
        every = [name for _, name, _ in self._all()]
        if not any(map(self._is_chosen, every)):
            raise BasinscopeError(
                f"select={select!r} matches no parameter",
                f"a regular expression found in names like {', '.join(every[:3])}",
                "leave select out",
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
        undo: list[Callable[[], object]] = []
        try:
            with torch.no_grad():
                self._perturb(undo)
            torch.clear_autocast_cache()
            for group in self.param_groups:
                group["noise_draw"] += 1
            yield
        finally:
            with torch.no_grad():
                for back in undo:
                    back()
            torch.clear_autocast_cache()
            self._open = False

    def guard(self, module: torch.nn.Module) -> None:
        """Refuse ``module.state_dict()`` inside `perturbed`, where a checkpoint would hold noise.

        An optimiser knows parameters, not the module that is saved: so this is asked for once.
        """

        def refuse(*_: object) -> None:
            self._refuse_open("saving the model")

        module.register_state_dict_pre_hook(refuse)  # type: ignore[no-untyped-call]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the base optimiser from the clean weights; a closure is evaluated at noisy ones.

        Raises:
            BasinscopeError: inside `perturbed`; without a closure around a base that needs one
                (LBFGS, SAM).
        """
        self._refuse_open("step()")

        def noisy() -> Any:
            assert closure is not None
            with self.perturbed(), torch.enable_grad():
                return closure()

        if closure is not None:
            loss: Any = self.base.step(noisy)
        elif _needs_closure(self.base):
            raise BasinscopeError(
                f"step() without a closure, around {type(self.base).__name__}",
                "a closure, since this base takes the loss itself, more than once",
                "step(closure): clear the gradients, run forward and backward, return the loss",
            )
        else:
            loss = self.base.step()
        self._rms.clear()
        for group in self.param_groups:
            group["noise_steps"] += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the base optimiser; inside `perturbed` also the gradients that ``cast`` put aside."""
        self._grads = dict.fromkeys(self._grads)
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
        added.update({k: v for k, v in first.items() if k.startswith("noise_")})

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
            BasinscopeError: if it was made with another sigma, seed, selection or kind of noise
                (the differences are listed).
        """
        self._refuse_open("load_state_dict()")
        settings = [
            {k: v for k, v in group.items() if k == "sigma" or k.startswith("noise_")}
            for group in self.param_groups
        ]
        differences = [
            f"{key} of group {i}: {saved[key]} -> {value}"
            for i, (now, saved) in enumerate(
                zip(settings, state_dict["param_groups"], strict=False)
            )
            for key, value in now.items()
            if key not in _COUNTS and saved.get(key, value) != value
        ]
        if differences:
            raise BasinscopeError(
                f"the state was made with other noise ({'; '.join(differences)})",
                "the noise that the run began with",
                "pass its settings, or begin a new run",
            )
        self.base.load_state_dict(state_dict)
        self._share()
        for group, now in zip(self.param_groups, settings, strict=True):
            for key, value in now.items():
                group.setdefault(key, value)
        self._rms.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Refused: the noise of a copy is that of other parameters, by names that it lacks."""
        raise BasinscopeError(
            "a copy of a GaussianAugmented",
            "a copy of its state",
            "build another, and give it load_state_dict(opt.state_dict())",
        )

    def _share(self) -> None:
        """One list of groups and one state, whoever is asked for them."""
        self.base.param_groups = self.param_groups = self.base.param_groups
        self.state = self.base.state

    def _perturb(self, undo: list[Callable[[], object]]) -> None:
        for live, name, group in self._all():
            sigma = self._sigma(live, group) if self._is_chosen(name) else 0.0
            cast = self.cast is not None and live.dtype == torch.float32
            if sigma == 0.0 and not cast:
                continue
            draw = group["noise_draw"]
            if self.antithetic:
                sigma, draw = sigma * (-1) ** (draw % 2), draw // 2
            if self.independent_ranks and torch.distributed.is_initialized():
                world = torch.distributed.get_world_size()
                draw = draw * world + torch.distributed.get_rank()
            whole, local, start = live, tensors.local(live), tensors.start(live)
            if cast:
                noisy, clean = self._buffer(whole, local, torch.bfloat16), local.contiguous()
                self._compute_at(whole, noisy, undo)
            else:
                noisy, clean = local, self._buffer(whole, local, local.dtype)
                clean.copy_(local)
                undo.append(partial(local.copy_, clean))
            if sigma == 0.0:
                noisy.copy_(clean)
            else:
                seed = group["noise_seed"]
                tensors.add_noise(clean, noisy, sigma, name, seed=seed, draw=draw, start=start)

    def _compute_at(
        self, whole: torch.Tensor, noisy: torch.Tensor, undo: list[Callable[[], object]]
    ) -> None:
        """Put ``noisy`` in the place of float32 weights, whose gradients go on being float32."""
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if isinstance(whole, DTensor) or ranks > 1:
            raise BasinscopeError(
                f"cast={self.cast} on {ranks} ranks",
                "one process, since a data-parallel wrapper ties its state to a parameter's dtype",
                "leave cast out: FSDP2 casts the noisy shards itself (MixedPrecisionPolicy), DDP "
                "under autocast",
            )
        master, self._grads[id(whole)] = whole.data, whole.grad

        def back() -> None:
            grad = self._grads.pop(id(whole))
            fresh, whole.grad = whole.grad, None
            whole.data = master
            increment_version(whole)  # so that a backward pass that comes too late is refused
            if fresh is not None:
                wide = fresh.to(master.dtype)
                whole.grad = wide if grad is None else grad.add_(wide)
            else:
                whole.grad = grad

        undo.append(back)
        whole.grad = None
        whole.data = noisy

    def _buffer(self, whole: torch.Tensor, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Memory beside a parameter, kept from one perturbation to the next."""
        if id(whole) not in self._buffers:
            self._buffers[id(whole)] = torch.empty_like(
                like, dtype=dtype, memory_format=torch.contiguous_format
            )
        return self._buffers[id(whole)]

    def _sigma(self, live: torch.Tensor, group: dict[str, Any]) -> float:
        factor = 1.0 if self.schedule is None else self.schedule(group["noise_steps"])
        sigma = group["sigma"] * factor
        _check_sigma(sigma)
        if not (self.relative and sigma):
            return float(sigma)
        return float(sigma * (self._scale(live) if self.relative is True else self._whole_scale()))

    def _whole_scale(self) -> float:
        """RMS of all perturbed weights."""
        noisy = [p for p, name, _ in self._all() if self._is_chosen(name)]
        square = sum(p.numel() * self._scale(p) ** 2 for p in noisy)
        return math.sqrt(square / sum(p.numel() for p in noisy))

    def _scale(self, live: torch.Tensor) -> float:
        """RMS of a whole tensor, worked out once between two steps."""
        if id(live) not in self._rms:
            square = live.detach().float().square().mean()
            square = square.full_tensor() if isinstance(square, DTensor) else square
            self._rms[id(live)] = math.sqrt(float(square))
        return self._rms[id(live)]

    def _all(self) -> Iterator[tuple[torch.Tensor, str, dict[str, Any]]]:
        """Every parameter with its name and its group."""
        members = [
            (parameter, name, group)
            for group in self.param_groups
            for parameter, name in zip(
                group["params"], group.get("param_names") or repeat(""), strict=False
            )
        ]
        names = [
            self._names.get(id(parameter)) or name or f"parameter.{place}"
            for place, (parameter, name, _) in enumerate(members)
        ]
        if not self._named_by_module:
            names = bare_names(names)
        for name, (parameter, _, group) in zip(names, members, strict=True):
            yield parameter, name, group

    def _is_chosen(self, name: str) -> bool:
        return self._select is None or self._select.search(name) is not None

    def _refuse_open(self, call: str) -> None:
        if self._open:
            raise BasinscopeError(
                f"{call} inside perturbed(), where the weights are noisy",
                "forward and backward, nothing else",
                "call it after the with-block",
            )


def check_relative(relative: Any) -> None:
    """Refuse what is no unit of sigma."""
    if not isinstance(relative, bool) and relative != "model":
        raise BasinscopeError(f"relative={relative!r}", "true, false, 'model'", "false")


def _check_sigma(sigma: Any) -> None:
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 <= sigma < math.inf:
        raise BasinscopeError(f"sigma={sigma!r}", "a finite number of at least 0", "0.01")


def _pattern(select: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(select) if select is not None else None
    except re.error as error:
        raise BasinscopeError(
            f"select={select!r} ({error})", "a regular expression", "'mlp|norm'"
        ) from None


def _needs_closure(base: torch.optim.Optimizer) -> bool:
    """Whether a base cannot step from gradients alone."""
    closure = inspect.signature(base.step).parameters.get("closure")
    required = closure is not None and closure.default is inspect.Parameter.empty
    return required or hasattr(base, "first_step")  # what SAM and its kin are known by
