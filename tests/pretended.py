"""A card that is pretended: tensors in the CPU's memory whose device says ``cuda:0``.

Inside `card` what torch refuses on a card, because of where tensors lie, is refused: operands on
two devices, a gradient elsewhere than its parameter, the card's memory as an array of NumPy.
Values are computed all the same (by the CPU), so that whole entry points run, which take decisions
from values. Under torch's FakeTensorMode there are none, and a build of torch for the CPU copies
nothing onto the card there. ``test_devices.py`` compares the two where both can be asked.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")


class OnCard(torch.Tensor):
    """A tensor on the card."""

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return CARD.index

    def numpy(self, *, force=False):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = _there(self)
        return memo[id(self)]


class card(TorchFunctionMode):
    """Inside it the card is there, and moving to it works."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _MOVES:
            return _moved(func, args, kwargs)
        where = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if where is not None and where.type == "cuda":
            kwargs["device"] = CPU
        if func not in _CROSSING:
            _check(func, args, kwargs)
        out = func(*args, **kwargs)
        if where is not None and where.type != "meta":
            return _placed(out, where)
        if func == torch.Tensor.grad.__get__ and out is not None and isinstance(args[0], OnCard):
            return _placed(out, CARD)  # what a backward pass left there
        return out


def to_card(module: nn.Module) -> nn.Module:
    """Put a module's tensors on the card, tied ones once."""
    moved: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    moved.setdefault(id(tensor), _there(tensor))
                    kind[name] = moved[id(tensor)]
    return module


_MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda)
_CROSSING = (
    torch.Tensor.copy_, torch.Tensor.data.__set__, torch.Tensor.backward, torch.autograd.backward,
    torch._has_compatible_shallow_copy_type,
)  # fmt: skip


def _placed(out: torch.Tensor, where: torch.device) -> torch.Tensor:
    return out.as_subclass(OnCard if where.type == "cuda" else torch.Tensor)


def _there(tensor: torch.Tensor) -> torch.Tensor:
    there = _placed(tensor.detach().clone(), CARD)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(there, tensor.requires_grad)
    return there


def _moved(func, args, kwargs):
    tensor, *rest = args
    if func is not torch.Tensor.to:
        where, rest = (CPU if func is torch.Tensor.cpu else CARD), []
    elif "device" in kwargs:
        where = torch.device(kwargs.pop("device"))
    elif rest and isinstance(rest[0], str | torch.device):
        where, rest = torch.device(rest[0]), rest[1:]
    else:
        other = rest[0] if rest else kwargs.get("other")
        where = other.device if isinstance(other, torch.Tensor) else tensor.device
        if isinstance(other, torch.Tensor):
            rest, kwargs = [other.dtype], {}
    rest = [option for option in rest if isinstance(option, torch.dtype)]
    out = tensor.to(*rest, **kwargs) if rest or kwargs else tensor
    if where.type == tensor.device.type:
        return out
    return _placed(out.clone() if out is tensor else out, where)


def _check(func, args, kwargs) -> None:
    """Raise as torch does where operands lie on two devices."""
    if func in (torch.Tensor.__setitem__, torch.Tensor.__getitem__):
        indices = [i for i in _pytree.tree_leaves(args[1]) if isinstance(i, torch.Tensor)]
        elsewhere = [i for i in indices if i.device != CPU]  # from the CPU they are fetched
        # a slice is copied into, from anywhere
        args = (args[0], *elsewhere, *args[2:]) if indices else args[:1]
    tensors = [t for t in _pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    on_card = any(isinstance(t, OnCard) for t in tensors)
    if on_card and any(not isinstance(t, OnCard) and t.dim() > 0 for t in tensors):
        name = getattr(func, "__name__", func)
        raise RuntimeError(f"Expected all tensors to be on the same device ({name})")
