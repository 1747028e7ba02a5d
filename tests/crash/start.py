"""Command lines as processes that are forked from a warm one, and what is done to them.

Imports take seconds and a toy's line takes less, so the process that forks has imported
everything. It never computes anything: it has one thread, and holds no lock that a child waits for.
A child has a process group of its own, and a signal 9 is a real one.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
    "SOURCE_DATE_EPOCH": "0", "MPLBACKEND": "agg", "COLUMNS": "200",
}  # fmt: skip
"""Of the warm process, from before its first import."""

WARM = (
    "basinscope.cli", "basinscope.folders", "basinscope.comparison",
    "basinscope.finetuning.trainer", "basinscope.report.landscapes", "basinscope.report.pages",
    "basinscope.report.surfaces",
    "basinscope.report.certificates", "basinscope.geometries.words", "basinscope.certify.tokens",
    "basinscope.attack.run",
    "basinscope.engines.gradient", "basinscope.weights.kernels",
    "transformers.models.gpt2.modeling_gpt2", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.trainer", "peft", "accelerate",
    "datasets", "plotly.graph_objects", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf", "jinja2", "pandas", "safetensors.torch", "scipy.stats",
    "fixed_run",
)  # fmt: skip

Strike = Callable[[str, Path], None]
"""Called before anything is written, with what is to be done and where."""


def warm() -> None:
    """Import what a child will need; pictures are drawn, but painting takes too long here."""
    for name in WARM:
        with suppress(ImportError):
            importlib.import_module(name)
    check_threads()
    figure = sys.modules["matplotlib.figure"].Figure
    figure.savefig = lambda self, path, **_: Path(path).write_bytes(b"a picture")


def check_threads() -> None:
    """Refuse to fork where another thread might hold a lock."""
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    others = [name for name in threads if name != "jemalloc_bg_thd"]  # which knows of forks
    assert len(others) == 1, f"threads {others}: a fork would not be clean"


class Process(NamedTuple):
    """A forked child, the leader of its process group."""

    pid: int

    def kill(self) -> None:
        """End the whole group at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> int | None:
        """Exit code, or minus the signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float = 180.0) -> int:
        """Exit code, or minus the signal; one that hangs is an error."""
        deadline = time.monotonic() + seconds
        while (code := self.ended()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"process {self.pid} did not end")
            time.sleep(0.002)
        return code

    def workers(self) -> list[int]:
        """Its worker processes, which lead groups of their own."""
        return [pid for pid in children(self.pid) if b"runs.worker" in _cmdline(pid)]


def start(work: Callable[[], None], folder: Path, *before: Callable[[], None]) -> Process:
    """Fork a process that works in a folder, with what it prints in the files out and err.

    Args:
        work: what it does.
        folder: its working directory, and where caches and temporary files go.
        before: called first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        return Process(pid)
    code = 70
    try:
        enter(folder)
        import torch

        torch.set_num_threads(1)
        for prepare in before:
            prepare()
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def enter(folder: Path) -> None:
    """Work in a folder from now on, in a process group of one's own."""
    os.setpgid(0, 0)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(_OPEN(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    with suppress(FileExistsError):
        _MKDIR("tmp")
    os.environ |= {"BASINSCOPE_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    tempfile.tempdir = None


def children(pid: int) -> list[int]:
    """Processes whose parent is this one."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                pids.append(int(stat.parent.name))
    return pids


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# --- the disk -----------------------------------------------------------------------------------


def watch(strike: Strike, within: Path) -> None:
    """Have this process call ``strike`` before everything that it writes within a folder.

    Python's own ways to write are watched, and safetensors' (whose file is written by Rust).
    """
    place = os.path.realpath(within)

    def inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return os.path.realpath(os.fsdecode(path)).startswith(place + os.sep)

    def replaced(module: Any, name: str, kinds: Callable[..., Iterable[str]]) -> None:
        real = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            for kind in kinds(*args, **kwargs):
                path = args[1] if module in SAVERS else args[0]
                if inside(path):
                    strike(kind, Path(os.fsdecode(path)))
            return real(*args, **kwargs)

        setattr(module, name, call)

    def opened(file: Any, mode: str = "r", *_: Any, **__: Any) -> Iterable[str]:
        return ("open", "write") if set("wax+") & set(mode) else ()

    def opened_low(_: Any, flags: int, *__: Any, **___: Any) -> Iterable[str]:
        return ("open",) if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ()

    SAVERS = set()
    for name in ("safetensors.torch", "transformers.modeling_utils", "peft.peft_model"):
        module = sys.modules.get(name)
        for saver in ("save_file", "safe_save_file"):
            if hasattr(module, saver):
                SAVERS.add(module)
                replaced(module, saver, lambda *_, **__: ("save",))
    replaced(io, "open", opened)
    builtins.open = io.open
    replaced(os, "open", opened_low)
    for name in ("rename", "replace", "mkdir", "unlink", "rmdir"):
        replaced(os, name, lambda *_, _name=name, **__: (_name,))
    real_fsync = os.fsync

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if inside(path):
            strike("fsync", Path(path))
        real_fsync(handle)

    os.fsync = fsync


class Count:
    """Counts what is written, and does something before the k-th time.

    Args:
        at: k, from 1; None to count alone.
        act: what is done.
        skip: kinds that are not counted.
    """

    def __init__(
        self, at: int | None = None, act: Strike | None = None, skip: tuple[str, ...] = ()
    ) -> None:
        self.at, self.act, self.skip = at, act, skip
        self.kinds: list[str] = []

    def __call__(self, kind: str, path: Path) -> None:
        if kind in self.skip or path.name in ("out", "err"):
            return
        self.kinds.append(kind)
        if len(self.kinds) == self.at:
            assert self.act is not None
            self.act(kind, path)


def fail(number: int) -> Strike:
    """The disk's error of this number; what is half written stays there."""

    def act(kind: str, path: Path) -> None:
        if kind in ("write", "save"):
            handle = _OPEN(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.write(handle, b"half")
            os.close(handle)
        if kind == "save":
            from safetensors import SafetensorError

            said = f"I/O error: {os.strerror(number)} (os error {number})"
            raise SafetensorError(f"Error while serializing: {said}")
        raise OSError(number, os.strerror(number), str(path))

    return act


def die(_kind: str, _path: Path) -> None:
    """Signal 9 to one's own process group."""
    os.killpg(0, signal.SIGKILL)


_OPEN, _MKDIR = os.open, os.mkdir  # which are not watched


# --- the clock ----------------------------------------------------------------------------------


def set_clock_back(jump_s: float = 86_400.0) -> None:
    """Have the time of day of this process go back a day at every call, as if someone set it."""
    real, real_ns, calls = time.time, time.time_ns, [0]

    def now() -> float:
        calls[0] += 1
        return real() - jump_s * calls[0]

    time.time = now
    time.time_ns = lambda: real_ns() - int(now() * 0 + jump_s * calls[0] * 1e9)
