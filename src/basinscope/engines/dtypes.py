"""Which dtype is the faster one on the device at hand: products of it are timed there.

A processor without products of bfloat16 (AVX2, or AVX-512 before its extension) takes several times
as long for them as for those of float32, one with AMX a third of it.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn.functional import linear

from basinscope.errors import BasinscopeError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
ROWS = (1, 32)  # of the products: a text being written alone, and several or a prompt
FEATURES = 768  # of a small model's layer: both dtypes take about 10 ms without bfloat16 products
REPEATS = 4  # of which the quickest counts: other work on the machine may hold up the others
MUCH = 1.5  # times as fast as what the user asked for: worth a line


def resolved(dtype: str, device: torch.device) -> str:
    """The dtype that ``dtype`` stands for on a device.

    Args:
        dtype: a key of `DTYPES`; or ``auto``: bfloat16 where its products are at least as fast as
            those of float32, else float32.
        device: where the model will be.

    Raises:
        BasinscopeError: another word; a dtype that the device cannot multiply.

    Cost: about 20 ms for ``auto``, once in a process and for a device.
    """
    if dtype == "auto":
        both = [seconds(word, device) for word in ("bfloat16", "float32")]
        return "bfloat16" if both[0] <= both[1] else "float32"
    if dtype not in DTYPES:
        raise BasinscopeError(f"dtype {dtype!r}", f"auto, {', '.join(DTYPES)}", "auto")
    try:
        _product(1, DTYPES[dtype], device)
    except RuntimeError as error:
        raise BasinscopeError(
            f"dtype {dtype} on {device}, which cannot multiply it ({str(error).splitlines()[0]})",
            "a dtype that the device knows",
            "dtype auto takes the faster one that it does",
        ) from error
    return dtype


def reason(dtype: str, device: torch.device, *, chosen: bool) -> str:
    """Why a dtype was chosen; of one that the user gave, what would be much faster.

    Args:
        dtype: of the weights.
        device: where they are.
        chosen: whether ``auto`` stands for it.

    Returns:
        One line; empty where there is nothing to say.
    """
    if dtype not in DTYPES:
        return ""
    others = {"bfloat16", "float32"} - {dtype}
    other = min(sorted(others), key=lambda word: seconds(word, device))
    ratio = seconds(other, device) / seconds(dtype, device)
    if chosen:
        return f"dtype {dtype}: its products are {ratio:.2g} times as fast as {other}'s here"
    if ratio <= 1 / MUCH:
        return f"dtype {dtype}, as asked; {other} would be {1 / ratio:.2g} times as fast here"
    return ""


@cache
def seconds(dtype: str, device: torch.device) -> float:
    """Seconds of a product of each number of rows; infinity where the device knows none.

    With one thread: two would wait for each other wherever the machine has other work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return sum(
            min(_product(rows, DTYPES[dtype], device) for _ in range(1 + REPEATS)) for rows in ROWS
        )
    except RuntimeError:
        return float("inf")
    finally:
        torch.set_num_threads(threads)


def _product(rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of one product of a layer's size."""
    states = torch.ones(rows, FEATURES, dtype=dtype, device=device)
    weight = torch.ones(FEATURES, FEATURES, dtype=dtype, device=device)
    _wait(device)
    start = time.perf_counter()
    linear(states, weight)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
