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

OTHERS = 5  # each so-maniest write fails with another error too


def table(world: World, chosen: Sequence[str], every: int) -> int:
    """Fail at the writes of each line; print what came of it, return how much is wrong."""
    print(f"{'line':<24}{'writes':>7}{'fails':>7}{'code 2':>8}{'shown':>7}{'states':>8}"
          f"{'wrong':>7}{'s':>6}")  # fmt: skip
    total = 0
    for line in chosen:
        began, ends, wrong, states = time.monotonic(), Counter[str](), [], {}
        chosen_places = list(places(world.whole(line).writes, every))
        folders = [world.begin(line) for _ in chosen_places]
        for (number, at), folder, code in zip(
            chosen_places, folders, fail_each(world, line, chosen_places, folders), strict=True
        ):
            end, reasons = judge(world, line, number, at, folder, code, states)
            ends[end] += 1
            wrong += reasons
        print(f"{line:<24}{len(world.whole(line).writes):>7}{len(folders):>7}{ends['refused']:>8}"
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
        if at % OTHERS == 0:
            yield (errno.EIO, errno.EROFS)[at % 2], at


def fail_each(
    world: World, line: str, at: Sequence[tuple[int, int]], folders: Sequence[Path]
) -> list[int]:
    """Run a line once for each failure, in a folder each: exit codes.

    What comes before the first write (imports, loading) is done once: the process forks there.
    """
    folder, codes = world.begin(line), world.folder.with_suffix(".codes")  # not watched
    codes.write_text("")

    class Fork:
        count = None

        def __call__(self, kind: str, path: Path) -> None:
            if self.count is None:
                start.check_threads()
                for (number, k), place in zip(at, folders, strict=True):
                    pid = os.fork()
                    if not pid:
                        start.enter(place)
                        self.count = start.Count(k, start.fail(number))
                        break
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with codes.open("a") as file:
                        file.write(f"{code}\n")
                else:
                    os._exit(0)
            self.count(kind, path)

    watched = partial(start.watch, Fork(), world.folder)
    assert world.run(line, folder, watched).wait(3600.0) == 0, said(folder)
    return [int(code) for code in codes.read_text().split()]


def judge(
    world: World,
    line: str,
    number: int,
    at: int,
    folder: Path,
    code: int,
    states: dict[str, list[str]],
) -> tuple[str, list[str]]:
    """How a line ended whose disk failed, and what is wrong with that or with the next run.

    Args:
        world: where.
        line: its name.
        number: of the error.
        at: which write, from 1.
        folder: what it left.
        code: with which it ended.
        states: what the next run came to from what such a run had left, by the hash of that; one
            that is new is added.
    """
    whole = world.whole(line)
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
