"""The inside of the sandbox: one interpreter holds a program, another one its tests.

`basinscope.tasks.sandbox` starts this file twice, each time in a sandbox of its own: as ``program``
and as ``tests``. The two share one socket and nothing else. The tests call the program by name and
get values back; the code of the program never enters the interpreter that decides.

A message is a length (4 bytes) and JSON. Values are rebuilt from plain data, so what the tests
compare is a list, a number or a string of their own, whatever its methods were over there. Standard
library only: both interpreters start without site-packages.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
from typing import Any, NoReturn

MESSAGE_BYTES = 16 << 20
REASON_CHARS = 200
_PLAIN_INT = 1 << 63  # beyond it, integers travel in hexadecimal: no limit on their digits


class Channel:
    """Messages over a stream socket, each cut off at `MESSAGE_BYTES`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, message: Any) -> None:
        """Write one message."""
        data = json.dumps(message).encode()
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"a value of {len(data)} bytes is too large to hand over")
        view = memoryview(len(data).to_bytes(4, "big") + data)
        while view:
            view = view[os.write(self.fd, view) :]

    def receive(self) -> Any:
        """Read one message.

        Raises:
            EOFError: If the other side is gone.
            ValueError: If it is no message.
        """
        size = int.from_bytes(self._read(4), "big")
        if size > MESSAGE_BYTES:
            raise ValueError(f"a message of {size} bytes")
        return json.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = os.read(self.fd, min(size - len(data), 1 << 16))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)


class Other:
    """Stands for a value that is not plain data: equal to nothing but itself."""


def pack(value: Any) -> Any:
    """Value as JSON. Subclasses become their base; iterators and ranges, an iterator of values."""
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _PLAIN_INT else ["int", hex(value)]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", [[pack(key), pack(item)] for key, item in value.items()]]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [pack(item) for item in value]]
    if isinstance(value, range) or hasattr(type(value), "__next__"):
        return ["iterator", [pack(item) for item in value]]
    return ["other", None]


def unpack(data: Any) -> Any:
    """Inverse of `pack`, into builtin types only.

    Raises:
        ValueError, TypeError: If ``data`` is not of `pack`'s making.
    """
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise TypeError("an untagged object")
        return data
    tag, body = data
    if tag in _MADE_OF_ITEMS:
        return _MADE_OF_ITEMS[tag](unpack(item) for item in body)
    if tag == "dict":
        return {unpack(key): unpack(item) for key, item in body}
    if tag == "iterator":
        return iter([unpack(item) for item in body])
    if tag == "int":
        return int(body, 16)
    if tag == "complex":
        return complex(*body)
    if tag == "bytes":
        return bytes.fromhex(body)
    if tag == "other":
        return Other()
    raise ValueError("an unknown tag")


_MADE_OF_ITEMS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def describe(error: BaseException) -> list[str]:
    """Builtin name, own name and first words of an exception."""
    base = next(c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")
    try:
        words = str(error)
    except Exception:  # its own __str__
        words = ""
    return [base, type(error).__name__, words[:REASON_CHARS]]


def seed(code: str) -> None:
    """Fix the global generator before code that may draw from it: a verdict is repeatable."""
    if "random" in code:
        import random

        random.seed(0)


# --- the program's side ------------------------------------------------------------------


def serve(channel: Channel) -> None:
    """Load the program and answer calls of its functions for as long as somebody asks."""
    channel.send("ready")
    code = channel.receive()
    module = type(sys)("program")
    sys.modules["program"] = module
    try:
        seed(code)
        # Running foreign code is what this file is for, and it happens in the sandbox alone.
        exec(compile(code, "<program>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    except BaseException as error:
        channel.send(["raised", describe(error)])
        return
    channel.send(["returned", None])
    while True:
        name, args, kwargs = channel.receive()
        try:
            value = getattr(module, name)(*unpack(args), **unpack(kwargs))
            channel.send(["returned", pack(value)])
        except BaseException as error:
            channel.send(["raised", describe(error)])


# --- the tests' side ---------------------------------------------------------------------


class Program:
    """The program as its tests see it: ``program.name(...)`` calls its function ``name``."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._judge.ask([name, pack(args), pack(kwargs)])

        return call


class Judge:
    """Runs the tests and reports the verdict under a nonce that only this interpreter is given."""

    def __init__(self, channel: Channel, report_fd: int, nonce: str) -> None:
        self.channel = channel
        self.report_fd = report_fd
        self.nonce = nonce

    def report(self, kind: str, reason: str = "") -> None:
        """Write one line for the caller outside."""
        shown = "".join(c if c.isprintable() else " " for c in reason)[:REASON_CHARS]
        os.write(self.report_fd, f"{self.nonce} {json.dumps([kind, shown])}\n".encode())

    def finish(self, kind: str, reason: str = "") -> NoReturn:
        """Report the verdict and end: no test can catch this and go on."""
        self.report(kind, reason)
        os._exit(0)

    def listen(self) -> Any:
        """Next message of the program; anything else ends the tests."""
        try:
            return self.channel.receive()
        except (EOFError, ConnectionError):
            self.finish("exited", "the program ended before its tests")
        except (ValueError, RecursionError, MemoryError) as error:
            self.finish("error", f"the program's answer is no value: {error}")

    def ask(self, message: Any) -> Any:
        """Send a message and return the value that comes back, or raise as the program did."""
        try:
            self.channel.send(message)
        except ConnectionError:
            self.finish("exited", "the program ended before its tests")
        reply = self.listen()
        try:
            kind, body = reply
            if kind == "returned":
                return unpack(body)
            if kind != "raised":
                raise ValueError("an unknown reply")
            base, name, words = map(str, body)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            self.finish("error", f"the program's answer is no value: {error}")
        raised = getattr(builtins, base, None)
        if not (isinstance(raised, type) and issubclass(raised, Exception)):
            self.finish("exited", f"{name}: {words}")
        raise _raised_by_program(raised, words, f"{name}: {words}")

    def run(self, code: str, tests: str) -> NoReturn:
        """Load the program, run the tests, report."""
        try:
            compiled = compile(tests, "<tests>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            self.finish("invalid", f"{type(error).__name__}: {error}")
        if self._started() != "ready":
            self.finish("unstarted")
        self.report("started")
        try:
            self.ask(code)
            seed(tests)
            exec(compiled, {"__name__": "tests", "program": Program(self)})  # noqa: S102
        except BaseException as error:
            _, name, words = describe(error)
            if hasattr(error, "by_program"):
                self.finish("error", error.by_program)
            self.finish("failed", f"{name}: {words}" if words else name)
        self.finish("passed")

    def _started(self) -> Any:
        """First message of the other side, before it has seen any of the program."""
        try:
            return self.channel.receive()
        except (EOFError, OSError):
            return None


def _raised_by_program(kind: type[Exception], words: str, shown: str) -> Exception:
    """Exception of a builtin kind, marked as the program's; some kinds take more than words."""
    try:
        error = kind(words)
    except TypeError:
        error = RuntimeError(words)
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        error = RuntimeError(words)  # the tests' own loops must not take it for their end
    error.by_program = shown  # type: ignore[attr-defined]
    return error


# --- both --------------------------------------------------------------------------------


def limit(limits: dict[str, int]) -> None:
    """Set limits that cannot be raised again."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def mute() -> None:
    """Turn standard input, output and error to /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def main(side: str, limits: str, channel_fd: str) -> None:
    """Start one side; the tests' side is told everything on standard input."""
    if side == "program":
        channel = Channel(os.dup(int(channel_fd)))
        limit(json.loads(limits))
        mute()
        serve(channel)
    else:
        request = json.loads(sys.stdin.buffer.read())
        judge = Judge(Channel(int(channel_fd)), os.dup(1), request["nonce"])
        limit(json.loads(limits))
        mute()
        judge.run(request["code"], request["tests"])


if __name__ == "__main__":
    main(*sys.argv[1:])
