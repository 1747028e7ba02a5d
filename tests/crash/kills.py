"""Kill command lines at random moments, run each again until it ends, and compare what is left."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from crash import lines, start
from crash.lines import LINES, Left, Line

AGAIN = 0.5  # of the runs that go on after a kill, how many are killed again


@dataclass
class Whole:
    """An uninterrupted run."""

    left: Left
    seconds: float
    writes: list[str]


class World:
    """A folder with what the lines need, and their uninterrupted runs."""

    def __init__(self, folder: Path, every: dict[str, Line] = LINES) -> None:
        self.folder, self.lines, self.runs = folder, every, 0
        folder.mkdir(exist_ok=True)
        self.finished: dict[str, Path] = {}
        self._whole: dict[str, Whole] = {}
        assert start.start(partial(lines.build, folder), self._new()).wait() == 0

    def whole(self, line: str) -> Whole:
        """The uninterrupted run of a line; its writes are counted."""
        if line not in self._whole:
            folder, count = self.begin(line), start.Count()
            began = time.monotonic()

            def work() -> None:
                self.command(line)
                (folder / "kinds").write_text("\n".join(count.kinds))

            code = start.start(work, folder, partial(start.watch, count, folder)).wait()
            assert code == 0, f"{line}: exit code {code}\n{said(folder)}"
            seconds = time.monotonic() - began
            kinds = (folder / "kinds").read_text().split()
            self.finished[line] = folder
            self._whole[line] = Whole(lines.left(self.lines[line], folder), seconds, kinds)
        return self._whole[line]

    def begin(self, line: str) -> Path:
        """Folder of a new run of a line."""
        after = self.lines[line].after
        if after:
            self.whole(after)
        folder = self._new(make=False)
        lines.begin(self.lines[line], folder, self.finished)
        return folder

    def run(self, line: str, folder: Path, *before: Callable[[], None]) -> start.Process:
        """Start a line."""
        return start.start(partial(self.command, line), folder, *before)

    def command(self, line: str) -> None:
        """Run a line in this process."""
        from basinscope import cli

        cli.main(self.lines[line].words.split())

    def differences(self, line: str, folder: Path) -> list[str]:
        """What a finished line has left otherwise than the uninterrupted one."""
        now = lines.left(self.lines[line], folder)
        return [f"{folder.name}: {word}" for word in now.differs(self.whole(line).left)]

    def _new(self, make: bool = True) -> Path:
        self.runs += 1
        folder = self.folder / f"{self.runs:04d}"
        if make:
            folder.mkdir()
        return folder


@dataclass
class Tally:
    """What was done to one line, and what came of it."""

    line: str
    kills: int = 0
    of_workers: int = 0
    runs: int = 0
    seconds: float = 0.0
    drafts: int = 0
    again: int = 0  # records that were there and were written again
    wrong: list[str] = field(default_factory=list)
    ends: int = 0  # runs that came to their end


def kill(world: World, line: str, quota: int, rng: random.Random) -> Tally:
    """Kill a line so many times; it goes on after each, and what it comes to is compared."""
    tally, whole = Tally(line), world.whole(line)
    while tally.kills + tally.of_workers < quota:
        folder, ended, fresh, kept = world.begin(line), False, True, {}
        while not ended:
            left = quota - tally.kills - tally.of_workers
            harm = left > 0 and (fresh or rng.random() < AGAIN)
            fresh, began = False, time.monotonic()
            if harm:
                code = _run(world, line, folder, whole, rng, tally)
            else:
                code = world.run(line, folder).wait()
            tally.seconds += time.monotonic() - began
            tally.runs += 1
            ended = code != -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                tally.wrong.append(f"exit code {code}: {said(folder)}")
            tally.kills += not ended
            now = records(folder)
            tally.again += sum(now.get(name) != state for name, state in kept.items())
            kept = now
        tally.ends += 1
        if code == 0:
            tally.wrong += world.differences(line, folder)
            tally.drafts += lines.left(world.lines[line], folder).drafts
    return tally


def records(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each record is."""
    states = ((path, path.stat()) for path in (folder / "run").glob("**/trials/*.json"))
    return {path.name: (state.st_ino, state.st_mtime_ns) for path, state in states}


def _run(
    world: World, line: str, folder: Path, whole: Whole, rng: random.Random, tally: Tally
) -> int:
    """Run a line that is killed at a random moment, if it has not ended before: the exit code.

    By turns at a time of the clock, before a write, and one worker alone where there are several.
    """
    ways = ["time", "write"] + ["worker"] * ("two workers" in line)
    way = rng.choice(ways)
    if way == "write":
        count = start.Count(rng.randint(1, len(whole.writes)), start.die)
        return world.run(line, folder, partial(start.watch, count, folder)).wait()
    process = world.run(line, folder)
    moment = time.monotonic() + rng.random() * whole.seconds
    while time.monotonic() < moment:
        if (code := process.ended()) is not None:
            return code
        time.sleep(0.001)
    if way == "worker":
        if workers := process.workers():
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                tally.of_workers += 1
        return process.wait()
    orphans = process.workers()
    process.kill()
    code = process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < deadline, "workers outlive who started them"
        time.sleep(0.002)
    return code


def clock(world: World, line: str, rng: random.Random) -> Tally:
    """Set the clock back in a run that is killed, and between it and the one that goes on."""
    tally, whole = Tally(line), world.whole(line)
    folder = world.begin(line)
    count = start.Count(rng.randint(1, len(whole.writes)), start.die)
    watched = partial(start.watch, count, folder)
    tally.kills += world.run(line, folder, start.set_clock_back, watched).wait() == -signal.SIGKILL
    later = time.time() + 1e7
    for path in (folder / "run").rglob("*"):
        os.utime(path, (later, later))  # from when the clock was right
    code = world.run(line, folder, start.set_clock_back).wait()
    tally.runs = 2
    if code:
        tally.wrong.append(f"exit code {code}: {said(folder)}")
        return tally
    tally.wrong += world.differences(line, folder)
    err = (folder / "err").read_text()
    tally.wrong += re.findall(r"about -.*|nan .*", err)
    return tally


def said(folder: Path) -> str:
    """The end of what a line has said."""
    return " ".join((folder / "err").read_text().split())[-600:]


def tables(world: World, chosen: Sequence[str], quota: int, rng: random.Random) -> int:
    """Kill the lines by turns, so often in all; print what came of it, return what is wrong."""
    share = dict.fromkeys(chosen, 0)
    for n in range(quota):
        share[chosen[n % len(chosen)]] += 1
    print(f"{'line':<24}{'kills':>6}{'workers':>8}{'runs':>6}{'ends':>6}{'s/kill':>8}"
          f"{'drafts':>8}{'again':>7}{'differ':>8}")  # fmt: skip
    return sum(_print(world, kill(world, line, n, rng)) for line, n in share.items() if n)


def clock_table(world: World, chosen: Sequence[str], rng: random.Random) -> int:
    """Set the clock back in each line; print what came of it, return what is wrong."""
    wrong = 0
    for line in chosen:
        tally = clock(world, line, rng)
        print(f"{line:<24} clock set back, {tally.kills} kills: {len(tally.wrong)} differ")
        for text in tally.wrong:
            print(f"  {text}", flush=True)
        wrong += len(tally.wrong)
    return wrong


def _print(world: World, tally: Tally) -> int:
    """A row of the table; how much is wrong."""
    kills = tally.kills + tally.of_workers
    lost = (tally.seconds - tally.ends * world.whole(tally.line).seconds) / max(1, kills)
    print(f"{tally.line:<24}{tally.kills:>6}{tally.of_workers:>8}{tally.runs:>6}{tally.ends:>6}"
          f"{lost:>8.1f}{tally.drafts:>8}{tally.again:>7}{len(tally.wrong):>8}")  # fmt: skip
    for text in tally.wrong:
        print(f"  {text}")
    sys.stdout.flush()
    return len(tally.wrong) + tally.again
