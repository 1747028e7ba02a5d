"""Which metrics of an lm-eval task are 0 or 1 for each document, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from basinscope.errors import BasinscopeError, nearest
from basinscope.tasks.lm_eval.library import library

BINARY: Final = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    "loglikelihood": ("acc",),
    "generate_until": ("exact_match",),
    "loglikelihood_rolling": (),
}
_MEANS: Final = ("mean", "nanmean")


def judged(settings: Mapping[str, Any]) -> dict[str, str]:
    """Metrics that a task's settings list, each with the reason for which it is refused, or "".

    A metric of a function of the task's own passes if its mean is taken; whether it is 0 or 1 for
    each document is tried on made-up answers when the task has been built.
    """
    kind = settings.get("output_type", "generate_until")
    listed = settings.get("metric_list")
    if listed is None:
        if settings.get("class"):
            return {}
        names = library().registry.DEFAULT_METRIC_REGISTRY.get(kind, ())
        listed = [{"metric": name} for name in names]
    by_function = settings.get("process_results") is not None
    return {_name(entry["metric"]): _refusal(entry, kind, by_function) for entry in listed}


def needs_hub(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether lm-eval would fetch the code of a metric from the hub and run it."""
    name = str(entry["metric"])
    if settings.get("process_results") is not None or "/" in name:
        return False
    return bool(entry.get("hf_evaluate")) or name not in library().registry.METRIC_REGISTRY


def _name(metric: Any) -> str:
    """Name of a metric; a function's is given as a path, FOLDER/MODULE.NAME."""
    text = str(metric)
    return text.rpartition(".")[2] if "/" in text else text


def _refusal(entry: Mapping[str, Any], kind: str, by_function: bool) -> str:
    name, registry = str(entry["metric"]), library().registry
    if needs_hub(entry, {"process_results": by_function or None}):
        return "its code would be fetched from the hub and run"
    how = entry.get("aggregation")
    if how is None:
        aggregation = registry.METRIC_AGGREGATION_REGISTRY.get(name, None)
        how = next(
            (n for n, f in registry.AGGREGATION_REGISTRY.items() if f is aggregation), "unknown"
        )
    if str(how) not in _MEANS:
        return f"its score is {_name(how)} over the whole set, no mean over documents"
    higher = entry.get("higher_is_better", registry.HIGHER_IS_BETTER_REGISTRY.get(name, True))
    if str(higher).lower() == "false":
        return "lower is better"
    if not by_function and "/" not in name and name not in BINARY.get(kind, ()):
        return f"with {kind} it is not 0 or 1 for each document"
    return ""


def chosen(task: str, wanted: str, refusals: Mapping[str, str]) -> str:
    """The metric asked for, or the first that is allowed.

    Raises:
        BasinscopeError: If it is refused (with the reason and those that are allowed), if there is
            none of that name, or none that is allowed.
    """
    allowed = [name for name, reason in refusals.items() if not reason]
    if not wanted and allowed:
        return allowed[0]
    if wanted in allowed:
        return wanted
    listed = ", ".join(allowed) or "none of this task's"
    if wanted and wanted not in refusals:
        raise BasinscopeError(
            f"lm-eval task {task!r} has no metric {wanted!r}",
            listed,
            nearest(wanted, allowed) if allowed else "another task",
        )
    refused = {wanted: refusals[wanted]} if wanted else refusals
    reasons = "; ".join(f"metric {name!r}: {reason}" for name, reason in refused.items())
    raise BasinscopeError(
        f"lm-eval task {task!r}: {reasons or 'it names no metric'}",
        f"metrics that are 0 or 1 for each document: {listed}",
        f"@{allowed[0]}" if allowed else "another task",
    )
