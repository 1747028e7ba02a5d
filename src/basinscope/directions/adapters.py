"""Directions along adapters: the displacement that merging a LoRA adapter would make."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from basinscope.directions.compressed import by_rows
from basinscope.directions.displaced import Displaced, Moves
from basinscope.directions.toward import difference
from basinscope.errors import BasinscopeError, listed
from basinscope.files import read_json
from basinscope.weights.checkpoints import Shelf
from basinscope.weights.parts import Device, Parts, Weights

# settings of peft's LoraConfig under which the merged weights are not theta0 + scale BA
_OTHER = {
    "use_dora": "DoRA", "use_qalora": "QALoRA", "use_bdlora": "BD-LoRA", "arrow_config": "Arrow",
    "alora_invocation_tokens": "aLoRA", "kasa_config": "KaSA", "layer_replication": "replication",
    "monteclora_config": "MonteCLoRA", "trainable_token_indices": "trainable tokens",
}  # fmt: skip
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_FACTOR = re.compile(r"^(?P<path>.*)\.lora_(?P<kind>A|B|embedding_A|embedding_B)(\.weight)?$")


@dataclass(frozen=True)
class Adapter(Displaced):
    """Along a LoRA adapter in peft's format: Delta = scale B A (arXiv 2106.09685).

    ``scale`` is ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with ``use_rslora`` (2312.03732),
    both with their patterns. Weights that are stored transposed (``Conv1D``) and embeddings, biases
    and whole modules that were trained beside the factors are merged as peft merges them: a tied
    tensor moves under all its names.

    Args:
        folder: folder (or hub id) with ``adapter_config.json`` and ``adapter_model.safetensors``.

    *Guarantee*: Delta is computed in float64 and rounded once to float32.
    *Cost*: the factors stay in memory (float64); the product is computed anew, a few rows at a
    time, in each ``at``.
    """

    folder: str

    def __post_init__(self) -> None:
        """Take a path for a string."""
        object.__setattr__(self, "folder", str(self.folder))

    @property
    def label(self) -> str:
        """``adapter:FOLDER``."""
        return f"adapter:{self.folder}"

    def _read(self, engine: Weights) -> Moves:
        folder = engine.resolve(self.folder)
        config = _config(self.label, folder)
        engine.check_setup(self.label, folder)
        base = Path(str(config.get("base_model_name_or_path"))).expanduser()
        if base.is_dir() and str(base) != engine.origin:
            engine.check_setup(f"the base of {self.label}", base)
        return _Merged(self.label, config, _shelf(folder), engine)


@dataclass
class _LayerFactors:
    """Factors of one layer: A (r, inputs) and B (outputs, r), float64."""

    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    embedding: bool = False


@dataclass(frozen=True)
class _Product:
    """Delta = left @ right, in the layout of the weight; both hold what scale there is once.

    Of stacked experts ``left`` has the rows of all, one expert after the other, and ``right`` is
    (experts, r, columns).
    """

    left: torch.Tensor
    right: torch.Tensor
    scale: float
    turned: bool  # the weight is stored transposed: left is scale A^T, right is B^T

    @property
    def shape(self) -> torch.Size:
        """Of the weight."""
        experts = self.right.shape[:-2]
        return torch.Size((*experts, len(self.left) // experts.numel(), self.right.shape[-1]))

    def rows(self, first: int, last: int, device: Device) -> torch.Tensor:
        """Rows first .. last of Delta, those of all experts counted on."""
        left, right = self.left[first:last].to(device), self.right.to(device)
        if right.ndim == 2:
            return left @ right
        each = self.shape[1]
        bounds = [(max(first, e * each), min(last, (e + 1) * each)) for e in range(len(right))]
        return torch.cat(
            [left[a - first : b - first] @ right[e] for e, (a, b) in enumerate(bounds) if a < b]
        )


@dataclass
class _Change:
    """What an adapter does to one parameter."""

    products: list[_Product] = field(default_factory=list)
    whole: str | None = None  # key of a tensor that takes the parameter's place
    added: torch.Tensor | None = None


class _Merged:
    def __init__(self, label: str, config: dict[str, Any], shelf: Shelf, engine: Weights) -> None:
        self.shelf, self.changes = shelf, dict[str, _Change]()
        digest = hashlib.sha256()
        unknown, shapes = [], []
        pairs: dict[str, _LayerFactors] = {}
        for key in sorted(shelf.entries):
            path = key.removeprefix("base_model.model.")
            if match := _FACTOR.match(path):
                pair = pairs.setdefault(match["path"], _LayerFactors())
                pair.embedding = match["kind"].startswith("embedding_")
                setattr(pair, match["kind"][-1].lower(), _whole(shelf, key).double())
            elif path.endswith(".lora_B.bias"):
                layer = path.removesuffix(".lora_B.bias")
                name = engine.names.get(f"{layer}.bias")
                if (
                    name is None
                    or (first := key.removesuffix("bias") + "weight") not in shelf.entries
                ):
                    unknown.append(f"{layer}.bias")
                else:
                    rank = shelf.entries[first].shape[1]
                    bias = _whole(shelf, key).double()
                    self._change(name).added = bias * _scale(config, layer, rank)
            elif "lora_" in path:
                raise _refused(label, f"it holds {key}, which is no factor of LoRA")
            else:
                self._replace(label, config, path, key, engine, unknown)
        for layer, pair in pairs.items():
            a, b = pair.a, pair.b
            if a is None or b is None:
                raise BasinscopeError(
                    f"{label} has one factor of {layer} only", "both factors", "copy it again"
                )
            name = engine.names.get(f"{layer}.weight")
            if name is None and config.get("target_parameters"):
                name, product = _bare(label, config, layer, a, b, engine)
                self._change(name).products.append(product)
                digest.update(f"{name}\0{product.scale!r}\0".encode())
                continue
            if name is None:
                unknown.append(f"{layer}.weight")
                continue
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                shapes.append(f"{layer} {tuple(b.shape)} x {tuple(a.shape)}")
                continue
            scale = _scale(config, layer, len(a))
            turned = pair.embedding or engine.linear.get(name) == 0
            factors = (a.T * scale, b.T) if turned else (b * scale, a)
            self._change(name).products.append(_Product(*factors, scale, turned))
            digest.update(f"{layer}\0{scale!r}\0".encode())
        for name, change in self.changes.items():
            shapes += [
                f"{name} {tuple(shape)} instead of {tuple(engine.shapes[name])}"
                for shape in _shapes(change, shelf)
                if name in engine.shapes and shape != engine.shapes[name]
            ]
        if unknown or shapes:
            base = config.get("base_model_name_or_path")
            mismatches = (
                listed(f"changes {len(unknown)} tensors that the model lacks", unknown),
                listed(f"has {len(shapes)} of another shape", shapes),
            )
            raise BasinscopeError(
                f"{label} is an adapter for another base ({base}): it "
                f"{'; it '.join(filter(None, mismatches))}",
                "adapters of a model of the same names and shapes",
                "give the model that it was trained on",
            )
        for key in sorted(shelf.entries):
            digest.update(shelf.sha256({key: key}).encode())
        self._digest = digest.hexdigest()

    def parts(self, engine: Weights, name: str, device: Device) -> Parts | None:
        """Delta of one parameter."""
        change = self.changes.get(name)
        if change is None:
            return None
        theta, shape = engine.pristine(name).reshape(-1), engine.shapes[name]
        columns = shape[-1] if len(shape) > 1 else shape.numel()

        def rows(first: int, last: int) -> torch.Tensor:
            start, stop = first * columns, last * columns
            terms = [p.rows(first, last, device).reshape(-1) for p in change.products]
            if change.whole is not None:
                new = self.shelf.read(change.whole, start, stop)
                terms.append(difference(new, theta[start:stop].to(device)))
            if change.added is not None:
                terms.append(change.added[start:stop].to(device))
            return sum(terms[1:], start=terms[0]).to(torch.float32, copy=True)

        return by_rows(rows, columns)

    def identity(self) -> str:
        """Hash of the adapter's tensors and scales."""
        return f"adapter/1 {self._digest}"

    def _change(self, name: str) -> _Change:
        return self.changes.setdefault(name, _Change())

    def _replace(
        self,
        label: str,
        config: dict[str, Any],
        path: str,
        key: str,
        engine: Weights,
        unknown: list[str],
    ) -> None:
        """Take note of a tensor that was trained or saved whole."""
        drop = ("base_layer", "modules_to_save", "original_module")
        plain = ".".join(part for part in path.split(".") if part not in drop)
        name = engine.names.get(plain)
        if name is None:
            unknown.append(plain)
            return
        modules = config.get("modules_to_save") or []
        tied = [n for n, canonical in engine.names.items() if canonical == name]
        if len(tied) > 1 and any(plain.removesuffix(".weight").endswith(m) for m in modules):
            raise _refused(label, f"it trains {plain} apart from what it is tied to")
        self._change(name).whole = key


def inner_factors(
    folder: str, engine: Weights
) -> dict[str, tuple[torch.Tensor | None, torch.Tensor | None, float]]:
    """What of a LoRA adapter stays fixed where B alone is trained: scale and A, by weight.

    Returns:
        For each weight (left, right, scale) with Delta = scale left M right, M being B (or its
        transpose) and None an identity.

    Raises:
        BasinscopeError: as `Adapter`; or it changes more than linear layers, each by one pair.
    """
    label = f"lora:{folder}"
    path = engine.resolve(folder)
    merged = _Merged(label, _config(label, path), _shelf(path), engine)
    factors: dict[str, tuple[torch.Tensor | None, torch.Tensor | None, float]] = {}
    for name, change in merged.changes.items():
        if change.whole is not None or change.added is not None or len(change.products) != 1:
            raise _refused(label, f"it does not move {name} by one pair of factors alone")
        (pair,) = change.products
        if pair.right.ndim > 2:
            raise _refused(label, f"it moves the experts of {name} each by a pair of their own")
        left = (pair.left / pair.scale).float() if pair.turned else None
        factors[name] = (left, None if pair.turned else pair.right.float(), pair.scale)
    return factors


def _config(label: str, folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = read_json(path)
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        raise BasinscopeError(
            f"{folder} is not an adapter (it has no adapter_config.json)",
            "a folder as peft's save_pretrained leaves it",
            f"to:{folder} for a whole model",
        ) from None
    except (OSError, ValueError) as error:
        raise BasinscopeError(
            f"cannot read {path} ({error})", "peft's config", "copy it again"
        ) from error
    if config.get("peft_type") != "LORA":
        raise _refused(label, f"its type is {config.get('peft_type')}")
    for setting, name in _OTHER.items():
        if config.get(setting):
            raise _refused(label, f"it is {name} ({setting})")
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        start = config["init_lora_weights"]
        raise _refused(label, f"it moved the base itself (init_lora_weights={start})")
    patterns = config.get("alpha_pattern") or {}
    try:
        config["lora_alpha"] = float(config.get("lora_alpha", 8))
        config["alpha_pattern"] = {
            re.compile(rf"(.*\.)?({k})$"): float(alpha) for k, alpha in patterns.items()
        }
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise BasinscopeError(
            f"lora_alpha or alpha_pattern of {path} is malformed ({error})",
            "numbers, as in peft's config",
            "copy it again",
        ) from error
    return config


def _refused(label: str, reason: str) -> BasinscopeError:
    return BasinscopeError(
        f"{label} is not theta0 + scale BA: {reason}",
        "LoRA adapters",
        "merge it first (peft: merge_and_unload, then save_pretrained) and give to:FOLDER",
    )


def _shelf(folder: Path) -> Shelf:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise BasinscopeError(
            f"{folder} has no adapter_model.safetensors{', only a pickle' if pickled else ''}",
            "safetensors (a pickle can run code when it is opened)",
            "load it with peft where you trust it, and save_pretrained it anew",
        )
    return Shelf([path])


def _whole(shelf: Shelf, key: str) -> torch.Tensor:
    shape = shelf.entries[key].shape
    return shelf.read(key, 0, shape.numel()).reshape(shape)


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """lora_alpha / r of a layer; a pattern names it by the end of its path, as in peft."""
    patterns: dict[re.Pattern[str], float] = config["alpha_pattern"]
    matching = [alpha for pattern, alpha in patterns.items() if pattern.match(layer)]
    alpha: float = [*matching, config["lora_alpha"]][0]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _bare(
    label: str, config: Mapping[str, Any], path: str, a: torch.Tensor, b: torch.Tensor,
    engine: Weights,
) -> tuple[str, _Product]:  # fmt: skip
    """Parameter that factors without a layer of their own move (peft's ``target_parameters``).

    Wrappers lie inside each other, and their keys do not say whose they are: the shapes do. Of
    stacked experts A is (experts r, inputs) and B (outputs, r experts), the experts counted last.

    Raises:
        BasinscopeError: no parameter has these shapes, or more than one has.
    """
    layer = path.removesuffix(".base_layer")
    while layer.endswith(".base_layer"):
        layer = layer.removesuffix(".base_layer")
    targets = tuple(config["target_parameters"])
    fits = []
    for other, name in engine.names.items():
        shape = engine.shapes.get(name, torch.Size())
        if other.rpartition(".")[0] != layer or not other.endswith(targets) or len(shape) < 2:
            continue
        experts = shape[0] if len(shape) == 3 else 1
        matrix = shape[-2:][::-1] if name in engine.turned else shape[-2:]
        if (len(b), a.shape[1]) == matrix and len(a) == b.shape[1] and len(a) % experts == 0:
            fits.append((other, name, experts))
    if len(fits) != 1:
        several = "several parameters" if fits else "no parameter"
        raise _refused(label, f"its factors of {layer} fit {several} of the model")
    ((other, name, experts),) = fits
    rank = len(a) // experts
    scale = _scale(config, other, rank)
    each_a = a.reshape(experts, rank, -1)
    each_b = b.reshape(len(b), rank, experts).permute(2, 0, 1)
    left, right = (each_a.mT, each_b.mT) if name in engine.turned else (each_b, each_a)
    left = (left * scale).reshape(-1, rank)
    right = right[0] if len(engine.shapes[name]) == 2 else right
    return name, _Product(left, right, scale, turned=name in engine.turned)


def _shapes(change: _Change, shelf: Shelf) -> list[torch.Size]:
    shapes = [product.shape for product in change.products]
    if change.whole is not None:
        shapes.append(shelf.entries[change.whole].shape)
    if change.added is not None:
        shapes.append(change.added.shape)
    return shapes
