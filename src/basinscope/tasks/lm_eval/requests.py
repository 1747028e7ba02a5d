"""What lm-eval asks of a model, as requests to an engine.

lm-eval asks one continuation at a time; here those behind the same text become one `Choices`, and
what the texts of a task begin with in common is its ``prefix``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Choices, Generate, Request

Place = tuple[int, int]
"""Where an instance's answer is: number of the request, and of the continuation in it."""

_LENGTHS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_OF_SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p")  # greedy decoding ignores them
_MAX_TOKENS: Final = 256


def split(instance: Any) -> tuple[str, str]:
    """Context and continuation; blanks that end the one begin the other, as with lm-eval's models.

    Otherwise the blank would be a token of its own, which the model hardly ever saw there.
    """
    context, continuation = instance.arguments[:2]
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def common_prefix(instances: Sequence[Any]) -> str:
    """What the contexts of all loglikelihood instances begin with."""
    contexts = {split(i)[0] for i in instances if i.request_type == "loglikelihood"} - {""}
    if not contexts:
        return ""
    low, high = min(contexts), max(contexts)
    differ = (k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(differ, len(low))]


def requests_of(
    task: str, instances: Sequence[Any], prefix: str
) -> tuple[tuple[Request, ...], tuple[Place, ...]]:
    """Requests of one document's instances, and each instance's place in them."""
    behind: dict[str, list[str]] = {}
    for instance in instances:
        if instance.request_type == "loglikelihood":
            context, continuation = split(instance)
            behind.setdefault(context, []).append(continuation)
    requests: list[Request] = []
    for context, continuations in behind.items():
        shared = prefix if context.startswith(prefix) else ""
        requests.append(Choices(context[len(shared) :], tuple(continuations), shared))
    places: list[Place] = []
    taken = dict.fromkeys(behind, 0)
    for instance in instances:
        if instance.request_type == "loglikelihood":
            context, _ = split(instance)
            places.append((list(behind).index(context), taken[context]))
            taken[context] += 1
        elif instance.request_type == "generate_until":
            prompt, settings = instance.arguments[:2]
            places.append((len(requests), 0))
            requests.append(_generate(task, prompt, settings))
        else:
            raise BasinscopeError(
                f"lm-eval task {task!r} asks for {instance.request_type}",
                "loglikelihood, multiple_choice or generate_until, whose score is 0 or 1",
                "another task",
            )
    return tuple(requests), tuple(places)


def _generate(task: str, prompt: str, settings: Mapping[str, Any]) -> Generate:
    """Greedy request with the settings of a task's ``generation_kwargs``."""
    rest = dict(settings)
    stop = rest.pop("until", None) or []
    lengths = [rest.pop(name, None) for name in _LENGTHS]
    length = next((n for n in lengths if n is not None), _MAX_TOKENS)
    sample = rest.pop("do_sample", None)
    heat = float(rest.get("temperature") or 0.0)
    if sample or (sample is None and heat > 0):
        raise BasinscopeError(
            f"lm-eval task {task!r} samples its texts (do_sample={sample}, temperature={heat:g})",
            "greedy texts, so that every weight setting is asked the same",
            "set do_sample: false in a YAML file that includes the task's",
        )
    if odd := sorted(rest.keys() - set(_OF_SAMPLING)):
        raise BasinscopeError(
            f"lm-eval task {task!r}: generation_kwargs {', '.join(odd)}",
            f"until, do_sample: false, {_LENGTHS[0]}",
            "leave the others out in a YAML file that includes the task's",
        )
    stops = [stop] if isinstance(stop, str) else list(stop)
    return Generate(prompt, int(length), tuple(s for s in stops if s))
