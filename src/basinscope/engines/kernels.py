"""Attention of tokens from many rows over a pool of keys and values, on the CPU.

Each token is computed by itself: slot after slot in the order of its row, in float32, with fixed
groups and no fused operations. So its bits depend on its own row up to itself and on nothing else:
not on how many tokens of its row run beside it, which other rows do, or the number of threads. One
token at a time and many tokens in one pass give the same.

Shape legend: N new tokens, R rows of the pool, G key-value heads, Q query heads of each, E head
size, S slots of a row, T slots of a start that all rows share.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from basinscope.weights.kernels import jit, words_of

BLOCK = 64  # slots whose keys are widened to float32 at once: 16 KiB for heads of 64

Array = npt.NDArray[Any]


def attend(
    query_NHE: torch.Tensor,
    keys_RGES: torch.Tensor,
    values_RGSE: torch.Tensor,
    shared: tuple[torch.Tensor, torch.Tensor] | None,
    spans: Array,
    scaling: float,
) -> torch.Tensor:
    """Attention of every token over the start, and over its own row up to itself.

    Args:
        query_NHE: queries, contiguous, float32 or bfloat16; head ``h`` reads key-value head
            ``h // Q``.
        keys_RGES: keys of the pool, S a multiple of `BLOCK`.
        values_RGSE: its values.
        shared: keys (G, E, T) and values (G, T, E) that every row begins with, and their number.
        spans: an int64 row (r, first, end, place) for each row: tokens first to end are those of
            row r, at its slots place, place + 1, ...
        scaling: factor of the scores.

    Returns:
        (N, H, E) in the dtype of the queries; zeros for tokens of no span.
    """
    out = np.zeros(query_NHE.shape, np.float32)
    shift = np.uint32(16 if query_NHE.dtype == torch.bfloat16 else 0)
    if shared is None:
        groups, size = keys_RGES.shape[1:3]
        shared = keys_RGES.new_empty(groups, size, 0), values_RGSE.new_empty(groups, 0, size)
    tensors = query_NHE, keys_RGES, values_RGSE, *shared
    given = [_words(tensor) for tensor in tensors]
    threads = min(torch.get_num_threads(), len(spans))
    parts = [
        spans[len(spans) * i // threads : len(spans) * (i + 1) // threads] for i in range(threads)
    ]
    waiting: list[Future[None]] = [
        _workers().submit(_attend, *given, part, np.float32(scaling), shift, out)
        for part in parts[1:]
    ]
    _attend(*given, parts[0], np.float32(scaling), shift, out)
    for future in waiting:
        future.result()
    return torch.from_numpy(out).to(query_NHE.dtype)


def store(
    keys_NGE: torch.Tensor,
    values_NGE: torch.Tensor,
    keys_RGES: torch.Tensor,
    values_RGSE: torch.Tensor,
    spans: Array,
) -> None:
    """Write keys and values of new tokens into the slots that ``spans`` gives them."""
    new = _words(keys_NGE.contiguous()), _words(values_NGE.contiguous())
    _store(*new, _words(keys_RGES), _words(values_RGSE), spans)


def greatest(logits_NV: torch.Tensor) -> tuple[list[int], list[bool]]:
    """Index of each row's highest logit (the lowest of equal ones), and whether all are finite."""
    if logits_NV.device.type != "cpu" or logits_NV.dtype not in (torch.float32, torch.bfloat16):
        finite = torch.isfinite(logits_NV).all(-1).tolist()
        return logits_NV.argmax(-1).tolist(), finite
    n = logits_NV.shape[0]
    best, finite_N = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    words = _words(logits_NV.contiguous())
    _greatest(words, np.uint32(16 if words.dtype == np.uint16 else 0), best, finite_N)
    return best.tolist(), finite_N.tolist()


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="attend")


def _words(tensor: torch.Tensor) -> Array:
    """Raw words of a tensor's memory: 16 bits for bfloat16, else 32."""
    words = words_of(tensor)
    return words if words.dtype == np.uint16 else words.view(np.uint32)


@jit(inline="always")
def _wide(word, shift):  # type: ignore[no-untyped-def]
    """Float32 of a raw word, which is its upper half where ``shift`` is 16."""
    return np.uint32(np.uint32(word) << shift).view(np.float32)


@jit(inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    """Exponential of x <= 0 (polynomial of the Cephes library's expf); NaN stays NaN."""
    y = max(x, np.float32(-87.0))
    n = np.int32(y * np.float32(1.44269504088896341) - np.float32(0.5))
    f = np.float32(n)
    y = y - f * np.float32(0.693359375) - f * np.float32(-2.12194440e-4)
    z = np.float32(1.9875691500e-4)
    z = z * y + np.float32(1.3981999507e-3)
    z = z * y + np.float32(8.3334519073e-3)
    z = z * y + np.float32(4.1665795894e-2)
    z = z * y + np.float32(1.6666665459e-1)
    z = z * y + np.float32(5.0000001201e-1)
    z = z * y * y + y + np.float32(1.0)
    power = z * np.uint32((n + np.int32(127)) << np.int32(23)).view(np.float32)
    power = np.float32(0.0) if x < np.float32(-87.0) else power
    return power if x == x else x


@jit()
def _store(new_keys, new_values, keys, values, spans):  # type: ignore[no-untyped-def]
    for i in range(len(spans)):
        r, first, end, place = spans[i]
        for n in range(first, end):
            slot = place + n - first
            for g in range(new_keys.shape[1]):
                values[r, g, slot] = new_values[n, g]
                for e in range(new_keys.shape[2]):
                    keys[r, g, e, slot] = new_keys[n, g, e]


@jit()
def _attend(query, keys, values, head_keys, head_values, spans, scaling, shift, out):  # type: ignore[no-untyped-def]
    groups, size = keys.shape[1], keys.shape[2]
    per = query.shape[1] // groups
    held = head_keys.shape[2]
    behind = (held + BLOCK - 1) // BLOCK * BLOCK  # where a row's own scores begin
    first, end = spans[0, 1], spans[-1, 2]
    most = 0
    for i in range(len(spans)):
        most = max(most, spans[i, 3] + spans[i, 2] - spans[i, 1])
    wide = behind + (most + BLOCK - 1) // BLOCK * BLOCK
    count = (end - first) * per
    scores = np.empty((count, wide), np.float32)
    asked = np.empty((count, size), np.float32)
    total = np.empty((count, size), np.float32)
    scale = np.empty(count, np.float32)
    key = np.empty((size, BLOCK), np.float32)
    value = np.empty((BLOCK, size), np.float32)
    for g in range(groups):
        for n in range(first, end):
            for h in range(per):
                for e in range(size):
                    asked[(n - first) * per + h, e] = _wide(query[n, g * per + h, e], shift)
        total[:] = np.float32(0.0)
        for s in range(0, held, BLOCK):
            _widen_keys(head_keys[g], s, min(BLOCK, held - s), shift, key)
            for q in range(count):
                _score(asked[q], key, scores[q, s : s + BLOCK])
        for i in range(len(spans)):
            r, a, b, place = spans[i]
            for s in range(0, place + b - a, BLOCK):
                _widen_keys(keys[r, g], s, BLOCK, shift, key)
                for q in range((a - first) * per, (b - first) * per):
                    _score(asked[q], key, scores[q, behind + s : behind + s + BLOCK])
            for n in range(a, b):
                for h in range(per):
                    q = (n - first) * per + h
                    own = scores[q, behind : behind + place + n - a + 1]
                    scale[q] = _soften(scores[q, :held], own, scaling)
        for s in range(0, held, BLOCK):
            m = min(BLOCK, held - s)
            _widen_values(head_values[g], s, m, shift, value)
            for q in range(count):
                _add(scores[q, s : s + m], value, total[q])
        for i in range(len(spans)):
            r, a, b, place = spans[i]
            for s in range(0, place + b - a, BLOCK):
                _widen_values(values[r, g], s, min(BLOCK, place + b - a - s), shift, value)
                for n in range(a, b):
                    m = min(BLOCK, place + n - a + 1 - s)
                    if m > 0:
                        for h in range(per):
                            q = (n - first) * per + h
                            _add(scores[q, behind + s : behind + s + m], value, total[q])
        for n in range(first, end):
            for h in range(per):
                q = (n - first) * per + h
                for e in range(size):
                    out[n, g * per + h, e] = total[q, e] * scale[q]


@jit()
def _widen_keys(keys, s, m, shift, key):  # type: ignore[no-untyped-def]
    """Float32 of the keys (E, m) of some slots."""
    for e in range(keys.shape[0]):
        to, of = key[e], keys[e, s : s + m]
        for j in range(m):
            to[j] = _wide(of[j], shift)


@jit()
def _widen_values(values, s, m, shift, value):  # type: ignore[no-untyped-def]
    """Float32 of the values (m, E) of some slots."""
    for j in range(m):
        to, of = value[j], values[s + j]
        for e in range(to.size):
            to[e] = _wide(of[e], shift)


@jit()
def _score(q, key, scores):  # type: ignore[no-untyped-def]
    """Products of a query with the keys of a block, eight features at a time."""
    for j in range(BLOCK):
        scores[j] = np.float32(0.0)
    size = q.size
    whole = size // 8 * 8
    for e in range(0, whole, 8):
        a, b, c, d = q[e], q[e + 1], q[e + 2], q[e + 3]
        a_, b_, c_, d_ = q[e + 4], q[e + 5], q[e + 6], q[e + 7]
        k, l, m, n = key[e], key[e + 1], key[e + 2], key[e + 3]  # noqa: E741
        k_, l_, m_, n_ = key[e + 4], key[e + 5], key[e + 6], key[e + 7]
        for j in range(BLOCK):
            scores[j] += ((a * k[j] + b * l[j]) + (c * m[j] + d * n[j])) + (
                (a_ * k_[j] + b_ * l_[j]) + (c_ * m_[j] + d_ * n_[j])
            )
    for e in range(whole, size):
        a, k = q[e], key[e]
        for j in range(BLOCK):
            scores[j] += a * k[j]


@jit()
def _soften(start, own, scaling):  # type: ignore[no-untyped-def]
    """Turn scores into weights up to a factor, in place, and return the factor."""
    top = own[0] * scaling
    for part in (start, own):
        for s in range(part.size):
            part[s] *= scaling
            top = max(top, part[s])
    lanes = np.zeros(16, np.float32)
    for part in (start, own):
        for s in range(part.size):
            part[s] = _exp(part[s] - top)
        whole = part.size // 16 * 16
        for s in range(0, whole, 16):
            for j in range(16):
                lanes[j] += part[s + j]
        for s in range(whole, part.size):
            lanes[s - whole] += part[s]
    total = np.float32(0.0)
    for j in range(16):
        total += lanes[j]
    return np.float32(1.0) / total


@jit()
def _add(weights, value, total):  # type: ignore[no-untyped-def]
    """Add the weighted values of some slots, eight at a time."""
    size = total.size
    whole = weights.size // 8 * 8
    for s in range(0, whole, 8):
        a, b, c, d = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        a_, b_, c_, d_ = weights[s + 4], weights[s + 5], weights[s + 6], weights[s + 7]
        k, l, m, n = value[s], value[s + 1], value[s + 2], value[s + 3]  # noqa: E741
        k_, l_, m_, n_ = value[s + 4], value[s + 5], value[s + 6], value[s + 7]
        for e in range(size):
            total[e] += ((a * k[e] + b * l[e]) + (c * m[e] + d * n[e])) + (
                (a_ * k_[e] + b_ * l_[e]) + (c_ * m_[e] + d_ * n_[e])
            )
    for s in range(whole, weights.size):
        a, k = weights[s], value[s]
        for e in range(size):
            total[e] += a * k[e]


@jit()
def _greatest(logits, shift, best, finite):  # type: ignore[no-untyped-def]
    infinite = np.uint32(0x7F800000)
    for n in range(logits.shape[0]):
        row = logits[n]
        top, bits = np.float32(-np.inf), np.uint32(0)
        for v in range(row.size):
            word = np.uint32(np.uint32(row[v]) << shift)
            bits = max(bits, word & infinite)
            top = max(top, word.view(np.float32))
        finite[n] = bits < infinite
        for v in range(row.size):
            if _wide(row[v], shift) == top:
                best[n] = v
                break
