"""What every command shares: the application, steps, the progress bar, output and exit codes."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import cyclopts
from cyclopts import Parameter
from cyclopts.help import DefaultFormatter, HelpPanel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from basinscope import points
from basinscope.errors import BasinscopeError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from basinscope.runs.session import Progress as Report


class Wrapped(DefaultFormatter):
    """Help whose lines end where the terminal's do, not where those of the source did."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print one panel."""
        for entry in panel.entries:
            text = getattr(entry.description, "primary_renderable", None)
            if isinstance(text, Text):
                entry.description.primary_renderable = Text(" ".join(text.plain.split()))
        super().__call__(console, options, panel)


app = cyclopts.App(
    name="basinscope",
    help="How far can these weights move before a capability is lost?",
    help_formatter=Wrapped(),
    help_format="plaintext",  # no markup: 0.3*A+0.7*B is meant as it stands
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says how to resume
    default_parameter=Parameter(negative=()),  # no --no-json, no --empty-direction
)
screen = Console(stderr=True)
LOG_EVERY_S = 30.0
_until_end = ExitStack()
"""What `main` closes when a command ends."""


MOST_STEPS = 10_000


def parse_steps(text: str, name: str = "steps") -> list[float]:
    """Steps, or what else is called ``name``, of ``LO:HI:N`` (inclusive) or of a comma list.

    Raises:
        BasinscopeError: for anything else.

    >>> parse_steps("0:0.03:4")
    [0.0, 0.01, 0.02, 0.03]
    """
    wrong = BasinscopeError(
        f"{name} {text!r}",
        f"LO:HI:N with LO < HI and N from 2 to {MOST_STEPS}, or finite numbers by commas",
        f"--{name} -0.03:0.03:13 or --{name} 0,0.005,0.01",
    )
    try:
        if ":" in text:
            low, high, count = text.split(":")
            a, b, n = float(low), float(high), int(count)
            if not 2 <= n <= MOST_STEPS or not a < b:
                raise wrong
            steps = [float(f"{a + (b - a) * i / (n - 1):.12g}") for i in range(n)]
        else:
            steps = [float(part) for part in text.split(",")]
    except ValueError:
        raise wrong from None
    if not all(math.isfinite(s) for s in steps):
        raise wrong
    return steps


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: 0 done, 2 the user's error in one line, 130 interrupted.

    Of check 1 is lost and 3 undecided; of fingerprint 1 is different.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it cannot write is escaped, not lost
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _until_end:
            app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BasinscopeError as error:
        _fail(error)
    except cyclopts.CycloptsError as error:
        _fail(_usage(error))
    except KeyboardInterrupt:
        line = printable(shlex.join(["basinscope", *words]))
        sys.stderr.write(f"\ninterrupted; what was measured is kept; to resume: {line}\n")
        sys.exit(130)
    except BrokenPipeError:
        # whoever read (head, less) has gone: let the flush at exit go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _usage(error: cyclopts.CycloptsError) -> BasinscopeError:
    """What cyclopts says of a line, in our form."""
    text = re.sub(r"(?<!\.)\.$", "", " ".join(str(error).split()))
    near = re.search(r'Did you mean "?([^"?]+)', text)
    listed = re.search(r"(?:Choose from|Available commands): (.+)", text)
    return BasinscopeError(
        text.partition(". ")[0],
        listed[1] if listed else "what its help lists",
        near[1] if near else " ".join(["basinscope", *(error.command_chain or ()), "--help"]),
    )


def _fail(message: BasinscopeError) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)


@contextmanager
def progress(
    plan: str = "",
    unit: str = "trials",
    note: str = "",
    tracker: str | None = None,
    run: Path | str = "",
) -> Iterator[Report]:
    """Print the plan and show a bar, as soon as the run has passed its checks.

    Args:
        plan: default what the first report says.
        unit: what is counted.
        note: a line before the plan.
        tracker: word of one that is told all figures until the command ends.
        run: its name there.
    """
    if tracker is not None:
        from basinscope.tracking import track

        command = printable(shlex.join(["basinscope", *sys.argv[1:]]))
        _until_end.enter_context(track(tracker, str(run), {"command": command}))
    bar = Progress(
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
    )
    line, logged_s = bar.add_task("starting", total=None), time.monotonic()

    def update(done: int, planned: int, place: str) -> None:
        nonlocal logged_s
        if not bar.live.is_started:
            there = f"; {done} of {planned} {unit} are there already" if done else ""
            for text in filter(None, (note, (plan or place) + there)):
                screen.print(printable(text), highlight=False, markup=False, soft_wrap=True)
            bar.start()
            place = place if plan else ""
        bar.update(line, completed=done, total=planned, description=printable(place) or "measuring")
        # a log has no bar: a line now and then instead
        if not screen.is_terminal and time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            left_s = bar.tasks[0].time_remaining
            rest = f", about {left_s / 60:.1f} min left" if left_s is not None else ""
            screen.print(f"{done} of {planned} {unit}{rest}", highlight=False)

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()


T = TypeVar("T")


def drawn(name: str, make: Callable[[], T]) -> T | None:
    """A picture or page; None where it cannot be made, with the reason on standard error."""
    from basinscope.report.sections import attempt

    missing: list[str] = []
    made = attempt(name, make, missing)
    for line in missing:
        sys.stderr.write(f"- {printable(line)}\n")
    return made


def say(*values: object, sep: str = " ") -> None:
    """Print to standard output what people read, which may hold any model's or user's text."""
    print(printable(sep.join(map(str, values))))


def answer(make: Callable[[], Mapping[str, Any]], as_json: bool) -> bool:
    """Send a command's results to whoever follows it, and print them if ``--json`` asks for that.

    Returns:
        Whether they are printed: else the command has its own text.
    """
    figures = make() if as_json or points.are_heard() else {}
    if points.are_heard():
        from basinscope.tracking import rows

        for row in rows(figures):
            points.send(row)
    if as_json:
        print_json(figures)
    return as_json


def print_json(value: object) -> None:
    """Print one JSON object: what ``--json`` promises of standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
