"""Counter-based standard normals: every weight has its own, computed anew wherever it is needed.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives four 32-bit
integers for each counter; Box-Muller turns each pair into two normals. The stream of a tensor is
named by (seed, draw, canonical checkpoint name), and element ``i`` of the tensor (row-major) is
lane ``i % 4`` of counter ``i // 4``. So a normal depends on nothing but its name and position: any
thread count, chunk, shard or device gives the same, and nothing is stored.

The transform uses only correctly rounded float32 operations (add, multiply, square root, integer
conversion) in a fixed order, without fused multiply-add and without fast-math (defect 9 of earlier
code: variance 1.17), so that the Numba kernels, the kernel of `triton_noise` and `normals_torch`
agree bit for bit.

Shapes: everything is flat; ``n`` counts elements, a *block* is the four elements of one counter.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import numpy as np
import torch

from basinscope.errors import BasinscopeError
from basinscope.weights.kernels import bfloat16_of, bfloat16_sum, has_kernel, jit, words_of
from basinscope.weights.parts import Device

SCHEME = "philox4x32-10/box-muller-f32/1"
"""Name of the noise; it stands in the address of every record. Change it with any bit below."""

CHUNK_BLOCKS = 1 << 16  # at most: 1 MiB of float32, small beside a core's caches
_FEWEST_BLOCKS = 1 << 12  # worth a thread: half a dozen times what starting one takes

_PIECE = 1 << 22  # elements that torch makes at a time: it holds twenty times their memory

_BATCH = 512  # blocks at a time: their integers stay in a core's first cache

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
# log(1 + z) on [sqrt(1/2) - 1, sqrt(2) - 1], sine and cosine on [-pi/4, pi/4]: minimax polynomials
# of the Cephes library (logf, sinf, cosf), highest power first
_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_ANGLE = math.pi / 2 * 2.0**-30


def stream(name: str, seed: int, draw: int) -> tuple[int, int, int, int]:
    """Key (2 words) and upper half of the counter (2 words) of one tensor's stream.

    128 bits of SHA-256 over (scheme, seed, draw, name): two tensors, draws or seeds share a stream
    with probability 2^-128 (defect 1 of earlier code: one seed for every tensor gave equal noise to
    equal shapes).

    Raises:
        BasinscopeError: if seed or draw is not a non-negative integer.
    """
    for word, value in (("seed", seed), ("draw", draw)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
            raise BasinscopeError(f"{word}={value!r}", "an integer of at least 0", "0")
    digest = hashlib.sha256(f"{SCHEME}\0{seed:d}\0{draw:d}\0{name}".encode()).digest()
    k0, k1, c2, c3 = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12))
    return k0, k1, c2, c3


def normals(
    name: str,
    n: int,
    *,
    seed: int = 0,
    draw: int = 0,
    start: int = 0,
    device: Device = "cpu",
) -> torch.Tensor:
    """Elements ``start .. start+n`` of the standard normals of the tensor called ``name``.

    Independent N(0, 1) over names, seeds, draws and positions (as far as Philox4x32-10 is random,
    and up to float32 rounding; the largest magnitude is sqrt(2 * 33 * ln 2) = 6.76).

    Args:
        name: canonical checkpoint name of the tensor.
        n: number of elements.
        seed: names a family of directions; any integer >= 0.
        draw: numbers independent directions of one seed.
        start: first position in the flattened (row-major) tensor.
        device: where they are made.

    Returns:
        float32 tensor of shape (n,) on that device.

    Guarantee: ``normals(name, n)[a:b]`` equals ``normals(name, b - a, start=a)`` bit for bit, on
    any machine and for any number of threads.

    >>> a = normals("w", 10, seed=1)
    >>> bool((normals("w", 4, seed=1, start=3) == a[3:7]).all())
    True
    """
    if n < 0 or start < 0:
        raise BasinscopeError(f"n={n}, start={start}", "positions of at least 0", "start=0")
    key, device = stream(name, seed, draw), torch.device(device)
    if card := _on_card(device):
        return card.normals(n, key, start=start, device=device)  # type: ignore[no-any-return]
    if device.type != "cpu":
        pieces = [
            normals_torch(name, min(n - a, _PIECE), seed=seed, draw=draw, start=start + a,
                          device=device)
            for a in range(0, max(n, 1), _PIECE)
        ]  # fmt: skip
        return torch.cat(pieces)
    first, skip = divmod(start, 4)
    blocks = -(-(skip + n) // 4)
    out = np.empty(4 * blocks, dtype=np.float32)
    _in_chunks(blocks, lambda a, b: _fill(out[4 * a : 4 * b], first + a, *_words(key)))
    return torch.from_numpy(out[skip : skip + n])


def perturb(
    theta: torch.Tensor,
    live: torch.Tensor,
    step: float,
    name: str,
    *,
    seed: int,
    draw: int,
    std: float = 1.0,
    start: int = 0,
) -> None:
    """Write ``round(theta + step * (std * normals))`` into ``live``, without memory beside the two.

    Products and sum are float32, rounded once (to nearest even) where ``live`` has 16 bits.

    Args:
        theta: flat; the two are such as `takes` takes.
        live: of the same length, and of the same dtype (it may be ``theta`` itself) or, for a
            float32 ``theta``, narrower.
        step: position on the slice.
        name: canonical name of the tensor, as in `normals`.
        seed: as in `normals`.
        draw: as in `normals`.
        std: what the normals are multiplied by.
        start: as in `normals`.
    """
    assert theta.is_contiguous()
    assert live.is_contiguous()
    if card := _on_card(live.device):
        card.perturb(theta, live, step, stream(name, seed, draw), std=std, start=start)
        return
    assert start == 0
    kernel = _KERNELS[theta.dtype, live.dtype]
    old, new = words_of(theta), words_of(live)
    words, factors = _words(stream(name, seed, draw)), (np.float32(step), np.float32(std))

    def chunk(a: int, b: int) -> None:
        kernel(old[4 * a : 4 * b], new[4 * a : 4 * b], *factors, a, *words)

    _in_chunks(-(-theta.numel() // 4), chunk)


def takes(theta: torch.Tensor, live: torch.Tensor, start: int = 0) -> bool:
    """Whether there is a kernel for `perturb` of these two, where they lie."""
    if card := _on_card(live.device):
        return bool(card.fits(theta, live))
    return start == 0 and has_kernel(theta, live)


def _on_card(device: torch.device) -> ModuleType | None:
    """The kernels of a card; None on the CPU, and where torch has to do their work."""
    return _triton() if device.type == "cuda" and torch.cuda.is_available() else None


@cache
def _triton() -> ModuleType | None:
    """`triton_noise`, if it runs on the present card and has our bits; that it does not is said."""
    n = 4099
    try:
        from basinscope.weights import triton_noise

        there = triton_noise.normals(
            n, stream("w", 0, 0), start=0, device=torch.device("cuda", torch.cuda.current_device())
        )
        if not torch.equal(there.cpu(), normals("w", n)):
            raise RuntimeError("its bits are others")
    except Exception as error:  # whatever a Triton raises that does not fit its driver
        warnings.warn(
            "noise is made by torch in place of a kernel of Triton: with the same bits, far slower "
            f"({type(error).__name__}: {error})",
            stacklevel=2,
        )
        return None
    return triton_noise


def philox_torch(
    blocks: torch.Tensor, key: tuple[int, int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox4x32-10 in plain torch: the four output words of each block, as int64 of 32 bits."""
    mask = 0xFFFFFFFF
    k0, k1, word2, word3 = key
    c0, c1 = blocks & mask, (blocks >> 32) & mask
    c2, c3 = torch.full_like(blocks, word2), torch.full_like(blocks, word3)
    for _ in range(10):
        h0, l0 = _multiply_high_low(c0, _M0)
        h1, l1 = _multiply_high_low(c2, _M1)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + _W0) & mask, (k1 + _W1) & mask
    return c0, c1, c2, c3


def normals_torch(
    name: str, n: int, *, seed: int, draw: int, start: int = 0, device: Device = "cpu"
) -> torch.Tensor:
    """`normals` in plain torch operations: the reference, and the way of every other device."""
    first, skip = divmod(start, 4)
    count = -(-(skip + n) // 4)
    blocks = torch.arange(first, first + count, dtype=torch.int64, device=device)
    x0, x1, x2, x3 = philox_torch(blocks, stream(name, seed, draw))
    out = torch.stack([*_box_muller_torch(x0, x1), *_box_muller_torch(x2, x3)], dim=1)
    return out.flatten()[skip : skip + n]


def _multiply_high_low(x: torch.Tensor, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of a 32 x 32 bit product, in int64 without overflow."""
    low = x * (m & 0xFFFF)
    high = x * (m >> 16)
    total = (low >> 16) + high
    return total >> 16, ((total & 0xFFFF) << 16) | (low & 0xFFFF)


def _box_muller_torch(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    u = x.to(torch.float32) * 2.0**-32 + 2.0**-33
    bits = u.view(torch.int32)
    e = (bits - 0x3F3504F3) >> 23
    z = (bits - (e << 23)).view(torch.float32) - 1.0
    ef = e.to(torch.float32)
    zz = z * z
    ln = (z * zz) * _horner_torch(_LOG, z) + ef * _LN2_LOW
    ln = ln - 0.5 * zz
    ln = (ln + z) + ef * _LN2_HIGH
    # torch's float32 square root is not correctly rounded on every CPU; through float64 it is
    square = -2.0 * ln
    # -0 stays -0, which clamp() does not say
    r = torch.sqrt(torch.where(square < 0.0, 0.0, square).double()).float()
    a = ((y & 0x3FFFFFFF) - 0x20000000).to(torch.float32) * np.float32(_ANGLE).item()
    aa = a * a
    s = (_horner_torch(_SIN, aa) * aa) * a + a
    c = ((_horner_torch(_COS, aa) * aa) * aa - 0.5 * aa) + 1.0
    quadrant = y >> 30
    odd = (quadrant & 1) == 1
    cos, sin = torch.where(odd, s, c), torch.where(odd, c, s)
    cos = torch.where((quadrant == 1) | (quadrant == 2), -cos, cos)
    sin = torch.where(quadrant >= 2, -sin, sin)
    return r * cos, r * sin


def _horner_torch(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    p = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + c
    return p


# --- Numba kernels ------------------------------------------------------------------------------


_F, _U32, _U64, _I32 = np.float32, np.uint32, np.uint64, np.int32
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (np.float32(c) for c in _LOG)
_S0, _S1, _S2 = (np.float32(c) for c in _SIN)
_C0, _C1, _C2 = (np.float32(c) for c in _COS)


@jit(inline="always")
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    for _ in range(10):
        p0 = _U64(_M0) * _U64(c0)
        p1 = _U64(_M1) * _U64(c2)
        c0, c1, c2, c3 = (
            _U32(p1 >> _U64(32)) ^ c1 ^ k0,
            _U32(p1),
            _U32(p0 >> _U64(32)) ^ c3 ^ k1,
            _U32(p0),
        )
        k0 = _U32(k0 + _U32(_W0))
        k1 = _U32(k1 + _U32(_W1))
    return c0, c1, c2, c3


@jit(inline="always")
def _box_muller(x, y):  # type: ignore[no-untyped-def]
    """Two independent N(0, 1) from two 32-bit integers.

    Radius sqrt(-2 ln u) with u = (x + 1/2) / 2^32 in (0, 1]; angle 2 pi y / 2^32 + pi/4, taken as a
    quadrant and an offset in [-pi/4, pi/4) whose turn by a constant changes nothing.
    """
    u = _F(x) * _F(2.0**-32) + _F(2.0**-33)
    bits = np.float32(u).view(np.int32)
    e = _I32(bits - _I32(0x3F3504F3)) >> _I32(23)
    z = np.int32(bits - (e << _I32(23))).view(np.float32) - _F(1.0)
    ef = _F(e)
    zz = z * z
    p = _L0
    p = p * z + _L1
    p = p * z + _L2
    p = p * z + _L3
    p = p * z + _L4
    p = p * z + _L5
    p = p * z + _L6
    p = p * z + _L7
    p = p * z + _L8
    ln = (z * zz) * p + ef * _F(_LN2_LOW)
    ln = ln - _F(0.5) * zz
    ln = (ln + z) + ef * _F(_LN2_HIGH)
    r = np.sqrt(max(_F(-2.0) * ln, _F(0.0)))
    a = _F(_I32(_I32(y & _U32(0x3FFFFFFF)) - _I32(0x20000000))) * _F(_ANGLE)
    aa = a * a
    s = (((_S0 * aa + _S1) * aa + _S2) * aa) * a + a
    c = ((((_C0 * aa + _C1) * aa + _C2) * aa) * aa - _F(0.5) * aa) + _F(1.0)
    quadrant = y >> _U32(30)
    odd = (quadrant & _U32(1)) != 0
    cos = s if odd else c
    sin = c if odd else s
    cos = -cos if (quadrant == 1 or quadrant == 2) else cos
    sin = -sin if quadrant >= 2 else sin
    return r * cos, r * sin


@jit(inline="always")
def _block(counter, k0, k1, c2, c3):  # type: ignore[no-untyped-def]
    x0, x1, x2, x3 = _philox(_U32(counter), _U32(counter >> _U64(32)), c2, c3, k0, k1)
    z0, z1 = _box_muller(x0, x1)
    z2, z3 = _box_muller(x2, x3)
    return z0, z1, z2, z3


@jit()
def _philox_words(counters, k0, k1, out):  # type: ignore[no-untyped-def]
    """Integer stream alone, for the known-answer tests."""
    for i in range(counters.shape[0]):
        c = counters[i]
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = _philox(c[0], c[1], c[2], c[3], k0, k1)


@jit()
def _words_of(first, blocks, left, right, k0, k1, c2, c3):  # type: ignore[no-untyped-def]
    """Words 0 and 2 of each block into ``left``, 1 and 3 into ``right``: Box-Muller's pairs."""
    for b in range(blocks):
        counter = _U64(first + b)
        x0, x1, x2, x3 = _philox(_U32(counter), _U32(counter >> _U64(32)), c2, c3, k0, k1)
        left[b] = _U64(x0) | (_U64(x2) << _U64(32))
        right[b] = _U64(x1) | (_U64(x3) << _U64(32))


@jit()
def _normals_of(left, right, out, pairs):  # type: ignore[no-untyped-def]
    for j in range(pairs):
        out[2 * j], out[2 * j + 1] = _box_muller(left[j], right[j])


@jit()
def _sums_of(left, right, theta, live, step, std, pairs):  # type: ignore[no-untyped-def]
    for j in range(pairs):
        z0, z1 = _box_muller(left[j], right[j])
        live[2 * j] = theta[2 * j] + step * (std * z0)
        live[2 * j + 1] = theta[2 * j + 1] + step * (std * z1)


@jit()
def _rounded_sums_of(left, right, theta, live, step, std, pairs):  # type: ignore[no-untyped-def]
    for j in range(pairs):
        z0, z1 = _box_muller(left[j], right[j])
        live[2 * j] = bfloat16_of(theta[2 * j] + step * (std * z0))
        live[2 * j + 1] = bfloat16_of(theta[2 * j + 1] + step * (std * z1))


# Integers first, then normals: two loops that a compiler turns into vector code of one width each.
# With a quarter more speed than one loop without AVX-512, and no less with it; only for bfloat16
# weights one loop is the faster there.


@jit()
def _fill(out, first, k0, k1, c2, c3):  # type: ignore[no-untyped-def]
    left, right = np.empty(_BATCH, np.uint64), np.empty(_BATCH, np.uint64)
    for a in range(0, out.size // 4, _BATCH):
        blocks = min(_BATCH, out.size // 4 - a)
        _words_of(first + a, blocks, left, right, k0, k1, c2, c3)
        batch = out[4 * a : 4 * (a + blocks)]
        _normals_of(left.view(np.uint32), right.view(np.uint32), batch, 2 * blocks)


@jit()
def _perturb_float32(theta, live, step, std, first, k0, k1, c2, c3):  # type: ignore[no-untyped-def]
    left, right = np.empty(_BATCH, np.uint64), np.empty(_BATCH, np.uint64)
    full = theta.size // 4
    for a in range(0, full, _BATCH):
        b = min(a + _BATCH, full)
        _words_of(first + a, b - a, left, right, k0, k1, c2, c3)
        x, y = left.view(np.uint32), right.view(np.uint32)
        _sums_of(x, y, theta[4 * a : 4 * b], live[4 * a : 4 * b], step, std, 2 * (b - a))
    tail = _block(_U64(first + full), k0, k1, c2, c3)
    for j in range(theta.size - 4 * full):
        live[4 * full + j] = theta[4 * full + j] + step * (std * tail[j])


@jit()
def _perturb_bfloat16(theta, live, step, std, first, k0, k1, c2, c3):  # type: ignore[no-untyped-def]
    full = theta.size // 4
    for b in range(full):
        z0, z1, z2, z3 = _block(_U64(first + b), k0, k1, c2, c3)
        i = 4 * b
        live[i] = bfloat16_sum(theta[i], step * (std * z0))
        live[i + 1] = bfloat16_sum(theta[i + 1], step * (std * z1))
        live[i + 2] = bfloat16_sum(theta[i + 2], step * (std * z2))
        live[i + 3] = bfloat16_sum(theta[i + 3], step * (std * z3))
    tail = _block(_U64(first + full), k0, k1, c2, c3)
    for j in range(theta.size - 4 * full):
        live[4 * full + j] = bfloat16_sum(theta[4 * full + j], step * (std * tail[j]))


@jit()
def _perturb_to_bfloat16(theta, live, step, std, first, k0, k1, c2, c3):  # type: ignore[no-untyped-def]
    left, right = np.empty(_BATCH, np.uint64), np.empty(_BATCH, np.uint64)
    full = theta.size // 4
    for a in range(0, full, _BATCH):
        b = min(a + _BATCH, full)
        _words_of(first + a, b - a, left, right, k0, k1, c2, c3)
        x, y = left.view(np.uint32), right.view(np.uint32)
        _rounded_sums_of(x, y, theta[4 * a : 4 * b], live[4 * a : 4 * b], step, std, 2 * (b - a))
    tail = _block(_U64(first + full), k0, k1, c2, c3)
    for j in range(theta.size - 4 * full):
        live[4 * full + j] = bfloat16_of(theta[4 * full + j] + step * (std * tail[j]))


_KERNELS = {
    (torch.float32, torch.float32): _perturb_float32,
    (torch.bfloat16, torch.bfloat16): _perturb_bfloat16,
    (torch.float32, torch.bfloat16): _perturb_to_bfloat16,
}


# --- From tensors to kernels --------------------------------------------------------------------


def _words(key: tuple[int, int, int, int]) -> tuple[np.uint32, ...]:
    return tuple(np.uint32(k) for k in key)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="basinscope-noise")


def _in_chunks(blocks: int, chunk: Callable[[int, int], None]) -> None:
    """Run ``chunk(a, b)`` over ``[0, blocks)`` on as many threads as torch uses, this one too.

    Each has as many chunks as the others, all of one size: they end together.
    """
    threads = max(1, min(torch.get_num_threads(), blocks // _FEWEST_BLOCKS))
    rounds = max(1, -(-blocks // (threads * CHUNK_BLOCKS)))
    size = max(1, -(-blocks // (threads * rounds)))
    ranges = [(a, min(a + size, blocks)) for a in range(0, blocks, size)]
    own = ranges[::threads]
    others = [span for k, span in enumerate(ranges) if k % threads]
    done = [_pool(threads - 1).submit(chunk, a, b) for a, b in others]
    for a, b in own:
        chunk(a, b)
    for future in done:
        future.result()
