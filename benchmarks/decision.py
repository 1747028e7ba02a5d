"""How many noise draws it takes to certify "p >= 0.5" when the smoothed score is 0.8.

- *Fixed sample*: the usual way is a number of draws fixed beforehand, 1,000 say, and the exact
  one-sided bound. The fewest with which that bound passes 0.5 in half, and in 99.9%, of the runs
  at the same error are printed, since 1,000 is far more than such a sample needs.
- *Wald's bound*: with one 0-1 item per draw no test that errs with probability at most ``error``
  on either side can do with fewer draws on average than
  kl(error, 1 - error) / kl(0.8, 0.5), kl the binary relative entropy (Wald and Wolfowitz,
  Annals of Mathematical Statistics 19, 1948).
- *Simulation* of the program's decision (`basinscope.stats.smoothing.decide`): several items
  share a draw. Their scores are beta-binomial: given the draw, items are right independently with
  a probability that is Beta distributed over draws with mean 0.8; ``rho`` is the correlation of two
  items under one draw (0: none; 1: all items of a draw agree, so further items tell nothing).
- *The procedure itself*: `bs.certify` with a claim on a model whose items are half-spaces, so that
  p is 0.8 exactly; the draws on record are counted.

Run: python -m benchmarks.decision [--runs N] [--certificates N]
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from scipy.stats import binom, norm

import basinscope as bs
from basinscope.stats.smoothing import decide

P, CLAIM, SAMPLE = 0.8, 0.5, 1000
ERRORS, ITEMS, RHOS = (1e-3, 1e-2), (1, 2, 4, 8, 16), (0.0, 0.1, 0.3)


def relative_entropy(p: float, q: float) -> float:
    """Binary relative entropy kl(p, q) in nats."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def wald(error: float) -> float:
    """Fewest draws on average, with one item per draw."""
    return relative_entropy(1 - error, error) / relative_entropy(P, CLAIM)


def fixed(error: float, power: float) -> int:
    """Fewest draws fixed beforehand whose exact lower bound passes the claim with that power."""
    for n in range(1, SAMPLE + 1):
        least = int(binom.isf(error, n, CLAIM)) + 1  # P(X >= least) <= error at the claim
        if binom.sf(least - 1, n, P) >= power:
            return n
    raise AssertionError("more than the sample")


def scores(rng: np.random.Generator, n_draws: int, items: int, rho: float) -> np.ndarray:
    """Mean score of each draw's items, shape (n_draws,)."""
    p = np.full(n_draws, P)
    if rho:
        size = 1 / rho - 1
        p = rng.beta(P * size, (1 - P) * size, n_draws)
    return rng.binomial(items, p) / items


def simulated(error: float, items: int, rho: float, runs: int) -> tuple[float, float, float]:
    """Mean number of draws, its 95% quantile, and the share of runs that accept the claim."""
    rng = np.random.default_rng([items, round(100 * rho)])
    counts, accepted = [], 0
    for _ in range(runs):
        n, verdict = decide(scores(rng, 400, items, rho), CLAIM, error)
        counts.append(n)
        accepted += verdict is True
    return float(np.mean(counts)), float(np.quantile(counts, 0.95)), accepted / runs


def certificates(error: float, items: int, runs: int) -> list[int]:
    """Draws that certificates took, one for each seed; items of a draw are independent."""
    module = torch.nn.Linear(64, 1, bias=False)
    torch.nn.init.constant_(module.weight, float(norm.ppf(P)))
    task = bs.CallableTask("half-spaces", lambda m: (m.weight[0] > 0).int(), n_items=64)
    engine = bs.load(module)
    counts = []
    for seed in range(runs):
        cert = bs.certify(
            engine, task, sigma=1.0, draws=400, items_per_draw=items, claim=CLAIM,
            confidence=1 - error, seed=seed,
        )  # fmt: skip
        counts.append(len(cert.units))
    return counts


def main() -> None:
    """Print the bounds, the simulation and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--certificates", type=int, default=40)
    options = parser.parse_args()
    for error in ERRORS:
        print(
            f"error {error:g}: at least {wald(error):.1f} draws on average with one item per draw "
            f"(Wald); fixed sample: {fixed(error, 0.5)} draws pass in half of the runs, "
            f"{fixed(error, 0.999)} in 99.9%; compared with: {SAMPLE}"
        )
        print("  items per draw   rho   mean draws   95% of runs   1000 / mean   accepted")
        for items in ITEMS:
            for rho in RHOS if items > 1 else RHOS[:1]:
                mean, late, share = simulated(error, items, rho, options.runs)
                print(
                    f"  {items:>14}{rho:>6.1f}{mean:>13.1f}{late:>14.0f}{SAMPLE / mean:>14.1f}"
                    f"{share:>11.3f}",
                    flush=True,
                )
        for items in (1, 8):
            counts = certificates(error, items, options.certificates)
            print(
                f"  bs.certify, {items} item{'s' if items > 1 else ''} per draw, "
                f"{len(counts)} seeds: {np.mean(counts):.1f} draws "
                f"({min(counts)} to {max(counts)})"
            )


if __name__ == "__main__":
    main()
