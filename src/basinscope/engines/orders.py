"""From how many rows on a matrix product gives each row the same bits, however many there are.

A row of a product is a sum over features, and a library may order that sum by the number of rows:
it may cut it in pieces where rows are few (a matrix-vector path) or many (blocks of AMX). That is a
property of torch's libraries on a processor, of a dtype, of a layer's size and of the number of
threads, so it is tried out with the layers of the very model.
"""

from __future__ import annotations

import torch
from torch import nn

LEAST_ROWS = 4  # fewer may take a matrix-vector path anywhere
CANDIDATES = (LEAST_ROWS, 16)  # rows that a product may be filled up to: 16 take little longer
MULTIPLES = (2, 3, 5, 6, 8, 12, 20, 32, 64, 128)  # of them, that are compared
OPERATIONS = 1 << 27  # multiplications of one product at most: a few milliseconds
ELEMENTS = 1 << 24  # of a weight, its first rows if it has more (an output head)


def least_rows(module: nn.Module) -> int | None:
    """Fewest rows whose multiples all give a row the same bits in every linear layer of a module.

    Returns:
        One of `CANDIDATES`; None if that holds for none of them, or elsewhere than on a CPU.

    Cost: some 0.1 s where all sizes agree, and a few milliseconds where the first does not.
    """
    weights = {}
    for layer in module.modules():
        kind = type(layer).__name__
        for weight in layer.parameters(recurse=False):
            expert = weight.dim() == 3 and not kind.startswith("Conv")
            if expert or (weight.dim() == 2 and (isinstance(layer, nn.Linear) or kind == "Conv1D")):
                matrix = weight.detach()[0] if expert else weight.detach()
                matrix = matrix if kind == "Conv1D" else matrix[: ELEMENTS // matrix.shape[1]].T
                weights[matrix.shape, matrix.dtype, kind == "Conv1D"] = matrix
    # small ones first: they tell soonest
    matrices = sorted(weights.values(), key=lambda matrix: matrix.numel())
    if any(matrix.device.type != "cpu" for matrix in matrices):
        return None
    return next((n for n in CANDIDATES if all(_alike(matrix, n) for matrix in matrices)), None)


def _alike(matrix: torch.Tensor, rows: int) -> bool:
    """Whether the first and the last rows of a product have the bits that they have alone."""
    most = max(2 * rows, OPERATIONS // matrix.numel())
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(min(most, rows * MULTIPLES[-1]), len(matrix), generator=generator)
    states = states.to(matrix.dtype)
    first = _product(states[:rows], matrix)
    for n in (rows * k for k in MULTIPLES if rows * k <= len(states)):
        whole, last = _product(states[:n], matrix), _product(states[n - rows : n], matrix)
        if not (torch.equal(whole[:rows], first) and torch.equal(whole[-rows:], last)):
            return False
    return True


def _product(states: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return states @ matrix
