"""The place on the way of the shadow is uniform, and another at every step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from basinscope.optim.methods import MethodSpec, build

STEPS = 4000


def test_places_are_uniform():
    """Null hypothesis: u of the steps are independent U(0, 1); mean, variance, lag-1 covariance.

    Each bound is 5.5 standard errors, three times: a false alarm of at most 1.2e-7 (normal
    approximation). Named bugs: u drawn once a restart (k = 40: the lag-1 correlation is 39/40,
    found always), u = |N(0, 1)| or u in (0, 1/2) (means .80 and .25), a constant u (variance 0).
    """
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(1))
    spec = MethodSpec("shadow", {"base": "sgd", "eta": 1.0, "k": 1.0})
    method = build(spec, model, lr=0.0, seed=11, total_steps=STEPS)
    seen = []

    def moved():
        seen.append(model.w.item())
        return model.w.sum()

    for _ in range(STEPS):
        method.step([moved, lambda: model.w.sum()], proxy=lambda: -model.w.sum())
    u = np.array(seen[STEPS // 10 :])  # delta is 1: one step of size eta
    n = len(u)
    assert 0 < u.min()
    assert u.max() < 1
    away = u - 0.5
    assert abs(away.mean()) < 5.5 * np.sqrt(1 / 12 / n)
    assert abs((away**2).mean() - 1 / 12) < 5.5 * np.sqrt(1 / 180 / n)
    assert abs((away[1:] * away[:-1]).mean()) < 5.5 / 12 / np.sqrt(n - 1)
