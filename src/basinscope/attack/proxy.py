"""The authors' proxy of a worst direction: a few AdamW steps away from the task.

As described for the released code of arXiv 2505.17646: ten AdamW steps on the negative
cross-entropy of instruction data, with a mean-squared-error pull towards theta0, whose displacement
is then rescaled to norm sqrt(d). Learning rate, weight of the pull, decay and batch are not part of
that description: here they are arguments, and the whole objective is one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from basinscope.attack.ascent import State, Terrain
from basinscope.attack.vectors import norm, views
from basinscope.errors import BasinscopeError


@dataclass(frozen=True)
class Proxy:
    """Settings of the proxy: AdamW's, and the weight of the pull.

    The loss that is minimised is ``-cross_entropy + pull * mean((theta - theta0)^2)``.
    """

    lr: float = 1e-5
    pull: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what would not move, or not at all be finite."""
        least = {"lr": self.lr > 0, "pull": self.pull >= 0, "weight_decay": self.weight_decay >= 0}
        for name, good in least.items():
            value = getattr(self, name)
            if not (good and math.isfinite(value)):
                raise BasinscopeError(
                    f"{name}={value}", "finite, lr above 0, others at least 0", f"leave {name} out"
                )


def descend(
    terrain: Terrain, proxy: Proxy, steps: int, after: Callable[[State], None] = lambda _: None
) -> State:
    """Displacement after so many AdamW steps from theta0, as a direction and a radius."""
    engine = terrain.engine
    v, m, s = (torch.zeros_like(terrain.g) for _ in range(3))
    state = State(0, 0.0, v)
    for step in range(1, steps + 1):
        value = terrain.gradient(v, 1.0)
        if not (math.isfinite(value.loss) and math.isfinite(norm(terrain.g))):
            state.ended = f"the loss is not finite in step {step}; the last good is kept"
            break
        g = terrain.g.neg_().add_(v, alpha=2 * proxy.pull / engine.d)
        m.mul_(proxy.beta1).add_(g, alpha=1 - proxy.beta1)
        s.mul_(proxy.beta2).addcmul_(g, g, value=1 - proxy.beta2)
        for name, part in views(v, engine).items():  # decoupled decay pulls theta, not v
            decay = proxy.lr * proxy.weight_decay
            part.sub_(part + engine.pristine(name).to(part), alpha=decay)
        root = s.sqrt().div_(math.sqrt(1 - proxy.beta2**step)).add_(proxy.eps)
        v.addcdiv_(m, root, value=-proxy.lr / (1 - proxy.beta1**step))
        state.steps, state.loss, state.score = step, value.loss, value.score
        state.trace.append((step, norm(v), value.loss, value.score))
        after(state)
    size = norm(v)
    if size == 0.0:
        raise BasinscopeError(
            f"the proxy has not moved ({state.ended or 'the gradient is zero'})",
            "a displacement that is not zero",
            "another objective, or the method pga",
        )
    state.x, state.radius = v.mul_(1 / size), size
    return state
