"""Pieces of delta come on the device that is asked for, wherever weights and files lie.

Torch's ``meta`` device stands for a GPU, which no test has; `OneDevice` refuses what a GPU would.
"""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import basinscope as bs
from basinscope.attack.vectors import InMemory
from basinscope.certify.verdict import Shifted
from basinscope.directions import Direction
from basinscope.directions.base import held
from basinscope.directions.planes import Drawn, Orthogonal, Plane
from basinscope.geometries.base import PerTensor, rms_scaled
from basinscope.geometries.factors import Factors, Pair
from basinscope.geometries.subspaces import RandomSubspace, Subspace, save_basis

COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class OneDevice(TorchDispatchMode):
    """Raises where an operation other than a copy has tensors of two devices, as CUDA does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if torch.is_tensor(a)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim()}
        if function not in COPIES and len(devices) > 1:
            raise RuntimeError(f"{function} on devices {devices}")
        return function(*args, **(kwargs or {}))


NAME, SHAPE = "0.weight", (4, 3)


def net(seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


class Ones(Direction):
    """Of a user, who knows of no device."""

    label = "ones"

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


def adapter(folder):
    factors = {
        f"base_model.model.0.lora_{kind}.weight": torch.ones(shape)
        for kind, shape in (("A", (2, 3)), ("B", (4, 2)))
    }
    (folder / "adapter").mkdir()
    save_file(factors, folder / "adapter" / "adapter_model.safetensors")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return bs.Adapter(folder / "adapter")


def toward(folder):
    save_file(net(1).state_dict(), folder / "other.safetensors")
    return bs.Toward(folder / "other.safetensors")


def subspace(engine, folder):
    moves = [bs.Quantised(bits).as_displacement(engine) for bits in (2, 3)]
    save_basis(folder / "basis.safetensors", moves, engine, 2, {})
    return Subspace(str(folder / "basis.safetensors"), engine)


MADE = {
    "random": lambda engine, folder: bs.Random(),
    "user's": lambda engine, folder: Ones(),
    "drawn": lambda engine, folder: Drawn(bs.Random(), 3),
    "toward": lambda engine, folder: toward(folder),
    "merge": lambda engine, folder: bs.Merge([toward(folder).model] * 2, [0.5, 0.2]),
    "saved": lambda engine, folder: bs.Saved(toward(folder).model),
    "adapter": lambda engine, folder: adapter(folder),
    "quantised": lambda engine, folder: bs.Quantised(3),
    "pruned": lambda engine, folder: bs.Pruned(0.5),
    "plane of both": lambda engine, folder: Plane(bs.Random(), toward(folder)).at(0.1, 0.2),
    "remainder": lambda engine, folder: Orthogonal(toward(folder), bs.Random()),
    "in memory": lambda engine, folder: InMemory({NAME: torch.ones(SHAPE)}),
    "rms": lambda engine, folder: rms_scaled(engine).noise(0),
    "params": lambda engine, folder: PerTensor("one", {NAME: 1.0}).noise(0),
    "subspace": lambda engine, folder: subspace(engine, folder).noise(0),
    "random subspace": lambda engine, folder: RandomSubspace(engine, 2).noise(0),
    "factors": lambda engine, folder: Factors(
        "x", {NAME: Pair(torch.ones(4, 2), torch.ones(2, 3))}
    ).noise(0),
    "displaced noise": lambda engine, folder: Shifted(
        held({NAME: torch.ones(SHAPE)}), bs.Random(), 0.1
    ),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@pytest.mark.parametrize("weights", ["cpu", "meta"])
def test_pieces_lie_on_the_device_that_is_asked_for(made, weights, tmp_path, monkeypatch):
    engine = bs.load(net())
    direction = made(engine, tmp_path)
    direction.fit(engine)
    expected = direction.delta(engine, NAME).flatten()[2:9]
    assert torch.equal(direction.parts(engine, NAME, 0, "cpu")(2, 9), expected)
    assert expected.any()
    theta = engine.pristine(NAME).to(weights)
    monkeypatch.setattr(engine, "pristine", lambda name: theta)
    with OneDevice():
        piece = direction.parts(engine, NAME, 0, "meta")(2, 9)
    assert piece.device.type == "meta"
    assert piece.dtype == torch.float32
    assert piece.shape == (7,)


@pytest.mark.parametrize("devices", [("cpu", "meta"), ("meta", "cpu")])
def test_two_devices_do_not_mix(devices):
    a, b = (torch.ones(3, device=device) for device in devices)
    with OneDevice(), pytest.raises(RuntimeError, match="on devices"):
        a.add_(b)
