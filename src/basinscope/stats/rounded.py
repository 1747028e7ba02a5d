"""Bounds as text: rounded to the side on which the sentence stays true."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any


def at_least(x: float, places: int = 4) -> str:
    """Lower bound with so many decimals, never above it.

    >>> at_least(0.72998), at_least(0.7), at_least(0.99999)
    ('0.7299', '0.7000', '0.9999')
    """
    return _decimals(x, places, ROUND_FLOOR)


def at_most(x: float, places: int = 4) -> str:
    """Upper bound with so many decimals, never below it.

    >>> at_most(0.08231), at_most(-0.0319)
    ('0.0824', '-0.0319')
    """
    return _decimals(x, places, ROUND_CEILING)


def radius_text(x: float, digits: int = 4) -> str:
    """Radius with so many significant digits, never above it.

    >>> radius_text(0.00566678), radius_text(float("inf"))
    ('0.005666', 'inf')
    """
    if not math.isfinite(x):
        return f"{x}"
    cut = Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(repr(float(x)))
    return f"{float(cut):.{digits}g}"


def percent(x: float) -> str:
    """Share in percent, with all of its digits.

    >>> percent(0.9), percent(0.995), percent(1 - 1e-12)
    ('90%', '99.5%', '99.9999999999%')
    """
    return f"{(Decimal(repr(float(x))) * 100).normalize():f}%"


def _decimals(x: float, places: int, rounding: str) -> str:
    if not math.isfinite(x):
        return f"{x}"
    return f"{Decimal(repr(float(x))).quantize(Decimal(1).scaleb(-places), rounding=rounding):f}"


def finite(value: Any) -> Any:
    """A number as JSON has it: not finite is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
