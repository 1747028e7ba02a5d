"""What a run took, with everything it has started, and the processor it ran on."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

INTERVAL_S = 0.2  # between two looks at the memory
FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
# by which a processor is held to less than it has
HELD = (
    "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
)  # fmt: skip


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


def machine() -> dict[str, Any]:
    """The processor's name, those of its features that matter here, and what it is held to."""
    output = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    fields = dict(re.findall(r"^(.+?): +(.*)$", output, re.MULTILINE))
    flags = fields.get("Flags", "").split()
    return {
        "name": fields.get("Model name", "unknown"),
        "features": [feature for feature in FEATURES if feature in flags],
        "held to": {name: os.environ[name] for name in HELD if name in os.environ},
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }
