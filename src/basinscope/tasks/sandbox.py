"""Run generated code where it can do no harm and cannot talk its way to a pass.

`run_program` starts two interpreters, each in a bubblewrap sandbox of its own. One loads the
program; the other holds the tests, calls the program's functions through a socket and decides. The
verdict leaves the second under a random nonce that only it was given.

*What each sandbox is.* Fresh user, mount, process, network, IPC, UTS and cgroup namespaces; no
capabilities; no network device but an idle loopback. The file system holds ``/usr``, ``/lib*`` and
the interpreter's own prefix, read-only, with ``/dev/null`` and ``/dev/urandom``: no home, no
``/proc``, no ``/sys``, none of the environment. ``/tmp`` is private, small and gone at the end. A
seccomp filter (`basinscope.tasks.seccomp`) refuses new processes and threads, sockets, reaching
into other processes, and memory that no limit counts. Address space, CPU time, file size and open
files are limited; a wall clock kills everything, and so does a watch over the number of files in
``/tmp``. Standard output goes nowhere, so there is nothing to fill and no terminal to reach.

*What cannot yield a pass.* Leaving early by any exit, printing a verdict, patching builtins or the
harness, walking frames or memory in search of a secret, closing or flooding descriptors, killing
whatever can be seen: the program does all of it in an interpreter that has no say. Values arrive
as plain data, so objects with an ``__eq__`` of their own are equal to nothing.

*What is not prevented.* A function may recognise the arguments of a test and return a remembered
answer. With tests that call nothing, "passed" is only the program's claim that it loaded. Until its
time is over the program may use one core. It can read ``/usr`` and the interpreter's prefix. A bug
in the kernel or in bubblewrap may let it out.

*How it differs from running all in one interpreter.* Only the standard library is there. Arguments
and results are copied: a change the function makes to its argument stays with the program, a
subclass becomes its base (a `Counter` is a `dict`), and values that are not plain data (a
`Fraction`, a `deque`, an object) equal nothing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from basinscope.errors import BasinscopeError
from basinscope.tasks import seccomp

STARTUP_S: Final = 30.0  # both interpreters up; takes 0.1 s on an idle machine
_OPEN_FILES: Final = 64
_MOST_FILES: Final = 10_000  # in /tmp: each takes about a kilobyte of the kernel's memory
_WATCH_S: Final = 0.05
_REPORT_BYTES: Final = 1 << 16
_LEAST_MEMORY: Final = 64 << 20
_INSIDE: Final = Path(__file__).with_name("sandboxed.py")
_INSIDE_SEEN: Final = "/sandboxed.py"


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    ``reason`` is one line: a kind, and after a colon what is known besides. Kinds: "passed";
    "failed" (a test was not met); "error" (the program raised); "exited" (it ended before its
    tests); "timeout". ``seconds`` is the wall-clock time from the loading of the program on.
    """

    passed: bool
    reason: str
    seconds: float

    @property
    def kind(self) -> str:
        """First word of the reason."""
        return self.reason.partition(":")[0]


def run_program(
    code: str,
    *,
    tests: str = "",
    allow: bool = False,
    timeout_s: float = 10.0,
    memory_bytes: int = 512 << 20,
    file_bytes: int = 16 << 20,
    tmp_bytes: int = 64 << 20,
) -> Verdict:
    """Run a program against tests, in the sandbox described above.

    Args:
        code: source of the program, not trusted. Loaded as a module of the name "program".
        tests: source of the tests, trusted to be honest (and run in a sandbox all the same). There
            ``program.f(...)`` calls the program's function ``f``. Passed is who gets to their end
            without an exception.
        allow: nothing runs without it.
        timeout_s: wall-clock seconds for loading and tests; as many seconds of CPU time.
        memory_bytes: address space of each interpreter.
        file_bytes: largest file.
        tmp_bytes: size of ``/tmp``.

    Returns:
        The verdict. A program that cannot be judged in time has not passed.

    Raises:
        BasinscopeError: If not allowed, if bubblewrap is missing or cannot start a sandbox, or if
            the tests do not compile. There is no fallback: what has no sandbox does not run.

    Cost: about 0.1 s on top of the program's own time.
    """
    if not allow:
        raise BasinscopeError(
            "running generated code was not allowed",
            "allow=True, which runs it in a bubblewrap sandbox",
            "allow=True or, on the command line, --allow-code-execution",
        )
    if not 0 < timeout_s < math.inf:
        raise BasinscopeError(f"timeout_s={timeout_s}", "a positive number of seconds", "10")
    if memory_bytes < _LEAST_MEMORY:
        raise BasinscopeError(
            f"memory_bytes={memory_bytes}", f"{_LEAST_MEMORY} or more", f"{_LEAST_MEMORY}"
        )
    limits = {
        "AS": memory_bytes,
        "CPU": math.ceil(timeout_s) + 1,
        "FSIZE": file_bytes,
        "NOFILE": _OPEN_FILES,
        "CORE": 0,
    }
    bwrap, rules = _bwrap(), seccomp.rules(platform.machine())
    nonce = secrets.token_hex(16)
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        log, info, request = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        request.write(json.dumps({"nonce": nonce, "code": code, "tests": tests}).encode())
        request.seek(0)

        def start(side: str, end: socket.socket, **streams: Any) -> subprocess.Popen[bytes]:
            fds = [end.fileno(), _readable(stack, rules)]
            walls = _walls(tmp_bytes, fds[1])
            if side == "program":
                fds.append(info.fileno())
                walls[:0] = ["--info-fd", str(info.fileno())]
            inside = [*_interpreter(), _INSIDE_SEEN, side, json.dumps(limits), str(fds[0])]
            process = subprocess.Popen(
                [bwrap, *walls, *inside], stderr=log, pass_fds=fds, **streams
            )
            stack.callback(_end, process)
            end.close()
            return process

        start("program", theirs, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        judge = start("tests", ours, stdin=request, stdout=subprocess.PIPE)
        assert judge.stdout is not None
        lines = _Reports(stack.enter_context(judge.stdout), nonce)
        kind, reason = lines.next(STARTUP_S)
        began = time.monotonic()
        if kind == "started":
            kind, reason = lines.next(timeout_s, stop=_Files(info).too_many)
            seconds = time.monotonic() - began
            if kind == "stopped":
                kind, reason = "error", f"more than {_MOST_FILES} files in /tmp"
            elif kind == "silent":
                kind, reason = "timeout", f"{timeout_s:g} s"
            elif kind == "gone":
                kind, reason = "failed", "the interpreter of the tests died"
            return Verdict(kind == "passed", f"{kind}: {reason}" if reason else kind, seconds)
        if kind == "invalid":
            raise BasinscopeError(
                f"the tests do not compile: {reason}", "tests that Python can read", "mend the data"
            )
        raise _cannot_start(log, timed_out=kind == "silent")


def require_sandbox(*, allow: bool) -> None:
    """Check that programs can be run, before a model is asked for any.

    Raises:
        BasinscopeError: As `run_program` would.
    """
    run_program("", allow=allow)


# --- the walls ---------------------------------------------------------------------------


def _bwrap() -> str:
    """Path of bubblewrap."""
    path = shutil.which("bwrap")
    if path is None:
        raise BasinscopeError(
            "bubblewrap (bwrap) is not installed",
            "generated code in its sandbox and nowhere else (Linux only)",
            "apt-get install bubblewrap (Debian, Ubuntu) or dnf install bubblewrap (Fedora)",
        )
    return path


def _executable() -> Path:
    """The interpreter itself, not a virtual environment's link to it."""
    return Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def _interpreter() -> list[str]:
    """This interpreter without site-packages; the environment holds a fixed hash seed only."""
    return [str(_executable()), "-P", "-s", "-S", "-X", "utf8"]


def _walls(tmp_bytes: int, filter_fd: int) -> list[str]:
    """Options of bubblewrap."""
    walls = ["--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
    walls += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    walls += ["--clearenv", "--setenv", "PYTHONHASHSEED", "0"]
    for path in ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"):
        walls += ["--ro-bind-try", path, path]
    for path in _prefixes():
        walls += ["--ro-bind", path, path]
    for path in ("/dev/null", "/dev/urandom"):
        walls += ["--dev-bind", path, path]
    walls += ["--ro-bind", str(_INSIDE), _INSIDE_SEEN]
    walls += ["--size", str(tmp_bytes), "--tmpfs", "/tmp", "--remount-ro", "/"]  # noqa: S108
    return [*walls, "--chdir", "/tmp", "--seccomp", str(filter_fd), "--"]  # noqa: S108


def _prefixes() -> list[str]:
    """Folders of the interpreter that lie outside /usr."""
    executable = _executable()
    prefixes = {Path(p).resolve() for p in (sys.base_prefix, sys.base_exec_prefix)}
    if not any(executable.is_relative_to(p) for p in (*prefixes, Path("/usr"))):
        prefixes.add(executable)
    home = Path(os.path.expanduser("~")).resolve()
    for prefix in (*prefixes, Path("/usr")):
        if home.is_relative_to(prefix) and home != Path("/"):
            raise BasinscopeError(
                f"the home folder {home} lies in {prefix}, with the interpreter or its libraries",
                "an interpreter outside the home folder, since generated code may read its folder",
                "a Python installed in a folder of its own, or another HOME",
            )
    return sorted(str(p) for p in prefixes if not p.is_relative_to("/usr"))


def _readable(stack: ExitStack, data: bytes) -> int:
    """Descriptor from which a child can read ``data``, less than a pipe holds."""
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(data)
    return reading


# --- the conversation --------------------------------------------------------------------


class _Reports:
    """Lines of the tests' side that carry the nonce; all others are passed over."""

    def __init__(self, stream: IO[bytes], nonce: str) -> None:
        self._fd = stream.fileno()
        self._nonce = f"{nonce} ".encode()
        self._buffer = b""
        self._left = _REPORT_BYTES

    def next(self, wait_s: float, stop: Callable[[], bool] = lambda: False) -> tuple[str, str]:
        """Kind and reason; kind "silent" if none came in time, "gone" if none will.

        ``stop`` is asked every now and then; once it holds, the kind is "stopped".
        """
        deadline = time.monotonic() + wait_s
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                if line.startswith(self._nonce):
                    kind, reason = json.loads(line[len(self._nonce) :])
                    return kind, reason
                continue
            wait = deadline - time.monotonic()
            if wait <= 0:
                return "silent", ""
            if stop():
                return "stopped", ""
            if not poll.poll(math.ceil(min(wait, _WATCH_S) * 1000)):
                continue
            chunk = os.read(self._fd, self._left)
            self._buffer += chunk
            self._left -= len(chunk)
            if not chunk or not self._left:
                return "gone", ""


class _Files:
    """The files in the ``/tmp`` of a sandbox, counted from outside: no mount limits their number.

    Args:
        info: what bubblewrap wrote about the sandbox.
    """

    def __init__(self, info: IO[bytes]) -> None:
        info.seek(0)
        self._folder = f"/proc/{json.loads(info.read())['child-pid']}/root/tmp"

    def too_many(self) -> bool:
        """Whether there are more than `_MOST_FILES`; not if the sandbox has ended."""
        try:
            usage = os.statvfs(self._folder)
        except OSError:
            return False
        return usage.f_files - usage.f_ffree > _MOST_FILES


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a sandbox: the kernel ends all of its processes with their namespace."""
    process.kill()
    process.wait()


_FORBIDDEN: Final = ("namespace", "uid map", "gid map", "Operation not permitted")


def _cannot_start(log: IO[bytes], *, timed_out: bool) -> BasinscopeError:
    """Error that tells why the sandbox did not come up, from bubblewrap's own words."""
    log.seek(0)
    words = " ".join(log.read(_REPORT_BYTES).decode(errors="replace").split())[:300]
    if "Unknown option" in words:
        return BasinscopeError(
            f"bubblewrap is too old: {words}", "bubblewrap 0.7 or newer", "update it"
        )
    if any(sign in words for sign in _FORBIDDEN):
        return BasinscopeError(
            f"this system forbids user namespaces, which the sandbox needs: {words}",
            "generated code in the sandbox and nowhere else",
            "as root: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=10000, "
            "kernel.apparmor_restrict_unprivileged_userns=0, whichever exists; in a container: "
            "start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
        )
    why = f"not within {STARTUP_S:g} s" if timed_out else words or "it ended without a word"
    return BasinscopeError(
        f"the sandbox did not start: {why}",
        "a sandbox that starts",
        "a machine with less load" if timed_out else "bwrap by hand",
    )
