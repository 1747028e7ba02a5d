"""Wall clock, processor seconds and peak memory of this process and everything it has started."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

INTERVAL_S = 0.2  # between two looks at the memory


@dataclass
class Meter:
    """What a ``with`` block took, of this process and its descendants that live on.

    Memory is the sum of the processes' anonymous pages and, once, the file pages of the process
    that has most of them: workers map the same files. Sampled every fifth of a second.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Start the clocks."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._cpu, self._wall = cpu_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        self.wall_s = time.perf_counter() - self._wall
        self.cpu_s = cpu_s() - self._cpu
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, memory_bytes())
            if self._over.wait(INTERVAL_S):
                return


def family() -> list[int]:
    """This process and its descendants."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:  # it has just ended
            continue
    pids = [os.getpid()]
    for pid in pids:
        pids += [child for child, parent in parents.items() if parent == pid]
    return pids


def cpu_s() -> float:
    """Processor seconds so far, of all threads."""
    ticks = 0
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes() -> int:
    """Anonymous pages of all, and the file pages of the largest."""
    anonymous, files = 0, 0
    for pid in family():
        try:
            private, mapped = pages(pid)
        except OSError:
            continue
        anonymous += private
        files = max(files, mapped)
    return anonymous + files


def pages(pid: int) -> tuple[int, int]:
    """Bytes of a process's anonymous pages, its share of those it has in common, and of files."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    held = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    return held["Pss_Anon"] + held.get("Pss_Shmem", 0), held["Rss"] - held["Anonymous"]
