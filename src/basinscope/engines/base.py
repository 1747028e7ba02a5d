"""The seam between weights and whoever wants to use them: a live module and its pristine copy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from basinscope.directions import words
from basinscope.directions.base import Direction
from basinscope.engines import dtypes
from basinscope.engines.pristine import Pristine
from basinscope.errors import BasinscopeError, typed
from basinscope.tasks.base import Answer, Request
from basinscope.weights import selection
from basinscope.weights.parts import shape_of
from basinscope.weights.surroundings import fixed


def on_device(kind: str, device: torch.device) -> str:
    """The kind of an engine on a device: another class of device rounds in other places.

    >>> on_device("module/1", torch.device("cuda", 1))
    'module-cuda/1'
    """
    name, version = kind.split("/")
    return kind if device.type == "cpu" else f"{name}-{device.type}/{version}"


class Engine:
    """A live module whose weights can be set anywhere on a slice and restored bit for bit.

    This class serves any ``nn.Module`` (for tasks that are functions of the module); subclasses
    answer text requests as well.

    Args:
        module: live module, perturbed in place; put in evaluation mode.
        source: what it was loaded from, for messages and records.
        params: regular expression over canonical names; None takes every trainable parameter.
        mapped: pristine tensors that lie somewhere unchanging, by canonical name.

    Attributes:
        kind: name and version of the way answers are computed, and the class of device where it is
            not the CPU; stands in every record's address.
        tokenizer: None for a plain module.
        checkpoint: folder whose safetensors hold exactly the live bytes, where there is one.
        origin: folder or hub id that the weights were read from, perhaps in a wider dtype.
        dtype_is_auto: whether the dtype was chosen by its speed (`basinscope.engines.dtypes`).
    """

    kind = "module/1"

    def __init__(
        self,
        module: nn.Module,
        *,
        source: str = "module",
        params: str | None = None,
        mapped: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.module = module.eval()
        self.source = source
        self.params = params
        self.tokenizer: object | None = None
        self.checkpoint: str | None = None
        self.origin: str | None = None
        self.dtype_is_auto = False
        live = selection.parameters(module, params)
        self.shapes = {name: tensor.shape for name, tensor in live.items()}
        self._pristine = Pristine(live, mapped, selection.Walk(module))
        self._open = self._moving = False
        self.kind = on_device(self.kind, self.device)

    @property
    def d(self) -> int:
        """Number of perturbed parameters, tied tensors once."""
        return sum(shape.numel() for shape in self.shapes.values())

    @cached_property
    def names(self) -> dict[str, str]:
        """Canonical name for every name that a checkpoint of the module may use."""
        return selection.names(self.module)

    @cached_property
    def ignored(self) -> frozenset[str]:
        """Regular expressions of names in a checkpoint that the module's class leaves alone."""
        return selection.ignored(self.module)

    @cached_property
    def turned(self) -> frozenset[str]:
        """Stacks of experts that are stored as (experts, inputs, outputs)."""
        return selection.turned(self.module)

    @cached_property
    def linear(self) -> dict[str, int]:
        """Weights of linear layers, the output head left out, with the dimension of their input."""
        return selection.linear(self.module)

    def pristine(self, name: str) -> torch.Tensor:
        """Pristine value theta0 of one perturbed parameter: read it, never write to it."""
        shape_of(self, name)
        return self._pristine.values[name]

    def resolve(self, model: str) -> Path:
        """Folder with the safetensors of what a user calls a model: alias, hub id, folder, file.

        Raises:
            BasinscopeError: unknown model, or one that cannot be converted.
        """
        from basinscope.engines.sources import resolve

        return resolve(model, self.dtype)

    def renamed(self, folder: Path, dtype: torch.dtype) -> Path | None:
        """Folder with a checkpoint's weights under the module's names, if loading renames them.

        Args:
            folder: of the checkpoint.
            dtype: wide enough for all that it holds.

        Cost: loads the checkpoint once, and writes it into the user's cache.
        """
        from transformers import PreTrainedModel

        from basinscope.engines.sources import renamed

        if not (isinstance(self.module, PreTrainedModel) and (folder / "config.json").is_file()):
            return None
        return renamed(folder, type(self.module), dtype)

    def check_setup(self, label: str, folder: Path) -> None:
        """Refuse a checkpoint that answers in another way than the model, its weights aside.

        Args:
            label: says in messages what is compared.
            folder: of the checkpoint.

        Raises:
            BasinscopeError: with the field of config, tokenizer, template or ends that differs.
        """
        from basinscope.engines.setups import check_setup

        check_setup(label, self.module, None, frozenset(), folder)

    @property
    def rms(self) -> float:
        """RMS(theta0) over the perturbed parameters: the scale that raw steps are confounded by."""
        total = 0.0
        for theta in self._pristine.values.values():
            flat = theta.reshape(-1)
            for a in range(0, flat.numel(), 1 << 22):
                total += float(flat[a : a + (1 << 22)].double().square().sum())
        return math.sqrt(total / self.d)

    @property
    def dtype(self) -> str:
        """Dtype of the perturbed weights, such as ``bfloat16`` (several joined by ``+``)."""
        kinds = {str(t.dtype).removeprefix("torch.") for t in self._pristine.live.values()}
        return "+".join(sorted(kinds))

    @property
    def chosen(self) -> str:
        """Why this dtype was chosen, or how much faster another would be: one line, or empty.

        Cost: some 20 ms, once in a process.
        """
        return dtypes.reason(self.dtype, self.device, chosen=self.dtype_is_auto)

    @property
    def fallback(self) -> str:
        """Why answers are not computed in the quickest way, and how: one line, or empty."""
        return ""

    @property
    def device(self) -> torch.device:
        """Device of the first perturbed parameter."""
        return next(iter(self._pristine.live.values())).device

    @property
    def epoch(self) -> int:
        """Advances whenever the live weights change; nothing computed from them outlives it."""
        return self._pristine.epoch

    @typed
    @contextmanager
    def at(self, direction: str | Direction, *, step: float, draw: int = 0) -> Iterator[Engine]:
        """Live weights = round(theta0 + step * delta) inside the ``with``, pristine after it.

        Args:
            direction: word or object; fitted to this engine before the weights move.
            step: position alpha on the slice, signed.
            draw: number of the independent direction.

        Raises:
            BasinscopeError: inside another ``at``; for a step that is not finite; for a direction
                that does not fit; if the weights were changed from outside since loading; on
                leaving, if the body replaced tensors or changed parameters that are not perturbed.

        Guarantee: the sum is computed in float32 from the pristine copy and rounded once; on
        leaving, also by an exception, every perturbed tensor and every persistent buffer has its
        pristine bytes.
        Cost: no memory for random directions, a few chunks of a tensor for those that come in
        parts; one pass over the weights each way.
        """
        if self._open:
            raise BasinscopeError(
                "at() inside another at()",
                "one point of one slice at a time",
                "leave the first with-block before entering the next",
            )
        with fixed():
            line = words.direction(direction)
            line.fit(self)
            line.check_draw(draw)
            self._pristine.check_untouched()
        self._open = True
        try:
            with fixed():
                self._pristine.set(self, line, step, draw)
            yield self
        finally:
            with fixed():
                self._pristine.restore(weights=not self._moving)
            self._open = False
        self._pristine.check_untouched()

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Inside, each `at` finds the weights where the last one left them; pristine after it.

        For those who own the module alone (a worker): a pass over the weights is saved at each
        point, which is computed from the pristine copy all the same. Between two `at` the weights
        are not pristine, and writes by others are not noticed.
        """
        self._moving = True
        try:
            yield
        finally:
            self._moving = False
            with fixed():
                self._pristine.restore()

    def check_untouched(self) -> None:
        """Raise if the weights are not those that the engine was loaded with.

        Raises:
            BasinscopeError: outside of `at`, for a tensor with another bit, or another tensor.
        """
        if not self._open:
            self._pristine.check_untouched(every_bit=True)

    def fingerprint(self) -> str:
        """Sha256 over names, dtypes, shapes and live bytes of all weights and persistent buffers.

        Covers what is not perturbed too: it determines the outcomes just as well.
        """
        digest = hashlib.sha256()
        for name, tensor in selection.tensors(self.module).items():
            flat = tensor.detach().contiguous().view(-1)
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(flat.view(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()

    def setup(self) -> str:
        """Sha256 of what beside the weights turns them into answers.

        The module's structure, and buffers that no checkpoint holds (rotary frequencies).
        """
        digest = hashlib.sha256(repr(self.module).encode())
        persistent = self.module.state_dict().keys()
        for name, buffer in self.module.named_buffers():
            if name not in persistent:
                digest.update(f"{name}\0{buffer.dtype}\0{tuple(buffer.shape)}\0".encode())
                flat = buffer.detach().contiguous().view(-1)
                digest.update(flat.view(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()

    def log_probabilities(self, text: str) -> torch.Tensor:
        """Log-probabilities of all tokens at each place of a text; see `TransformersEngine`."""
        raise self._no_tokenizer("a text")

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer text requests under the live weights, in the order given."""
        raise self._no_tokenizer(f"{len(requests)} text requests")

    def _no_tokenizer(self, given: str) -> BasinscopeError:
        return BasinscopeError(
            f"{given} to {self.source!r}, which has no tokenizer",
            "a CallableTask, for a plain module",
            "load a checkpoint with a tokenizer, or pass tokenizer= to bs.load",
        )
