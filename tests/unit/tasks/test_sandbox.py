"""Hostile programs, each with what it must not achieve; and the refusals without a sandbox."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from basinscope.errors import BasinscopeError
from basinscope.tasks import sandbox
from basinscope.tasks.sandbox import Verdict, require_sandbox, run_program

_marks = itertools.count(1)


def run(code: str, tests: str = "", **options) -> Verdict:
    return run_program(
        textwrap.dedent(code),
        tests=textwrap.dedent(tests),
        allow=True,
        **{"timeout_s": 5, **options},
    )


# --- honest programs ---------------------------------------------------------------------

ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("code", "tests", "reason"),
    [
        (ADD, "assert program.add(1, b=2) == 3", "passed"),
        (ADD, "assert program.add(1, 2) == 4, 'sum'", "failed: AssertionError: sum"),
        (ADD, "assert len(program.add(1, 2)) == 1", "failed: TypeError: object of type 'int' has"),
        (ADD, "program.add(1, '')", "error: TypeError: unsupported operand"),
        (ADD, "program.sub(1, 2)", "error: AttributeError: module 'program' has no attribute"),
        ("def f(:\n", "", "error: SyntaxError: invalid syntax"),
        ("1 / 0", "", "error: ZeroDivisionError: division by zero"),
        ("class Odd(ValueError): pass\ndef f(): raise Odd('no')", "program.f()", "error: Odd: no"),
        ("raise AssertionError('mine')", "", "error: AssertionError: mine"),
        ("import numpy", "", "error: ModuleNotFoundError: No module named 'numpy'"),
        ("print('a')\ninput()", "", "error: EOFError: EOF when reading a line"),
        ("", "", "passed"),
    ],
)
def test_reasons(bwrap, code, tests, reason):
    verdict = run(code, tests)
    assert verdict.reason.startswith(reason)
    assert verdict.passed == (reason == "passed")
    assert verdict.kind == reason.partition(":")[0]
    assert 0 <= verdict.seconds < 5


def test_tests_may_expect_an_exception(bwrap):
    tests = """
        try:
            program.f()
        except ValueError as error:
            assert str(error) == "no"
        else:
            raise AssertionError("no exception")
    """
    assert run("class Odd(ValueError): pass\ndef f(): raise Odd('no')", tests).passed
    assert not run("def f(): pass", tests).passed


def test_state_stays_between_calls_and_values_are_copies(bwrap):
    code = """
        seen = []
        def f(x):
            seen.append(x)
            x.append(0)
            return seen
    """
    tests = """
        mine = [1]
        assert program.f(mine) == [[1, 0]]
        assert mine == [1]
        assert program.f([2]) == [[1, 0], [2, 0]]
    """
    assert run(code, tests).passed


def test_hashes_and_global_random_numbers_repeat(bwrap):
    code = "import random\ndef f(): return random.random(), hash('a'), list({'x', 'y', 'z'})"
    seen = {run(code, "assert False, program.f()").reason for _ in range(2)}
    assert len(seen) == 1


def test_modules_that_need_descriptors_of_their_own_work(bwrap):
    code = """
        import asyncio, dataclasses, tempfile, typing
        @dataclasses.dataclass
        class Pair:
            a: int
        async def g():
            await asyncio.sleep(0)
            return Pair(3).a
        def f():
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
            return asyncio.run(g())
    """
    assert run(code, "assert program.f() == 3").passed


# --- a forged verdict --------------------------------------------------------------------

TESTS = "assert program.f(2) == 3\nassert program.f(3) == 4\n"
CHANNEL = """
import os, sys, json, __main__
frame = sys._getframe()
while "channel" not in frame.f_locals:
    frame = frame.f_back
channel = frame.f_locals["channel"]
def say(*messages):
    for message in messages:
        channel.send(message)
"""


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "def f(x): exit(0)",
        "def f(x): raise SystemExit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)",
        "import os\nos.execv('/usr/bin/true', ['true'])",
        "import os\nos.execv('/usr/bin/yes', ['yes'])",
        "import ctypes\nctypes.string_at(0)",
        "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit",
        "import atexit, sys\natexit.register(print, 'passed')\nsys.exit()",
        'import os\nprint(\'passed\\n["passed", ""]\', flush=True)\nos._exit(0)',
        "import os\n"
        "for fd in range(64):\n"
        "    try: os.write(fd, b'0' * 32 + b' [\"passed\", \"\"]\\n')\n"
        "    except OSError: pass\n",
        "import os\nos.closerange(0, 64)",
        "import os\ndef f(x): os.closerange(0, 64)",
        "import builtins\nbuiltins.AssertionError = KeyError\ndef f(x): assert False",
        "import builtins\nfor n in ('exec', 'compile', 'isinstance', 'getattr', 'len'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return 3",
        "import __main__\n__main__.pack = lambda v: 'passed'\ndef f(x): return 0",
        "import __main__\n__main__.Judge.finish(__main__.Judge(None, 1, ''), 'passed')",
        "import __main__\n__main__.json.dumps = lambda v: '[\"returned\", 3]'\ndef f(x): return 9",
        "import sys\nsys.settrace(lambda *a: None)\ndef f(x): pass",
        "import json\njson.JSONEncoder.encode = lambda *a: '[\"returned\", 3]'\ndef f(x): return 9",
        "class E:\n    def __eq__(self, o): return True\n    def __bool__(self): return True\n"
        "def f(x): return E()",
        "class I(int):\n    def __eq__(self, o): return True\ndef f(x): return I(9)",
        "class L(list):\n    def __eq__(self, o): return True\ndef f(x): return L()",
        "def f(x): return float('nan')",
        "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: print('passed')\n1 / 0",
        "import sys\nsys.stdout = sys.stderr = open('/tmp/x', 'w')\ndef f(x): return 'passed'",
        "import builtins\nbuiltins.__import__ = lambda *a, **k: builtins\ndef f(x): return 3",
        "import gc\nfor o in gc.get_objects():\n"
        "    if isinstance(o, dict) and 'channel' in o: o['passed'] = o['nonce'] = True\n",
        "def __getattr__(name): return lambda *a: 3",
        "class M(type):\n    def __instancecheck__(c, o): return True\n"
        "    def __eq__(c, o): return True\n    __hash__ = None\n"
        "class E(metaclass=M): pass\ndef f(x): return E",
        "def f(x): return NotImplemented",
        "check = candidate = tests = lambda *a: None\ndef f(x): return None",
        CHANNEL + "say('passed', ['passed', ''], ['returned', None], ['returned', 3])\nos._exit(0)",
        CHANNEL + "say(*[['returned', None]] * 1000)\nos._exit(0)",
        CHANNEL + "say(['raised', ['SystemExit', '0', '0']])",
        CHANNEL + "say(['raised', ['StopIteration', '', '']])",
        CHANNEL + "say(['raised', ['UnicodeDecodeError', '', '']])",
        CHANNEL + "say(['raised', ['print', '', '']])",
        CHANNEL + "say(['raised', ['GeneratorExit', '', '']])",
        CHANNEL + "say(['returned', ['set', [['list', []]]]])",
        CHANNEL + "say(['returned', ['dict', 3]])",
        CHANNEL + "say(['returned', {'a': 1}])",
        CHANNEL + "say(['returned', ['eval', '1']])",
        CHANNEL + "say({}, 3, None, [], ['returned'])",
        CHANNEL + "os.write(channel.fd, (9).to_bytes(4, 'big') + b'not json!')",
        CHANNEL + "os.write(channel.fd, (9).to_bytes(4, 'big') + b'\\xff' * 9)",
        CHANNEL + "os.write(channel.fd, (1 << 31).to_bytes(4, 'big'))",
        CHANNEL + "os.write(channel.fd, (200000).to_bytes(4, 'big') + b'[' * 200000)",
        CHANNEL + "os.write(channel.fd, b'\\0\\0\\0\\0' * 100)",
    ],
)
def test_no_verdict_can_be_forged(bwrap, code):
    verdict = run(code, TESTS, timeout_s=1.5)
    assert not verdict.passed
    assert verdict.kind in {"failed", "error", "exited", "timeout"}


@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration"])
def test_the_end_of_an_iteration_is_an_error_of_the_program(bwrap, error):
    """Regression: raised in a loop of the tests, it ended the loop, and the tests were over."""
    verdict = run(f"def f(x): raise {error}", "assert all(map(program.f, [1, 2]))")
    assert verdict.reason == f"error: {error}: "


def test_a_flood_of_messages_ends_with_the_time(bwrap):
    flood = CHANNEL + "while True: channel.send(['returned', 'x' * 1000000])"
    assert not run(flood, "while True: program.f()", timeout_s=1).passed


def test_the_largest_message_does_not_pass(bwrap):
    nested = CHANNEL + "say(['returned', ['list', [['list', []]] * 1_000_000]])"
    assert not run(nested, TESTS, memory_bytes=128 << 20).passed
    assert run("def f(): return 'x' * (17 << 20)", "program.f()").reason.startswith("error: Value")


def test_nothing_of_the_tests_is_in_reach(bwrap):
    code = """
        import gc, os, sys
        def f(backwards):
            text = [repr(sys.argv), repr(os.environ), str(os.listdir("/")), str(os.listdir("/tmp"))]
            text += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
            return backwards[::-1] in "".join(text)
    """
    assert run(code, "'the secret'\nassert program.f('terces eht') is False").reason == "passed"


def test_the_channel_is_all_that_is_open(bwrap):
    code = """
        import os, stat
        def f():
            kinds = {}
            for fd in range(3, 64):
                try: kinds[fd] = stat.S_IFMT(os.fstat(fd).st_mode) == stat.S_IFSOCK
                except OSError: pass
            return kinds
        def g(fd):
            return os.fstat(fd).st_ino
    """
    tests = """
        open_fds = program.f()
        assert all(open_fds.values()), open_fds
        assert len({program.g(fd) for fd in open_fds}) == 1
    """
    assert run(code, tests).reason == "passed"


def test_no_environment_no_proc_no_name(bwrap, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    code = """
        import os
        def f():
            return set(os.environ), os.path.exists("/proc"), os.getuid(), os.getcwd(), os.uname()[1]
    """
    tests = """
        environment, *others = program.f()
        assert environment <= {"LC_CTYPE", "PWD", "PYTHONHASHSEED"}
        assert others == [False, 65534, "/tmp", "sandbox"]
    """
    assert run(code, tests).reason == "passed"


# --- the world outside -------------------------------------------------------------------


def test_the_network_is_out_of_reach(bwrap):
    code = """
        import socket
        def f(host, port, family=socket.AF_INET):
            try:
                with socket.socket(family) as s:
                    s.settimeout(1)
                    s.connect((host, port))
            except OSError as error:
                return type(error).__name__
            return "connected"
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tests = f"""
            assert program.f("127.0.0.1", {port}) == "PermissionError"
            assert program.f("192.0.2.1", 80) == "PermissionError"
            assert program.f(2, {port}, 40) == "PermissionError"  # AF_VSOCK
        """
        assert run(code, tests).reason == "passed"


READ = """
import os
def f(paths):
    seen = []
    for path in paths:
        try:
            seen += [path, os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(9)]
        except OSError:
            pass
    return seen
"""


def test_files_outside_cannot_be_read(bwrap, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    paths = [str(secret), str(tmp_path), "/etc/passwd", "/etc/hostname", "/proc/self/maps", "/sys"]
    paths += ["/root/.ssh", "/var/log", "/run", "/dev/mem", "/dev/sda", __file__]
    assert run(READ, f"assert program.f({paths!r}) == [], program.f({paths!r})").passed


def test_the_home_folder_cannot_be_read(bwrap):
    """All that is there are the folders on the way to the interpreter, if it lives at home."""
    home = Path.home().resolve()
    if home == Path("/"):
        pytest.skip("this user has no home folder")
    way = {p for prefix in sandbox._prefixes() for p in (Path(prefix), *Path(prefix).parents)}
    hidden = [str(path) for path in home.iterdir() if path.resolve() not in way]
    code = "import os\ndef f(paths): return [p for p in paths if os.path.lexists(p)]"
    assert run(code, f"assert program.f({hidden!r}) == []").passed


def test_nothing_outside_tmp_can_be_written(bwrap):
    code = """
        import os
        def f(folders):
            done = []
            for folder in folders:
                try:
                    with open(os.path.join(folder, "x"), "w") as file:
                        file.write("x")
                    done.append(folder)
                except OSError:
                    pass
            return done
        def g(path):
            for act in (os.remove, os.chmod, os.truncate, open):
                try: act(*{open: (path, "w"), os.remove: (path,)}.get(act, (path, 0)))
                except OSError: continue
                return act.__name__
    """
    folders = ["/", "/usr", "/usr/bin", "/lib", "/dev", "/etc", "/home", sys.base_prefix, "/tmp"]
    tests = f"""
        assert program.f({folders!r}) == ["/tmp"]
        assert program.g("/sandboxed.py") is None
        assert program.g({str(sandbox._executable())!r}) is None
    """
    assert run(code, tests).reason == "passed"
    assert not Path("/tmp/x").exists()


def test_tmp_is_empty_at_the_start_of_every_program(bwrap):
    code = """
        import os
        before = os.listdir("/tmp")
        open("/tmp/x", "w").close()
        def f(): return before
    """
    for _ in range(2):
        assert run(code, "assert program.f() == []").passed


# --- processes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        "while True: os.fork()",
        "os.forkpty()",
        "subprocess.run(['/usr/bin/true'], check=True)",
        "os.posix_spawn('/usr/bin/true', ['true'], {})",
        "os.system('true') and 1 / 0",
        "threading.Thread(target=time.sleep, args=(1,)).start()",
        "multiprocessing.get_context('spawn').Process(target=print).start()",
        "ctypes.CDLL(None, use_errno=True).unshare(0x10000000) and 1 / 0",
    ],
)
def test_processes_are_refused(bwrap, act):
    """A fork bomb ends with its first fork."""
    code = f"import ctypes, multiprocessing, os, subprocess, threading, time\n{act}\n"
    verdict = run(code)
    assert verdict.kind == "error"


def test_a_daemon_leaves_nothing_behind(bwrap):
    daemon = """
        import os, time
        try:
            if os.fork():
                os._exit(0)
            os.setsid()
        except OSError:
            pass
        time.sleep(60)
    """
    mark = _mark()
    assert run(daemon, timeout_s=1, memory_bytes=mark).reason == "timeout: 1 s"
    assert _gone(mark)


def test_the_parent_cannot_be_killed(bwrap):
    code = """
        import os, signal
        def f():
            for pid in (os.getppid(), 1, -1, 0, *range(2, 5000)):
                if pid not in (0, os.getpid()):
                    try: os.kill(pid, signal.SIGKILL)
                    except OSError: pass
            return os.getppid()
    """
    assert run(code, "assert program.f() <= 1").reason == "passed"
    group = "import os, signal\nos.killpg(0, signal.SIGKILL)"
    assert run(group, TESTS).kind == "exited"


def test_nobody_can_be_traced(bwrap):
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        def f():
            return [libc.ptrace(16, pid, 0, 0) for pid in (1, os.getppid())]
    """
    assert run(code, "assert program.f() == [-1, -1]").passed


def test_a_killed_caller_takes_its_programs_along(bwrap):
    mark = _mark()
    code = (
        "from basinscope.tasks.sandbox import run_program\n"
        f"run_program('while True: pass', allow=True, timeout_s=60, memory_bytes={mark})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as caller:
        deadline = time.monotonic() + 60
        while not _alive(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _alive(mark)
        time.sleep(0.5)
        caller.send_signal(signal.SIGKILL)
    assert _gone(mark)


def _mark() -> int:
    """Memory limit that no other test has: it stands on the command line of the sandbox."""
    return (256 << 20) + os.getpid() * 4096 + next(_marks)


def _alive(mark: int) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f'"AS": {mark},'.encode() in process.read_bytes():
                found.append(process)
        except OSError:
            continue
    return found


def _gone(mark: int) -> bool:
    deadline = time.monotonic() + 5
    while _alive(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _alive(mark)


# --- too much ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "bytearray(10 << 30)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import mmap\nmmap.mmap(-1, 10 << 30)",
        "import os\nos.memfd_create('x')",
        "import os\nos.write(os.open('/dev/shm/x', os.O_CREAT | os.O_RDWR), b'x')",
        "import ctypes\nif ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) < 0: raise OSError",
        "with open('/tmp/x', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
        "import os\nos.truncate(os.open('/tmp/x', os.O_CREAT | os.O_RDWR), 1 << 40)",
        "for i in range(1000):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(1 << 20))",
        "files = [open('/dev/null') for _ in range(1000)]",
        "def f(): f()\nf()",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    ],
)
def test_more_than_is_allowed_is_an_error(bwrap, code):
    assert run(code).kind == "error"


def test_recursion_without_a_limit_does_not_pass(bwrap):
    code = "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return repr(f(x)) + str([f(x)])"
    assert not run(code, TESTS, timeout_s=2).passed


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 100_000)",
        "import os\nwhile True: os.write(2, b'x' * 100_000)",
        "import time\ntime.sleep(1000)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "10 ** 10 ** 10",
        "while True:\n    try: raise ValueError\n    except BaseException: pass",
    ],
)
def test_programs_without_end_are_cut_off(bwrap, code):
    start = time.monotonic()
    verdict = run(code, timeout_s=1)
    assert verdict.reason == "timeout: 1 s"
    assert 1 <= verdict.seconds < 5
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "make",
    ["open(f'/tmp/{n}', 'w').close()", "os.mkdir(f'/tmp/{n:0200}')", "os.symlink('x', f'/tmp/{n}')",
     "os.close(os.open('/tmp/x', os.O_CREAT)), os.link('/tmp/x', f'/tmp/{n}')"],
)  # fmt: skip
def test_the_number_of_files_is_limited(bwrap, make):
    """Empty files take no space of /tmp, but the kernel's memory."""
    code = f"import os\nn = 0\nwhile True:\n    n += 1\n    {make}"
    verdict = run(code, timeout_s=20)
    assert verdict.reason == "error: more than 10000 files in /tmp"
    assert run(f"import os\nfor n in range(5000): {make}").passed


def test_links_in_tmp_lead_nowhere(bwrap, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    code = """
        import os
        def f(path):
            os.symlink(path, "/tmp/link")
            with open("/tmp/link", "w") as file:
                file.write("x")
    """
    tests = f"try: program.f({str(secret)!r})\nexcept OSError: pass\nelse: assert False"
    assert run(code, tests).reason == "passed"
    assert secret.read_text() == "hunter2"


def test_no_terminal_is_in_reach(bwrap):
    code = """
        import fcntl, os, termios
        def f():
            reached = []
            for path in ("/dev/tty", "/dev/console", "/dev/pts", "/dev/ptmx"):
                if os.path.lexists(path): reached.append(path)
            for fd in range(64):
                try: fcntl.ioctl(fd, termios.TIOCSTI, b"x")
                except OSError: continue
                reached.append(fd)
            return reached
    """
    assert run(code, "assert program.f() == []").reason == "passed"


def test_reasons_are_one_short_printable_line(bwrap):
    verdict = run("raise ValueError('\\x1b[31m\\n\\r\\0' + 'x' * 10_000_000)")
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 250


# --- refusals ----------------------------------------------------------------------------


def test_nothing_runs_unless_allowed():
    with pytest.raises(BasinscopeError, match=r"not allowed.*--allow-code-execution"):
        run_program("")
    with pytest.raises(BasinscopeError, match="not allowed"):
        require_sandbox(allow=False)


def test_without_bubblewrap_it_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BasinscopeError, match="apt-get install bubblewrap"):
        run_program("", allow=True)


def fake_bwrap(monkeypatch, tmp_path, script: str) -> None:
    path = tmp_path / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bwrap: No permissions to create new namespace", "forbids user namespaces.*sysctl"),
        ("bwrap: setting up uid map: Permission denied", "forbids user namespaces.*in a container"),
        ("bwrap: Unknown option --size", "too old.*0.7 or newer"),
        ("bwrap: Can't find source path", "did not start: bwrap: Can't find source path"),
    ],
)
def test_a_sandbox_that_does_not_start_is_an_error(monkeypatch, tmp_path, words, message):
    fake_bwrap(monkeypatch, tmp_path, f'echo "{words}" >&2; exit 1')
    with pytest.raises(BasinscopeError, match=message):
        run_program("", allow=True)


def test_a_sandbox_that_hangs_is_an_error(monkeypatch, tmp_path):
    fake_bwrap(monkeypatch, tmp_path, "exec /bin/sleep 60")
    monkeypatch.setattr(sandbox, "STARTUP_S", 0.3)
    with pytest.raises(BasinscopeError, match=r"not within 0\.3 s"):
        run_program("", allow=True)


def test_where_namespaces_are_forbidden_it_says_so(bwrap):
    """The real thing, in a namespace whose children may not have one."""
    outer = ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/"]
    if subprocess.run([*outer, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this bubblewrap has no --disable-userns")
    code = "from basinscope.tasks.sandbox import run_program\nrun_program('', allow=True)"
    done = subprocess.run(
        [*outer, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "BasinscopeError: this system forbids user namespaces" in done.stderr


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number(timeout_s):
    with pytest.raises(BasinscopeError, match="positive number of seconds"):
        run_program("", allow=True, timeout_s=timeout_s)


def test_memory_must_hold_python():
    with pytest.raises(BasinscopeError, match=r"memory_bytes=1000; allowed: 67108864 or more"):
        run_program("", allow=True, memory_bytes=1000)


def test_tests_that_do_not_compile_are_an_error(bwrap):
    with pytest.raises(
        BasinscopeError, match=r"tests do not compile: SyntaxError: .*\(<tests>, li"
    ):
        run("", "assert (")


def test_an_interpreter_that_shares_its_folder_with_home_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(BasinscopeError, match=r"home folder .* lies in"):
        sandbox._prefixes()


def test_a_home_folder_in_usr_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/usr/local/me")
    with pytest.raises(BasinscopeError, match="home folder /usr/local/me lies in /usr"):
        sandbox._prefixes()


def test_an_unknown_machine_is_refused(monkeypatch, tmp_path):
    fake_bwrap(monkeypatch, tmp_path, "exit 1")
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(BasinscopeError, match="machine of type 'vax'; allowed: x86_64, aarch64"):
        run_program("", allow=True)


# --- cost --------------------------------------------------------------------------------


def test_a_program_costs_less_than_three_tenths_of_a_second(bwrap):
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        assert run(ADD, "assert program.add(1, 2) == 3").passed
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
