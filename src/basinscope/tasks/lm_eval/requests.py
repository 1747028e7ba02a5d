"""What lm-eval asks of a model, as requests to an engine.

lm-eval asks one continuation at a time; here those behind the same text become one `Choices`, and
what the texts of a task begin with in common is its ``prefix``. Of a chat lm-eval is given the
messages themselves, `Written`, in place of a template's text: the template is the model's, and
stands around them when it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import LIKE_LM_EVAL, OPENING, Chat, Choices, Generate, Request, Turns

Place = tuple[int, int]
"""Where an instance's answer is: number of the request, and of the continuation in it."""

Asked = tuple[Chat, Turns, str]
"""Whether in a chat, the turns of it, and the text or the user's message."""

_LENGTHS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_OF_SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p")  # greedy decoding ignores them
_MAX_TOKENS: Final = 256


class Written(str):
    """Stands for a chat's text; whatever joins or cuts it makes plain text of it."""

    messages: Turns


def written(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    """Messages of a chat where lm-eval asks for the text that a model's template makes of them.

    Args:
        messages: role and content of each.
        add_generation_prompt: false where the model goes on with the last one.

    Returns:
        Plain text where what the model is to answer is not the user's, as in no task of lm-eval's.
    """
    turns = [(message["role"], message["content"]) for message in messages]
    text, at = "".join(f"[{role}]{content}" for role, content in turns), -1
    if not add_generation_prompt:
        turns[-1], at = (OPENING, turns[-1][1]), -2
    if [role for role, _ in turns[at:][:1]] != ["user"]:
        return text
    whole = Written(text)
    whole.messages = tuple(turns)
    return whole


def split(instance: Any) -> tuple[Asked, str]:
    """How a context is asked with, and the continuation.

    Blanks that end the one begin the other, as with lm-eval's models: else a blank would be a token
    of its own, which the model hardly ever saw there. Of a chat that is left to the engine.
    """
    context, continuation = instance.arguments[:2]
    asked = _asked(context)
    if asked[0]:
        return asked, continuation
    bare = context.rstrip()
    return (False, (), bare), context[len(bare) :] + continuation


def _asked(context: str) -> Asked:
    if not isinstance(context, Written):
        return False, (), context
    turns = list(context.messages)
    _, message = turns.pop(-2 if turns[-1][0] == OPENING else -1)
    return LIKE_LM_EVAL, tuple(turns), message


def common_prefix(instances: Sequence[Any]) -> str:
    """What the contexts of all loglikelihood instances begin with; of chats, the last messages."""
    contexts = {split(i)[0][2] for i in instances if i.request_type == "loglikelihood"} - {""}
    if not contexts:
        return ""
    low, high = min(contexts), max(contexts)
    differ = (k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(differ, len(low))]


def requests_of(
    task: str, instances: Sequence[Any], prefix: str
) -> tuple[tuple[Request, ...], tuple[Place, ...]]:
    """Requests of one document's instances, and each instance's place in them."""
    behind: dict[Asked, list[str]] = {}
    for instance in instances:
        if instance.request_type == "loglikelihood":
            asked, continuation = split(instance)
            behind.setdefault(asked, []).append(continuation)
    requests: list[Request] = []
    for (how, turns, context), continuations in behind.items():
        shared = prefix if context.startswith(prefix) else ""
        requests.append(Choices(context[len(shared) :], tuple(continuations), shared, how, turns))
    places: list[Place] = []
    taken = dict.fromkeys(behind, 0)
    for instance in instances:
        if instance.request_type == "loglikelihood":
            asked, _ = split(instance)
            places.append((list(behind).index(asked), taken[asked]))
            taken[asked] += 1
        elif instance.request_type == "generate_until":
            places.append((len(requests), 0))
            requests.append(_generate(task, *instance.arguments[:2]))
        else:
            raise BasinscopeError(
                f"lm-eval task {task!r} asks for {instance.request_type}",
                "loglikelihood, multiple_choice or generate_until, whose score is 0 or 1",
                "another task",
            )
    return tuple(requests), tuple(places)


def _generate(task: str, context: str, settings: Mapping[str, Any]) -> Generate:
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
    how, turns, prompt = _asked(context)
    return Generate(prompt, int(length), tuple(s for s in stops if s), how, turns=turns)
