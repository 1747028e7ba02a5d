"""Shadow fine-tuning on quadratics, against its definition written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from basinscope.optim.methods import MethodSpec, build
from basinscope.weights import noise

OLD = np.array([[1.0, 4.0, 9.0], [2.0, 2.0, 5.0], [0.5, 3.0, 7.0]])  # curvatures of micro-batches
PROXY, GOAL = np.array([3.0, 1.0, 2.0]), np.array([2.0, -1.0, 0.5])
BEGIN = np.array([1.0, -0.5, 0.25])
RATE, SEED = 0.02, 7


class Point(nn.Module):
    def __init__(self, start=BEGIN):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float32))

    def old(self, i):
        return 0.5 * (torch.tensor(OLD[i], dtype=torch.float32) * self.w**2).sum()

    def proxy(self):
        away = self.w - torch.tensor(GOAL, dtype=torch.float32)
        return 0.5 * (torch.tensor(PROXY, dtype=torch.float32) * away**2).sum()


def method_of(point, steps, lr=RATE, **options):
    return build(
        MethodSpec("shadow", {"base": "sgd", **options}), point, lr=lr, betas=(0.0, 0.0),
        seed=SEED, total_steps=steps,
    )  # fmt: skip


def expected(steps, eta, k, share, moved):
    """The path of w: ``moved`` of the three micro-batches are taken at w + u delta."""
    w, path = BEGIN.copy(), []
    for step in range(steps):
        gradients = OLD * w
        if step < steps / 10:
            w = w - RATE * gradients.mean(axis=0)
        else:
            since = (step - int(np.ceil(steps / 10))) % k
            if since == 0:
                delta, v = np.zeros(3), np.zeros(3)
            g = PROXY * (w + delta - GOAL)
            g = g * min(1.0, 1.0 / np.linalg.norm(g))
            v = 0.95 * v + 0.05 * g**2
            delta = delta - eta * g / (np.sqrt(v / (1 - 0.95 ** (since + 1))) + 1e-8)
            u = (noise.stream("shadow", SEED, step)[0] + 0.5) / 2**32
            there = (OLD[:moved] * (w + u * delta)).mean(axis=0)
            w = w - RATE * (share * there + (1 - share) * gradients[moved:].mean(axis=0))
        path.append(w.copy())
    return np.array(path)


@pytest.mark.parametrize(
    ("k", "share", "moved"), [(4, 0.5, 2), (1, 0.3, 1), (100, 0.9, 2), (3, 0.05, 1)]
)
def test_the_path_is_that_of_the_definition(k, share, moved):
    steps, eta = 15, 0.1
    point = Point()
    method = method_of(point, steps, eta=eta, k=k, share=share)
    path = []
    for _ in range(steps):
        method.step([lambda i=i: point.old(i) for i in range(3)], proxy=point.proxy)
        path.append(point.w.detach().numpy().copy())
    wanted = expected(steps, eta, k, share, moved)
    np.testing.assert_allclose(path, wanted, rtol=0, atol=2e-5)
    plain = expected(steps, 0.0, k, share, moved)
    assert np.abs(wanted - plain).max() > 1e-3, "the shadow is felt"


def test_the_loss_that_is_told_is_the_one_that_is_minimised():
    """At step 0 of a run of 5 the share of each part is its weight in the mean loss as well."""
    point = Point()
    method = method_of(point, 5, eta=1e-12, share=0.25)
    method.steps = 1
    seen = method.step([lambda: point.w.sum() * 0 + 1.0, lambda: point.w.sum() * 0 + 3.0],
                       proxy=point.proxy)  # fmt: skip
    assert seen == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)


def test_the_weights_come_back_bit_for_bit():
    """A rate of 0 leaves them as they were, over displacements that no subtraction would undo."""
    start = np.array([1.0, 1e-7, -3.3333333])
    point = Point(start)
    before = point.w.detach().clone()
    method = method_of(point, 30, lr=0.0, eta=7.0, k=5)
    for _ in range(30):
        method.step([lambda i=i: point.old(i) for i in range(2)], proxy=point.proxy)
        assert torch.equal(point.w.detach(), before)


@pytest.mark.parametrize("fails", ["proxy", "old"])
def test_an_exception_leaves_the_weights_alone(fails):
    point = Point()
    method = method_of(point, 10, eta=0.3)
    losses = [lambda i=i: point.old(i) for i in range(2)]
    for _ in range(3):
        method.step(losses, proxy=point.proxy)
    before = point.w.detach().clone()

    def planned():
        raise RuntimeError("planned")

    given = {"proxy": planned} if fails == "proxy" else {"proxy": point.proxy}
    with pytest.raises(RuntimeError, match="planned"):
        method.step([planned, losses[1]] if fails == "old" else losses, **given)
    assert torch.equal(point.w.detach(), before)
