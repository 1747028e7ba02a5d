"""`noise` as one kernel of a graphics card: the bits of the Numba kernels, in one pass.

Every operation is correctly rounded, as there. Products and sums are not fused: without
``enable_fp_fusion=False`` ``a * b + c`` is one instruction, which rounds once. Square roots are
`sqrt_rn`, and bfloat16 is rounded by integers (Triton's interpreter would truncate). Signs are
products with -1, since Triton's ``-x`` is ``0 - x``, which loses the sign of zero.

Imported where a tensor lies on a card, and in tests, which run it in Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from basinscope.weights import noise

_BLOCK = 1024
"""Counters of one program: four elements each."""

_FLOAT32, _BFLOAT16, _FLOAT16 = (tl.constexpr(k) for k in range(3))
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (tl.constexpr(c) for c in noise._LOG)
_LN2_HIGH, _LN2_LOW = tl.constexpr(noise._LN2_HIGH), tl.constexpr(noise._LN2_LOW)
_S0, _S1, _S2 = (tl.constexpr(c) for c in noise._SIN)
_C0, _C1, _C2 = (tl.constexpr(c) for c in noise._COS)
_ANGLE = tl.constexpr(noise._ANGLE)


def fits(theta: torch.Tensor, live: torch.Tensor) -> bool:
    """Whether the kernel takes these two: contiguous, on one device, in 32 or 16 bits."""
    return (
        theta.device == live.device
        and theta.dtype in (torch.float32, live.dtype)
        and live.dtype in _KINDS
        and theta.is_contiguous()
        and live.is_contiguous()
    )


def perturb(
    theta: torch.Tensor,
    live: torch.Tensor,
    step: float,
    key: tuple[int, int, int, int],
    *,
    std: float = 1.0,
    start: int = 0,
    block: int = _BLOCK,
) -> None:
    """Write ``round(theta + step * (std * normals))`` into ``live``; see `noise.perturb`.

    Args:
        theta: see `fits`.
        live: of as many elements.
        step: position on the slice.
        key: from `noise.stream`.
        std: what the normals are multiplied by.
        start: position of the first element in its tensor.
        block: counters of one program.
    """
    _launch(theta.view(-1), live.view(-1), step, std, key, start, block)


def normals(
    n: int, key: tuple[int, int, int, int], *, start: int, device: torch.device, block: int = _BLOCK
) -> torch.Tensor:
    """Elements ``start .. start+n`` of a stream, float32 of shape (n,); see `noise.normals`."""
    out = torch.empty(n, dtype=torch.float32, device=device)
    _launch(None, out, 1.0, 1.0, key, start, block)
    return out


def _launch(
    theta: torch.Tensor | None,
    live: torch.Tensor,
    step: float,
    std: float,
    key: tuple[int, int, int, int],
    start: int,
    block: int,
) -> None:
    n = live.numel()
    if n == 0:
        return
    first, skip = divmod(start, 4)
    k0, k1, c2, c3 = (_signed(word) for word in key)
    old = live if theta is None else theta
    with torch.cuda.device_of(live):  # type: ignore[no-untyped-call]  # Triton's is the current one
        _kernel[(triton.cdiv(skip + n, 4 * block),)](
            _words(old), _words(live), step, std, n, first, k0, k1, c2, c3,
            SKIP=skip, ADD=theta is not None, OLD=_KINDS[old.dtype], NEW=_KINDS[live.dtype],
            BLOCK=block, enable_fp_fusion=False,
        )  # fmt: skip


def _signed(word: int) -> int:
    """The same 32 bits as a signed integer: a larger one would be taken for 64 bits."""
    return word - (1 << 32) if word >= 1 << 31 else word


def _words(flat: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor; bfloat16 as integers, which the kernel rounds to itself."""
    return flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat


# else 1 and multiples of 16 would be compiled anew; of n that gives loads and stores of 128 bits
@triton.jit(do_not_specialize=["step", "std", "first", "k0", "k1", "c2", "c3"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    theta, live, step, std, n, first, k0, k1, c2, c3,
    SKIP: tl.constexpr, ADD: tl.constexpr, OLD: tl.constexpr, NEW: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    counter = first.to(tl.int64) + begin + tl.arange(0, BLOCK)
    x0, x1, x2, x3 = _philox(
        counter.to(tl.uint32), (counter >> 32).to(tl.uint32),
        c2.to(tl.uint32), c3.to(tl.uint32), k0.to(tl.uint32), k1.to(tl.uint32),
    )  # fmt: skip
    z0, z1 = _box_muller(x0, x1)
    z2, z3 = _box_muller(x2, x3)
    z = tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))  # z0 z1 z2 z3
    place = 4 * begin - SKIP + tl.arange(0, 4 * BLOCK)
    inside = place < n
    if SKIP:
        inside = inside & (place >= 0)
    if ADD:
        old = tl.load(theta + place, mask=inside)
        if OLD == _BFLOAT16:
            old = (old.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        z = old.to(tl.float32) + step * (std * z)
    if NEW == _BFLOAT16:
        bits = z.to(tl.uint32, bitcast=True)
        out = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)
    elif NEW == _FLOAT16:
        out = z.to(tl.float16)
    else:
        out = z
    tl.store(live + place, out, mask=inside)


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _box_muller(x, y):  # type: ignore[no-untyped-def]
    u = x.to(tl.float32) * 2.0**-32 + 2.0**-33
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    z = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    ef = e.to(tl.float32)
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
    ln = (z * zz) * p + ef * _LN2_LOW
    ln = ln - 0.5 * zz
    ln = (ln + z) + ef * _LN2_HIGH
    square = -2.0 * ln
    r = tl.sqrt_rn(tl.where(square < 0.0, 0.0, square))  # not max(), which loses the sign of -0
    a = ((y & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(tl.float32) * _ANGLE
    aa = a * a
    s = (((_S0 * aa + _S1) * aa + _S2) * aa) * a + a
    c = ((((_C0 * aa + _C1) * aa + _C2) * aa) * aa - 0.5 * aa) + 1.0
    quadrant = y >> 30
    odd = (quadrant & 1) != 0
    cos = tl.where(odd, s, c) * tl.where((quadrant == 1) | (quadrant == 2), -1.0, 1.0)
    sin = tl.where(odd, c, s) * tl.where(quadrant >= 2, -1.0, 1.0)
    return r * cos, r * sin
