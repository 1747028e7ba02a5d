r"""Geometries of low-rank fine-tuning: noise on the factor that is trained, the others fixed.

With the fixed factors L (out x a) and R (b x in) of a weight matrix, the noise is
:math:`s\,L E R` with E ~ N(0, I) of shape a x b, and a displacement :math:`s\,L M R` has the norm
:math:`\lVert M \rVert_F`. The map from the trained factor to the weights is linear, so that the
theorem of the smoothed score holds in the factor's own coordinates.

* LoRA with A fixed (Hu et al., arXiv 2106.09685; LoRA-FA, 2308.03303): L = I, R = A; the noise is
  on B. An adapter whose A was trained too leaves this geometry.
* LoRA-XS (Balazy et al., arXiv 2405.17604): L and R are the leading singular vectors of the
  pristine weight; the noise is on the a x a core between them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from basinscope.directions.adapters import inner_factors
from basinscope.directions.base import Direction, Displacement, held
from basinscope.errors import BasinscopeError
from basinscope.geometries.base import Distance, Noise, check_radius, has_left, squares
from basinscope.weights import noise
from basinscope.weights.parts import Device, Parts, Weights
from basinscope.weights.selection import compiled


@dataclass(frozen=True)
class Pair:
    """Fixed factors of one weight matrix, as it is stored; None is the identity."""

    left: torch.Tensor | None  # (rows, a) float32, or of as many experts (experts, rows, a)
    right: torch.Tensor | None  # (b, columns) float32, or (experts, b, columns)
    scale: float = 1.0

    def product(self, core: torch.Tensor) -> torch.Tensor:
        """Displacement of the weight matrix for a core (a, b)."""
        moved = core * self.scale
        if self.right is not None:
            moved = moved @ self.right.to(core)
        return moved if self.left is None else self.left.to(core) @ moved

    def core(self, moved: torch.Tensor) -> torch.Tensor:
        """Shortest core whose product is nearest to a displacement, in float64."""
        core = moved.double() / self.scale
        if self.right is not None:
            core = core @ torch.linalg.pinv(self.right.double())
        return core if self.left is None else torch.linalg.pinv(self.left.double()) @ core

    def shape(self, stored: torch.Size) -> tuple[int, ...]:
        """Shape of the core."""
        a = stored[-2] if self.left is None else self.left.shape[-1]
        b = stored[-1] if self.right is None else self.right.shape[-2]
        return (*stored[:-2], a, b)


@dataclass(frozen=True, eq=False)
class Factors:
    """Noise on the trained factor of some weight matrices; all other parameters do not move.

    Args:
        label: word that names it.
        pairs: fixed factors by the canonical name of the weight.
        identity: text that determines the factors; a hash of their bytes where it is empty.
    """

    label: str
    pairs: Mapping[str, Pair]
    identity: str = field(default="")

    def __post_init__(self) -> None:
        """Hash the factors."""
        if not self.pairs:
            raise BasinscopeError(
                f"{self.label}: no weight matrix", "at least one", "another adapter"
            )
        if not self.identity:
            digest = hashlib.sha256()
            for name, pair in sorted(self.pairs.items()):
                digest.update(f"{name}\0{pair.scale!r}".encode())
                for tensor in (pair.left, pair.right):
                    digest.update(f"\0{None if tensor is None else tuple(tensor.shape)}".encode())
                    if tensor is not None:
                        digest.update(tensor.float().contiguous().numpy().tobytes())
            object.__setattr__(self, "identity", f"factors sha256:{digest.hexdigest()}")

    def noise(self, seed: int) -> Direction:
        """Draws of the trained factors from N(0, I)."""

        def sample(engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
            pair = self.pairs.get(name)
            if pair is None:
                return None
            shape = pair.shape(engine.shapes[name])
            n = math.prod(shape)
            core = noise.normals(f"core\0{name}", n, seed=seed, draw=draw, device=device)
            flat = pair.product(core.reshape(shape)).reshape(-1)
            return lambda start, stop: flat[start:stop].clone()

        return Noise(self, seed, sample)

    def distance(self, engine: Weights, displacement: Displacement) -> Distance:
        """Norm of the trained factors; what they cannot give is outside."""
        r = inside = outside = whole = 0.0
        for name, shape in engine.shapes.items():
            parts = displacement(name)
            if parts is None:
                continue
            pair = self.pairs.get(name)
            square = squares(parts, shape)
            whole += square
            if pair is None:
                outside += square
                continue
            moved = parts(0, shape.numel()).reshape(shape).double()
            core = pair.core(moved)
            nearest = pair.product(core)
            r += float(core.square().sum())
            inside += float(nearest.square().sum())
            outside += float((moved - nearest).square().sum())
        left = has_left(engine, math.sqrt(outside), math.sqrt(whole))
        return Distance(math.inf if left else math.sqrt(r), math.sqrt(inside), math.sqrt(outside))

    def project(
        self, engine: Weights, displacement: Mapping[str, torch.Tensor], radius: float
    ) -> float:
        """Keep what the factors can give, shortened to the radius; see `Geometry`."""
        check_radius(radius)
        cores: dict[str, torch.Tensor] = {}
        moves = held(displacement)
        for name, tensor in displacement.items():
            parts, pair = moves(name), self.pairs.get(name)
            if pair is None or parts is None:
                tensor.zero_()
            else:
                cores[name] = pair.core(parts(0, tensor.numel()).reshape(tensor.shape))
        r = math.sqrt(sum(float(core.square().sum()) for core in cores.values()))
        factor = radius / r * (1 - 1e-6) if r > radius * (1 - 1e-6) else 1.0  # float32 rounding
        for name, core in cores.items():
            displacement[name].copy_(self.pairs[name].product(core * factor))
        return r * factor


def lora(engine: Weights, folder: str) -> Factors:
    """Geometry of a LoRA adapter whose A is fixed: noise on B.

    Args:
        engine: gives the names of the weights.
        folder: adapter as peft writes it; its B is not used.

    Raises:
        BasinscopeError: no LoRA adapter there, or one for another model.
    """
    fixed = inner_factors(folder, engine)
    return Factors(f"lora:{folder}", {name: Pair(*factors) for name, factors in fixed.items()})


def lora_xs(engine: Weights, rank: int, pattern: str = "") -> Factors:
    """Geometry of LoRA-XS: noise on a core between leading singular vectors of the weights.

    Args:
        engine: its pristine weights are decomposed (linear layers, without the output head).
        rank: of the core, at least 1.
        pattern: regular expression; only matching weights have a core.

    Raises:
        BasinscopeError: a rank that no weight has, or a pattern that matches none.

    Cost: one singular value decomposition for each weight matrix.
    """
    names = [
        name for name in engine.linear if compiled(pattern).search(name) and name in engine.shapes
    ]
    most = max((min(engine.shapes[name][-2:]) for name in names), default=0)
    if not 1 <= rank <= most:
        raise BasinscopeError(
            f"lora-xs of rank {rank} on {len(names)} weights that match {pattern!r}",
            f"1 to {most}" if names else "a pattern that matches linear layers",
            "another rank" if names else "another pattern",
        )
    pairs = {}
    for name in names:
        theta = engine.pristine(name).detach().float().cpu()
        u, _, v = torch.linalg.svd(theta, full_matrices=False)
        pairs[name] = Pair(u[..., :rank].contiguous(), v[..., :rank, :].contiguous())
    # the span is that of theta0's singular vectors: another machine rounds them otherwise, and the
    # noise of a rotated core is the same; the model's fingerprint stands beside it in every plan
    label = f"lora-xs:{rank}" + (f":{pattern}" if pattern else "")
    return Factors(label, pairs, f"lora-xs rank={rank} of theta0: {' '.join(sorted(pairs))}")
