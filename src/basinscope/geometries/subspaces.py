r"""Low-dimensional geometries: noise in the span of a few directions, and none elsewhere.

With k orthonormal directions as the rows of U, the noise is :math:`z^\top U`, z ~ N(0, I_k), and a
displacement :math:`c^\top U` has the norm :math:`\lVert c \rVert`. A displacement may so be as long
as a real fine-tune's and short in units of a sigma that the capability survives, if it stays in
the span (`subspaces` of a pilot run). The span must be fixed before the noise is drawn.

Nothing here holds k copies of the weights: rows are read from a file, or made from counters, a
chunk at a time.
"""

from __future__ import annotations

import abc
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from basinscope import files
from basinscope.directions.base import Direction, Displacement, held
from basinscope.errors import BasinscopeError
from basinscope.geometries.base import Distance, Noise, check_radius, has_left
from basinscope.weights import noise
from basinscope.weights.checkpoints import Shelf
from basinscope.weights.parts import Device, Parts, Weights

_ELEMENTS = 1 << 20  # of k rows that are held at once


class LowRank(abc.ABC):
    """Sigma = U^T U for the k orthonormal rows of U = mix V, V being what a subclass gives.

    Attributes:
        k: dimension.
        mix: float64 (k, k), the inverse square root of V V^T: it makes the rows orthonormal
            whatever rounding or the user did to them, and changes orthonormal ones least.
    """

    k: int
    mix: torch.Tensor

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """Word that names it on the command line."""

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """Text that determines the span."""

    @abc.abstractmethod
    def rows(self, name: str, start: int, stop: int) -> torch.Tensor | None:
        """Elements start .. stop of all rows of V, float32 (k, stop - start); None where zero."""

    def noise(self, seed: int) -> Direction:
        """Draws of N(0, U^T U): one vector z of k normals for each draw."""

        def sample(engine: Weights, name: str, draw: int, device: Device) -> Parts | None:
            if self.rows(name, 0, 1) is None:
                return None
            z = noise.normals("subspace", self.k, seed=seed, draw=draw).double()
            return lambda a, b: self._combined(z, name, a, b).to(device)

        return Noise(self, seed, sample)

    def coordinates(self, engine: Weights, displacement: Displacement) -> torch.Tensor:
        """U Delta: float64 (k,)."""
        total = torch.zeros(self.k, dtype=torch.float64)
        for name, shape in engine.shapes.items():
            parts = displacement(name)
            if parts is None or self.rows(name, 0, 1) is None:
                continue
            for a, b in self._chunks(shape.numel()):
                rows = self.rows(name, a, b)
                assert rows is not None
                total += rows.double() @ parts(a, b).double()
        return self.mix @ total

    def distance(self, engine: Weights, displacement: Displacement) -> Distance:
        """||U Delta||, and the norm of Delta - U^T U Delta; two passes over the displacement."""
        c = self.coordinates(engine, displacement)
        square = whole = 0.0
        for name, shape in engine.shapes.items():
            parts = displacement(name)
            for a, b in self._chunks(shape.numel()):
                inside = self._combined(c, name, a, b)
                moved = torch.zeros(b - a) if parts is None else parts(a, b)
                whole += float(moved.double().square().sum())
                square += float((moved.double() - inside.double()).square().sum())
        outside, r = math.sqrt(square), float(c.norm())
        left = has_left(engine, outside, math.sqrt(whole))
        return Distance(math.inf if left else r, r, outside)

    def project(
        self, engine: Weights, displacement: Mapping[str, torch.Tensor], radius: float
    ) -> float:
        """Replace by U^T c, shortened to the radius; see `Geometry`."""
        check_radius(radius)
        c = self.coordinates(engine, held(displacement))
        r = float(c.norm())
        if r > radius * (1 - 1e-6):  # to be rounded to float32
            c *= radius / r * (1 - 1e-6)
        for name, tensor in displacement.items():
            flat = tensor.reshape(-1)
            for a, b in self._chunks(flat.numel()):
                flat[a:b] = self._combined(c, name, a, b)
            if not tensor.is_contiguous():
                tensor.copy_(flat.view(tensor.shape))
        return float(c.norm())

    def _combined(self, c: torch.Tensor, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements of c^T U, float32."""
        weights = (self.mix.T @ c).float()
        out = torch.zeros(stop - start)
        for a, b in self._chunks(stop - start):
            rows = self.rows(name, start + a, start + b)
            if rows is not None:
                out[a:b] = weights @ rows
        return out

    def _chunks(self, n: int) -> Sequence[tuple[int, int]]:
        step = max(1, _ELEMENTS // self.k)
        return [(a, min(a + step, n)) for a in range(0, n, step)]

    def _orthonormalise(self, shapes: Mapping[str, torch.Size]) -> torch.Tensor:
        """Inverse square root of V V^T."""
        gram = torch.zeros(self.k, self.k, dtype=torch.float64)
        for name, shape in shapes.items():
            for a, b in self._chunks(shape.numel()):
                rows = self.rows(name, a, b)
                if rows is not None:
                    gram += rows.double() @ rows.double().T
        values, vectors = torch.linalg.eigh(gram)
        if not bool(torch.isfinite(values).all()) or float(values[0]) <= 1e-9 * float(values[-1]):
            raise BasinscopeError(
                f"the {self.k} directions of {self.label} are not independent, or not finite",
                "directions that span a subspace of dimension k",
                "a smaller k",
            )
        mix: torch.Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        return mix


@dataclass(eq=False)
class Subspace(LowRank):
    """Span of the directions in a safetensors file, as `save_basis` writes it.

    Each perturbed parameter ``name`` of shape S has one tensor ``name`` of shape (k, S) in the
    file; parameters without one do not move. Rows need not be orthonormal: their span is taken.

    Args:
        file: path of the file.
        engine: gives names and shapes.

    Attributes:
        shares: of the squared norms of the displacements it was made from, where it was just made.

    Raises:
        BasinscopeError: a file that cannot be read, or does not fit the engine.

    Cost: reads the file once, and once for every draw; k^2 products for each element once.
    """

    file: str
    engine: Weights = field(repr=False)
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Read the header, check that it fits, and orthonormalise."""
        path = Path(self.file).expanduser()
        if not path.is_file():
            raise BasinscopeError(
                f"no file at {str(self.file)!r}", "a safetensors file of a basis", "check the path"
            )
        self.file = str(self.file)
        self._shelf = Shelf([path])
        entries = self._shelf.entries
        sizes = {entry.shape[0] if entry.shape else 0 for entry in entries.values()}
        unfit = [
            name
            for name, entry in entries.items()
            if name not in self.engine.shapes or entry.shape[1:] != self.engine.shapes[name]
        ]
        if unfit or len(sizes) != 1 or 0 in sizes:
            raise BasinscopeError(
                f"{self.file} is not a basis for this model ({', '.join(unfit[:3]) or 'no rows'})",
                "for every parameter that moves a tensor (k, *shape) under its name",
                "build it for this model: subspace_from_trajectory, subspace_from_gradients",
            )
        (self.k,) = sizes
        shapes = {name: self.engine.shapes[name] for name in entries}
        self.mix = self._orthonormalise(shapes)
        self._identity = f"span sha256:{self._shelf.sha256({name: name for name in entries})}"
        del self.engine

    @property
    def label(self) -> str:
        """``subspace:FILE``."""
        return f"subspace:{self.file}"

    @property
    def identity(self) -> str:
        """Hash of the directions in the file."""
        return self._identity

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor | None:
        """Elements of all rows, read from the file."""
        entry = self._shelf.entries.get(name)
        if entry is None:
            return None
        n = entry.shape[1:].numel()
        if start == 0 and stop == n:
            return self._shelf.read(name, 0, self.k * n).reshape(self.k, n).float()
        parts = [self._shelf.read(name, j * n + start, j * n + stop) for j in range(self.k)]
        return torch.stack(parts).float()


class RandomSubspace(LowRank):
    """Span of k random directions: the control that a chosen subspace is compared with.

    To first order it gains nothing over isotropic noise: what sigma gains, sqrt(d/k), the share of
    a displacement that lies in it loses.

    Args:
        engine: gives names and shapes.
        k: dimension, at least 1.
        seed: names the subspace.

    Cost: k normals for each weight once, and again for every draw; no memory.
    """

    def __init__(self, engine: Weights, k: int, seed: int = 0) -> None:
        if k < 1 or k > engine.d:
            raise BasinscopeError(f"k={k}", f"1 to d={engine.d}", f"{min(16, engine.d)}")
        self.k, self.seed = k, seed
        self._names = frozenset(engine.shapes)
        # by name, so that another selection of parameters has another span, and another identity
        text = json.dumps({name: list(shape) for name, shape in engine.shapes.items()})
        self._shapes = hashlib.sha256(text.encode()).hexdigest()
        self.mix = self._orthonormalise(engine.shapes)

    @property
    def label(self) -> str:
        """``random-subspace:K`` or ``random-subspace:K:SEED``."""
        return f"random-subspace:{self.k}" + (f":{self.seed}" if self.seed else "")

    @property
    def identity(self) -> str:
        """Noise scheme, dimension, seed, and the parameters that it runs over."""
        return f"random span {noise.SCHEME} k={self.k} seed={self.seed} {self._shapes}"

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor | None:
        """Elements of all rows, made from their counters."""
        if name not in self._names:
            return None
        key = f"basis\0{name}"
        return torch.stack(
            [noise.normals(key, stop - start, seed=self.seed, draw=j, start=start)
             for j in range(self.k)]
        )  # fmt: skip


def save_basis(
    path: str | Path,
    displacements: Sequence[Displacement],
    engine: Weights,
    k: int,
    metadata: Mapping[str, Any],
) -> list[float]:
    r"""Write the k leading directions of some displacements as an orthonormal basis.

    The left singular vectors of the matrix of displacements, from the eigenvectors of its n x n
    Gram matrix :math:`G = A A^\top = W \Lambda W^\top`: row j of U is
    :math:`\lambda_j^{-1/2} \sum_i W_{ij} A_i`.

    Args:
        path: a name in ``.safetensors``.
        displacements: n of them.
        engine: gives names and shapes.
        k: how many directions are kept, 1 to n.
        metadata: where they come from, in JSON's types.

    Returns:
        The share of the squared norms that each kept direction carries, in falling order.

    Raises:
        BasinscopeError: fewer than k independent displacements, or a disk that cannot be written.

    Cost: reads every displacement twice; memory for n chunks, and the basis on disk (4 k d bytes).
    """
    n = len(displacements)
    if not 1 <= k <= n:
        raise BasinscopeError(f"k={k} of {n} displacements", f"1 to {n}", f"k={n}, or more of them")
    step = max(1, _ELEMENTS // n)
    gram = torch.zeros(n, n, dtype=torch.float64)
    moved: dict[str, torch.Size] = {}
    for name, shape in engine.shapes.items():
        parts = [displacement(name) for displacement in displacements]
        if all(part is None for part in parts):
            continue
        moved[name] = shape
        for a in range(0, shape.numel(), step):
            rows = _stacked(parts, a, min(a + step, shape.numel())).double()
            gram += rows @ rows.T
    values, vectors = (x.flip(-1) for x in torch.linalg.eigh(gram))
    if not bool(torch.isfinite(values).all()) or not values[k - 1] > 1e-9 * values[0]:
        rank = int((values > 1e-9 * values[0]).sum())
        raise BasinscopeError(
            f"k={k}, but the {n} displacements span {rank} dimensions",
            f"1 to {rank}",
            f"k={rank}, or other displacements",
        )
    mixing = (vectors[:, :k] / values[:k].sqrt()).T.float()
    with _columns_of(Path(path), {m: (k, *s) for m, s in moved.items()}, metadata) as write:
        for name, shape in moved.items():
            parts = [displacement(name) for displacement in displacements]
            for a in range(0, shape.numel(), step):
                b = min(a + step, shape.numel())
                write(name, a, b, mixing @ _stacked(parts, a, b))
    return [float(share) for share in values[:k] / values.clamp(min=0).sum()]


def _stacked(parts: Sequence[Parts | None], start: int, stop: int) -> torch.Tensor:
    rows = [torch.zeros(stop - start) if p is None else p(start, stop) for p in parts]
    return torch.stack(rows).float()


@contextmanager
def _columns_of(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, Any]
) -> Iterator[Callable[[str, int, int, torch.Tensor], None]]:
    """Write a safetensors file of float32 tensors (k, ...) in pieces: whole, or not at all.

    The library's own writer wants all tensors in memory. The format: the length of the header in
    8 bytes, the header as JSON, the tensors.

    Yields:
        A function that writes elements start .. stop of all k rows of a tensor.
    """
    if path.suffix != ".safetensors":
        raise BasinscopeError(
            f"basis file {str(path)!r}", "a name in .safetensors", f"{path}.safetensors"
        )
    header: dict[str, Any] = {"__metadata__": {"provenance": json.dumps(dict(metadata))}}
    starts: dict[str, int] = {}
    end = 0
    for name, shape in shapes.items():
        starts[name], end = end, end + 4 * math.prod(shape)
        offsets = [starts[name], end]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text

    def explain(path: Path, error: OSError) -> BasinscopeError:
        return BasinscopeError(
            f"cannot write {path} ({error.strerror or error})",
            f"{end / 1e6:.0f} MB of free disk space",
            "free some, or another path",
        )

    with files.whole(path, explain) as draft, draft.open("xb") as file:
        file.write(head)

        def columns(name: str, start: int, stop: int, rows: torch.Tensor) -> None:
            n = math.prod(shapes[name][1:])
            for j, row in enumerate(rows.float().numpy()):
                file.seek(len(head) + starts[name] + 4 * (j * n + start))
                file.write(row[: stop - start].tobytes())

        yield columns
