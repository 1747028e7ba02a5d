"""A worker process: rebuilds the bench from words, then measures the units it is given.

Speaks lines of JSON on standard input and output; ends when its parent does, at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, TextIO

from basinscope.directions.words import direction
from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.spec import ModelSpec, TaskSpec, model_spec, task_spec
from basinscope.tasks.words import from_recipe


def main() -> None:
    """Read the order and the units, write trials."""
    import torch

    # only our own lines may reach the parent: whatever a library prints goes to standard error
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        bench = rebuild(json.loads(orders.get()))
        with bench.engine.moving():
            while True:
                unit = {name: _frozen(value) for name, value in json.loads(orders.get()).items()}
                for _, trial in bench.measure(Unit(**unit)):
                    _say(out, {"trial": trial.model_dump(mode="json")})
                _say(out, {"done": True})
    except BasinscopeError as error:
        _say(out, {"error": error.args})
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(1)


def rebuild(order: dict[str, Any]) -> Bench:
    """Bench of the order, checked against the parent's description of it.

    Raises:
        BasinscopeError: if the weights, the items or the directions are not the parent's.
    """
    dtype = order["dtype"]
    engine = load(order["folder"], dtype=dtype, device="cpu", params=order["params"])
    if order["token_budget"]:
        engine.token_budget = order["token_budget"]  # type: ignore[attr-defined]
    tasks = tuple(from_recipe(task) for task in order["tasks"])
    model, expected = model_spec(engine), ModelSpec.model_validate(order["model"])
    if model.model_copy(update={"source": expected.source}) != expected:
        raise BasinscopeError(
            "a worker loaded other weights than its parent",
            "its parent's weights",
            "report this as a bug, or run with one worker",
        )
    specs = tuple(task_spec(task) for task in tasks)
    if specs != tuple(TaskSpec.model_validate(spec) for spec in order["task_specs"]):
        raise BasinscopeError(
            "a worker built other items than its parent",
            "its parent's items",
            "report this as a bug, or run with one worker",
        )
    words = tuple(direction(word) for word in order["directions"])
    bench = Bench(engine, words, tasks, expected, specs)
    for d, identity in enumerate(order["identities"]):
        if bench.identity(d, 0) != identity:
            raise BasinscopeError(
                f"{words[d].label} is another direction than when the run began",
                "files that stay as they are while they are measured",
                "run the same line again",
            )
    return bench


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    # the parent has gone: nobody waits for what is being measured
    os._exit(0)


def _frozen(value: Any) -> Any:
    """Lists as tuples, which a unit is made of."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _say(out: TextIO, news: dict[str, Any]) -> None:
    out.write(json.dumps(news) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
