"""Let the disk fail at every write of a command line in turn, and see that it goes on from there.

A line whose disk fails ends with exit code 2 and one line that says so, or shows what it measured
without the picture or page that could not be written. What it leaves is a part of what the
uninterrupted run leaves, and the next run comes to all of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from crash import lines, start
from crash.kills import World, said

OTHERS = 7  # each so-maniest write fails with another error too


def table(world: World, chosen: Sequence[str], every: int) -> int:
    """Fail at the writes of each line; print what came of it, return how much is wrong."""
    print(f"{'line':<24}{'writes':>7}{'fails':>7}{'code 2':>8}{'shown':>7}{'states':>8}"
          f"{'wrong':>7}{'s':>6}")  # fmt: skip
    total = 0
    for line in chosen:
        began, ends, wrong, states = time.monotonic(), Counter[str](), [], {}
        fails = 0
        for number, at in places(world.whole(line).writes, every):
            fails += 1
            end, reasons = fail(world, line, number, at, states)
            ends[end] += 1
            wrong += reasons
        print(f"{line:<24}{len(world.whole(line).writes):>7}{fails:>7}{ends['refused']:>8}"
              f"{ends['shown']:>7}{len(states):>8}{len(wrong):>7}"
              f"{time.monotonic() - began:>6.0f}", flush=True)  # fmt: skip
        for text in wrong:
            print(f"  {text}", flush=True)
        total += len(wrong)
    return total


def places(writes: Sequence[str], every: int) -> Iterator[tuple[int, int]]:
    """Which write fails with which error, counted from 1: a full disk cannot refuse to delete."""
    for at, kind in enumerate(writes, 1):
        if (at - 1) % every:
            continue
        if kind not in ("unlink", "rmdir"):
            yield errno.ENOSPC, at
        if at % OTHERS == 0 or (kind in ("unlink", "rmdir") and at % 3 == 0):
            yield (errno.EIO, errno.EROFS)[at % 2], at


def fail(
    world: World, line: str, number: int, at: int, states: dict[str, list[str]]
) -> tuple[str, list[str]]:
    """Fail at one write: how the line ended, and what is wrong with that or with the next run.

    Args:
        world: where.
        line: its name.
        number: of the error.
        at: which write, from 1.
        states: what the next run came to from what such a run had left, by the hash of that; one
            that is new is added.
    """
    whole, folder = world.whole(line), world.begin(line)
    count = start.Count(at, start.fail(number))
    code = world.run(line, folder, partial(start.watch, count, folder)).wait()
    where = f"{errno.errorcode[number]} at {at} ({whole.writes[at - 1]})"
    wrong, err = [], (folder / "err").read_text()
    lines_of_error = [text for text in err.splitlines() if text.startswith("error: ")]
    if code == 2 and len(lines_of_error) == 1:
        end = "refused"
        if not re.search(re.escape(os.strerror(number)), lines_of_error[0]):
            wrong.append(f"{where}: does not say why: {lines_of_error[0][:200]}")
    elif code == 0:
        end = "shown"
    else:
        end = "broken"
        wrong.append(f"{where}: exit code {code}: {said(folder)}")
    if "Traceback" in err:
        wrong.append(f"{where}: a traceback")
    left = _files(folder / "run")
    for name, digest in left.items():
        if "trials" in name and digest != whole.left.files.get(name):
            wrong.append(f"{where}: left {name}, which is no record of the whole run")
    state = _state(folder)
    if state not in states:
        next_code = world.run(line, folder).wait()
        states[state] = world.differences(line, folder) if next_code == 0 else [
            f"the next run ends with {next_code}: {said(folder)}"
        ]  # fmt: skip
        wrong += [f"{where}: {reason}" for reason in states[state]]
    shutil.rmtree(folder)
    return end, wrong


def _files(run: Path) -> dict[str, str]:
    paths = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): lines.digest(path) for path in paths}


def _state(folder: Path) -> str:
    """Hash of what a run has left, names of drafts apart."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: re.sub(r"draft-\w+", "", str(path))):
        if path.name not in ("out", "err"):
            name = re.sub(r"draft-\w+", "draft", str(path.relative_to(folder)))
            state.update(name.encode() + b"\0")
            state.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
    return state.hexdigest()
