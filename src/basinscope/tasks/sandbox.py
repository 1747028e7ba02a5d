"""Run generated code where it can do no harm and cannot talk its way to a pass.

`run_program` starts two interpreters, each in a bubblewrap sandbox of its own. One loads the
program; the other holds the tests, calls the program's functions through a socket and decides. The
verdict leaves the second under a random nonce that only it was given.

*What each sandbox is.* Fresh user, mount, process, network, IPC, UTS and cgroup namespaces; no
capabilities; no network device but an idle loopback. The file system holds ``/usr``, ``/lib*`` and
the interpreter's own prefix, read-only, with ``/dev/null`` and ``/dev/urandom``: no home, no
``/proc``, no ``/sys``, none of the environment. ``/tmp`` is private, small and gone at the end. A
seccomp filter refuses new processes and threads, sockets, tracing, and memory that no limit counts
(shared segments, memfds). Address space, CPU time, file size and open files are limited; a wall
clock kills everything. Standard output goes nowhere, so there is nothing to fill.

*What cannot yield a pass.* Leaving early by any exit, printing a verdict, patching builtins or the
harness, walking frames or memory in search of a secret, closing or flooding descriptors, killing
whatever can be seen: the program does all of it in an interpreter that has no say. Values arrive
as plain data, so objects with an ``__eq__`` of their own are equal to nothing.

*What is not prevented.* A function may recognise the arguments of a test and return a remembered
answer. With tests that call nothing, "passed" is only the program's claim that it loaded. Until its
time is over the program may use one core and fill kernel memory with empty files (the size of
``/tmp`` is limited, the number of its files is not). It can read ``/usr`` and the interpreter's
prefix. A bug in the kernel or in bubblewrap may let it out.

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
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from basinscope.errors import BasinscopeError

STARTUP_S: Final = 30.0  # both interpreters up; takes 0.1 s on an idle machine
_OPEN_FILES: Final = 64
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

    Cost: about 0.1 s besides what the program takes.
    """
    if not allow:
        raise BasinscopeError(
            "running generated code was not allowed",
            "it runs with allow=True only, in a bubblewrap sandbox",
            "on the command line: --allow-code-execution",
        )
    if not 0 < timeout_s < math.inf:
        raise BasinscopeError(f"timeout_s={timeout_s}", "allowed: a positive number of seconds")
    if memory_bytes < _LEAST_MEMORY:
        raise BasinscopeError(
            f"memory_bytes={memory_bytes}", f"allowed: at least {_LEAST_MEMORY}, for Python itself"
        )
    limits = {
        "AS": memory_bytes,
        "CPU": math.ceil(timeout_s) + 1,
        "FSIZE": file_bytes,
        "NOFILE": _OPEN_FILES,
        "CORE": 0,
    }
    bwrap, rules = _bwrap(), _seccomp_rules(platform.machine())
    nonce = secrets.token_hex(16)
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        log = stack.enter_context(tempfile.TemporaryFile())
        request = stack.enter_context(tempfile.TemporaryFile())
        request.write(json.dumps({"nonce": nonce, "code": code, "tests": tests}).encode())
        request.seek(0)

        def start(side: str, end: socket.socket, **streams: Any) -> subprocess.Popen[bytes]:
            filter_fd = _readable(stack, rules)
            end_fd = end.fileno()
            inside = [_INSIDE_SEEN, side, json.dumps(limits), str(end_fd)]
            process = subprocess.Popen(
                [bwrap, *_walls(tmp_bytes, filter_fd), *_interpreter(), *inside],
                stderr=log,
                pass_fds=(filter_fd, end_fd),
                **streams,
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
            kind, reason = lines.next(timeout_s)
            seconds = time.monotonic() - began
            if kind == "silent":
                kind, reason = "timeout", f"{timeout_s:g} s"
            elif kind == "gone":
                kind, reason = "failed", "the interpreter of the tests died"
            return Verdict(kind == "passed", f"{kind}: {reason}" if reason else kind, seconds)
        if kind == "invalid":
            raise BasinscopeError(f"the tests do not compile: {reason}", "", "mend the data")
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
    found = shutil.which("bwrap")
    if found is None:
        raise BasinscopeError(
            "bubblewrap (bwrap) is not installed",
            "generated code runs in its sandbox and nowhere else (Linux only)",
            "Debian and Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap",
        )
    return found


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
    for prefix in prefixes:
        if home.is_relative_to(prefix) and home != Path("/"):
            raise BasinscopeError(
                f"Python is installed in {prefix}, which holds the home folder",
                "generated code may read the folder of the interpreter, but not the home folder",
                "use a Python installed in a folder of its own",
            )
    return sorted(str(p) for p in prefixes if not p.is_relative_to("/usr"))


# Refused system calls, by the numbers of the two machines (None: does not exist there). Processes
# and threads: RLIMIT_NPROC would not hold for a sandbox that root starts. Sockets: AF_VSOCK knows
# no network namespace. Shared memory: RLIMIT_AS does not count it.
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # name: (x86_64, aarch64)
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "setns": (308, 268),
    "socket": (41, 198),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # AUDIT_ARCH_*
_X32: Final = 0x40000000  # numbers of x86_64's other ABI start here


def _seccomp_rules(machine: str) -> bytes:
    """Filter for the kernel: a classic BPF program over (number, architecture) of a call.

    Calls of `_REFUSED` fail with EPERM; a call in the convention of another architecture kills.
    """
    if machine not in _MACHINES:
        raise BasinscopeError(
            f"no sandbox for a machine of type {machine!r}", f"allowed: {', '.join(_MACHINES)}"
        )
    column, architecture = _MACHINES[machine]
    numbers = [n[column] for n in _REFUSED.values() if n[column] is not None]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET
    rules = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, 0x80000000),  # SECCOMP_RET_KILL_PROCESS
        (load, 0, 0, 0),
        (at_least, len(numbers) + 1, 0, _X32),
        *((equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        (give, 0, 0, 0x00050001),  # SECCOMP_RET_ERRNO with EPERM
    ]
    return b"".join(struct.pack("HBBI", *rule) for rule in rules)


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

    def next(self, wait_s: float) -> tuple[str, str]:
        """Kind and reason; kind "silent" if none came in time, "gone" if none will."""
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
            if wait <= 0 or not poll.poll(math.ceil(wait * 1000)):
                return "silent", ""
            chunk = os.read(self._fd, self._left)
            self._buffer += chunk
            self._left -= len(chunk)
            if not chunk or not self._left:
                return "gone", ""


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
            f"this bubblewrap is too old: {words}", "allowed: bubblewrap 0.7 or newer"
        )
    if any(sign in words for sign in _FORBIDDEN):
        return BasinscopeError(
            f"this system forbids user namespaces, which the sandbox needs: {words}",
            "generated code runs in the sandbox and nowhere else",
            "as root: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=10000, "
            "kernel.apparmor_restrict_unprivileged_userns=0, whichever exists; in a container: "
            "start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
        )
    why = f"not within {STARTUP_S:g} s" if timed_out else words or "it ended without a word"
    return BasinscopeError(
        f"the sandbox did not start: {why}",
        "",
        "is the machine overloaded?" if timed_out else "try bwrap by hand",
    )
