"""Items that had no answer: how many of each task, where and why. They count as wrong."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from basinscope.landscape import Landscape
    from basinscope.runs.store import Trial

MOST_REASONS, MOST_ITEMS = 2, 3  # that one line names


def failures(run: Landscape) -> list[str]:
    """One line for each task whose items had no answer at step 0, and one for all other steps."""
    lines = []
    for task in run.spec.tasks:
        own = [trial for trial in run.trials if trial.task == task.name]
        for where, trials in (
            ("at step 0", [t for t in own if t.direction is None]),
            ("at other steps", [t for t in own if t.direction is not None]),
        ):
            lines += _line(task.name, where, trials)
    return lines


def _line(task: str, where: str, trials: list[Trial]) -> list[str]:
    failed = [(t.items[i], t.labels[i]) for t in trials for i in t.failed]
    if not failed:
        return []
    reasons = Counter(reason for _, reason in failed).most_common()
    said = "; ".join(f"{n} times: {reason}" for reason, n in reasons[:MOST_REASONS])
    items = list(dict.fromkeys(item for item, _ in failed))
    named = ", ".join(items[:MOST_ITEMS]) + (", ..." if len(items) > MOST_ITEMS else "")
    more = len(reasons) - MOST_REASONS
    return [
        f"{task}: {len(failed)} of {sum(t.n for t in trials)} items had no answer {where} and "
        f"count as wrong ({said}{f'; {more} other reasons' if more > 0 else ''}; items {named})"
    ]
