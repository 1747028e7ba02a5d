r"""What is measured of a model's weights: NLL, next-token score, and the width of both basins.

The score is the share of next tokens that the model ranks first: a 0-1 oracle like any other
task's. Its floor is the share of the most frequent token in the held-out text, which the best
answer without any context reaches; that of the NLL is the entropy of its tokens' frequencies. With
these for the loss at collapse,

.. math:: T(\alpha) = \frac{S(0) - S(\alpha)}{S(0) - S_\text{floor}}, \qquad
          T_\text{nll}(\alpha) = \frac{N(\alpha) - N(0)}{N_\text{floor} - N(0)},

the width along one direction is the first crossing of T = level. A fixed floor, not the minimum of
a curve, so that two models are compared at the same level; the curves are kept for any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from basinscope.directions.base import Random
from basinscope.engines.base import Engine
from basinscope.stats import median_interval
from basinscope.widening.recipe import Measure
from basinscope.widening.rows import Basins, BasinWidth, Loss
from basinscope.widening.tokens import Stream, batch

RATIO = 2.0 ** (1 / 3)  # between neighbouring steps of the grid
OUTWARD, INWARD = 24, 24  # steps of the grid from RMS(theta) / 8 within which a width is looked for
MARGIN = 2  # steps of the grid that are measured on either side of a crossing
LOGITS = 1 << 26  # at most so many in one forward pass


@dataclass(frozen=True)
class Windows:
    """Validation windows, and what the best answer without context reaches on that text.

    Attributes:
        rows: int64, (n, context + 1).
        score_floor: share of the most frequent token.
        nll_floor: entropy of the tokens' frequencies, nats.
    """

    rows: torch.Tensor
    score_floor: float
    nll_floor: float


def windows(text: Stream, context: int, count: int) -> Windows:
    """Validation windows evenly spread over the held-out part, at most ``count``."""
    there = (len(text.validation) - 1) // context
    n = min(count, there)
    rows = batch(text.validation, [i * there // n for i in range(n)], context)
    share = torch.bincount(text.validation).double() / len(text.validation)
    share = share[share > 0]
    return Windows(rows, float(share.max()), float(-(share * share.log()).sum()))


Autocast = Callable[[], Any]


@torch.no_grad()
def evaluate(module: nn.Module, seen: Windows, autocast: Autocast) -> tuple[float, float]:
    """NLL in nats a token, and share of next tokens ranked first, under the live weights.

    A NaN or infinite logit counts as a wrong answer; the NLL is then not finite.
    """
    device = next(module.parameters()).device
    nll, right, n = 0.0, 0, 0
    was_training = module.training
    module.eval()
    try:
        config: Any = module.config
        size = max(1, LOGITS // (seen.rows.shape[1] * config.vocab_size))
        for start in range(0, len(seen.rows), size):
            rows = seen.rows[start : start + size].to(device)
            with autocast():
                logits = module(input_ids=rows[:, :-1]).logits
            flat, targets = logits.float().flatten(0, 1), rows[:, 1:].flatten()
            each = nn.functional.cross_entropy(flat, targets, reduction="none")
            good = torch.isfinite(each)
            right += int(((flat.argmax(-1) == targets) & good).sum())
            nll += float(each.double().sum())
            n += targets.numel()
    finally:
        module.train(was_training)
    return nll / n, right / n


def measure(
    module: nn.Module, seen: Windows, settings: Measure, draws: int, autocast: Autocast
) -> Basins:
    """Score, NLL and basin widths of live weights, which are left as they were.

    Along each of ``draws`` random directions N(0, I) (`basinscope.Random` of the recipe's seed),
    on a geometric grid that is the same for every model, from where the score has hardly changed
    to beyond its crossing. N(0, I) is symmetric, so new directions are drawn, not signs.

    Returns:
        Everything but the NLL of the validation text. The interval of a width is that of the
        median over directions, exact from 6 directions on; a width of a direction is None where it
        is not reached.

    Cost: about 9 evaluations of the windows a direction.
    """
    engine = Engine(module, source=type(module).__name__)
    nll, score = evaluate(module, seen, autocast)
    rms = engine.rms
    points: dict[tuple[int, int], tuple[float, float]] = {}

    def at(place: int, draw: int) -> tuple[float, float]:
        if (place, draw) not in points:
            with engine.at(Random(settings.seed), step=_alpha(rms, place), draw=draw):
                points[place, draw] = evaluate(module, seen, autocast)
        return points[place, draw]

    def loss(which: Loss, place: int, draw: int) -> float:
        n, s = at(place, draw)
        if which == "score":
            return (score - s) / (score - seen.score_floor)
        return (n - nll) / (seen.nll_floor - nll)

    sides: dict[Loss, bool] = {"score": score > seen.score_floor, "nll": nll < seen.nll_floor}
    widths: dict[Loss, tuple[float | None, ...]] = {}
    for which, above in sides.items():
        start, crossings = 0, []
        for draw in range(draws if above else 0):
            start, alpha = _crossing(
                lambda place, w=which, d=draw: loss(w, place, d),  # type: ignore[misc]
                settings.level, start, rms,
            )  # fmt: skip
            crossings.append(alpha)
        widths[which] = tuple(crossings)
    return Basins(
        rms=rms,
        rms_of=rms_by_group(engine),
        score=score,
        nll_at_zero=nll if math.isfinite(nll) else None,
        floor={"score": seen.score_floor, "nll": seen.nll_floor},
        width={which: _interval(alphas, sides[which]) for which, alphas in widths.items()},
        widths=widths,
        curves=tuple(
            (_alpha(rms, place), draw, s, n if math.isfinite(n) else None)
            for (place, draw), (n, s) in sorted(points.items(), key=lambda p: (p[0][1], p[0][0]))
        ),
    )


def _alpha(rms: float, place: int) -> float:
    return rms / 8 * RATIO**place


def _crossing(
    loss: Callable[[int], float], level: float, start: int, rms: float
) -> tuple[int, float | None]:
    """First crossing on the grid near ``start``: where it was found, and its alpha.

    Walks inward until the loss is below the level at ``MARGIN`` places in a row, then outward to
    the first that is not; linear between the two.
    """

    def above(place: int) -> bool:
        return not loss(place) < level  # NaN is a loss

    inner = start
    clear = 0
    while clear < MARGIN and inner > -INWARD:
        clear = 0 if above(inner) else clear + 1
        inner -= 1
    outer = inner + 1
    while not above(outer):
        outer += 1
        if outer > OUTWARD:
            return start, None
    for place in range(outer + 1, outer + MARGIN):
        loss(place)
    here, before = loss(outer), loss(outer - 1) if outer > -INWARD + 1 else 0.0
    a, b = _alpha(rms, outer - 1), _alpha(rms, outer)
    share = (level - before) / (here - before) if math.isfinite(here) else 0.5
    return outer, a + share * (b - a)


def _interval(widths: Sequence[float | None], above_floor: bool) -> BasinWidth:
    if not above_floor:
        return BasinWidth(
            low=None, estimate=None, high=None,
            reason="no better than the best answer without context",
        )  # fmt: skip
    median = median_interval([math.inf if w is None else w for w in widths])
    ends = {"low": median.low, "estimate": median.estimate, "high": median.high}
    reason = median.reason
    if not all(math.isfinite(end) for end in ends.values()):
        reason = reason or f"{len(widths)} directions, {widths.count(None)} without a crossing"
    known = {name: end if math.isfinite(end) else None for name, end in ends.items()}
    return BasinWidth(**known, reason=reason)


def rms_by_group(engine: Engine) -> dict[str, float]:
    """RMS of the weights by kind of tensor: a width in alpha is free where a scale is free."""
    sums: dict[str, tuple[float, int]] = {}
    for name in engine.shapes:
        tensor = engine.pristine(name)
        group = _group(name)
        square, n = sums.get(group, (0.0, 0))
        sums[group] = (square + float(tensor.double().square().sum()), n + tensor.numel())
    return {group: math.sqrt(square / n) for group, (square, n) in sorted(sums.items())}


def _group(name: str) -> str:
    if name.endswith(".bias"):
        return "biases"
    for word, group in _GROUPS:
        if word in name:
            return group
    return "other"


_GROUPS = (
    ("wte", "embeddings"), ("embed", "embeddings"), ("wpe", "positions"), ("ln_", "norms"),
    ("norm", "norms"), ("attn", "attention"), ("mlp", "mlp"), ("lm_head", "head"),
)  # fmt: skip
