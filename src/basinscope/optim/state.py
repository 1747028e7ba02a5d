"""Nested states as named tensors and plain values: what safetensors and JSON can hold."""

from __future__ import annotations

from typing import Any

import torch


def pack(tree: Any) -> dict[str, Any]:
    """Split a nested state into ``{"tensors": {name: tensor}, "values": JSON}``.

    Dictionaries (with string or integer keys), lists, tuples, numbers, strings and None come back
    from `unpack` as they were. The tensors are those of the tree, not copies.

    >>> state = {"state": {0: {"m": torch.ones(2)}}, "betas": (0.9, 0.99)}
    >>> packed = pack(state)
    >>> packed["values"]
    {'state': {'#0': {'m': {'tensor#': 'state.0.m'}}}, 'betas': {'tuple#': [0.9, 0.99]}}
    >>> unpack(packed)["betas"]
    (0.9, 0.99)
    """
    tensors: dict[str, torch.Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, torch.Tensor):
            tensors[path] = node.detach()
            return {"tensor#": path}
        if isinstance(node, dict):
            return {
                f"#{key}" if isinstance(key, int) else key: walk(value, f"{path}.{key}".lstrip("."))
                for key, value in node.items()
            }
        if isinstance(node, list | tuple):
            items = [walk(value, f"{path}.{i}") for i, value in enumerate(node)]
            return items if isinstance(node, list) else {"tuple#": items}
        assert node is None or isinstance(node, bool | int | float | str), (path, node)
        return node

    return {"values": walk(tree, ""), "tensors": tensors}


def unpack(packed: dict[str, Any]) -> Any:
    """Undo `pack`; the tensors are copies."""
    tensors = packed["tensors"]

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(value) for value in node]
        if not isinstance(node, dict):
            return node
        if "tensor#" in node:
            return tensors[node["tensor#"]].clone()
        if "tuple#" in node:
            return tuple(walk(value) for value in node["tuple#"])
        return {
            int(key[1:]) if key.startswith("#") else key: walk(value) for key, value in node.items()
        }

    return walk(packed["values"])
