"""What every command shares: the application, steps, the progress bar, output and exit codes."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from basinscope.errors import BasinscopeError

if TYPE_CHECKING:
    from basinscope.runs.session import Progress as Report

app = cyclopts.App(
    name="basinscope",
    help="How far can these weights move before a capability is lost?",
    help_format="plaintext",  # no markup: 0.3*A+0.7*B is meant as it stands
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says how to resume
    default_parameter=Parameter(negative=()),  # no --no-json, no --empty-direction
)
screen = Console(stderr=True)
LOG_EVERY_S = 30.0


MOST_STEPS = 10_000


def parse_steps(text: str) -> list[float]:
    """Steps of ``LO:HI:N`` (inclusive) or of a comma list.

    Raises:
        BasinscopeError: for anything else.

    >>> parse_steps("0:0.03:4")
    [0.0, 0.01, 0.02, 0.03]
    """
    wrong = BasinscopeError(
        f"steps {text!r}",
        f"allowed: LO:HI:N with LO < HI and N from 2 to {MOST_STEPS}, or finite numbers by commas",
        "for example --steps -0.03:0.03:13 or --steps 0,0.005,0.01",
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
    """Run the command line: 0 done, 2 the user's error in one line, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BasinscopeError as error:
        _fail(str(error))
    except cyclopts.CycloptsError as error:
        _fail(" ".join(str(error).split()) + "; try: basinscope --help")
    except KeyboardInterrupt:
        line = shlex.join(["basinscope", *given])
        sys.stderr.write(f"\ninterrupted; what was measured is kept; to resume: {line}\n")
        sys.exit(130)
    except BrokenPipeError:
        # whoever read (head, less) has gone: let the flush at exit go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _fail(message: str) -> None:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(2)


@contextmanager
def progress(plan: str = "", unit: str = "trials") -> Iterator[Report]:
    """Print the plan and show a bar, as soon as the run has passed its checks.

    Args:
        plan: default what the first report says.
        unit: what is counted.
    """
    bar = Progress(
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
    )
    line, said = bar.add_task("starting", total=None), time.monotonic()

    def update(done: int, planned: int, what: str) -> None:
        nonlocal said
        if not bar.live.is_started:
            kept = f"; {done} of {planned} {unit} are there already" if done else ""
            screen.print((plan or what) + kept, highlight=False, markup=False, soft_wrap=True)
            bar.start()
            what = what if plan else ""
        bar.update(line, completed=done, total=planned, description=what or "measuring")
        # a log has no bar: a line now and then instead
        if not screen.is_terminal and time.monotonic() - said > LOG_EVERY_S:
            said = time.monotonic()
            left = bar.tasks[0].time_remaining
            rest = f", about {left / 60:.1f} min left" if left is not None else ""
            screen.print(f"{done} of {planned} {unit}{rest}", highlight=False)

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()


def print_json(value: object) -> None:
    """Print one JSON object: what ``--json`` promises of standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def run_folder(model: str, suffix: str = "") -> Path:
    """Where a model's records go if the line does not say."""
    name = Path(model).resolve().name.removesuffix(".gguf") or "run"
    return Path("runs") / (name + suffix)
