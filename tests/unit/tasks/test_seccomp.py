"""The filter, instruction by instruction, and in the kernel."""

from __future__ import annotations

import platform
import struct

import pytest

from basinscope.tasks import seccomp
from basinscope.tasks.sandbox import run_program


def decide(rules: bytes, architecture: int, number: int) -> int:
    """What the kernel would do: the instructions of the filter, one by one."""
    program = list(struct.iter_unpack("HBBI", rules))
    data = {0: number, 4: architecture}
    at, register = 0, 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            register = data[k]
        elif code == 0x06:
            return k
        else:
            met = register == k if code == 0x15 else register >= k
            at += if_true if met else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_names_and_nothing_else(machine):
    rules = seccomp.rules(machine)
    column, architecture = seccomp.MACHINES[machine]
    refused = {numbers[column] for numbers in seccomp.REFUSED.values()} - {None}
    for number in range(600):
        wanted = 0x00050001 if number in refused else 0x7FFF0000
        assert decide(rules, architecture, number) == wanted
    assert decide(rules, architecture, 0x40000000 + 39) == 0x00050001  # x32
    assert decide(rules, 0x40000003, 1) == 0x80000000  # i386


def test_no_number_is_given_twice():
    for column in range(2):
        numbers = [n[column] for n in seccomp.REFUSED.values() if n[column] is not None]
        assert len(set(numbers)) == len(numbers)


def test_the_kernel_refuses_each_of_them(bwrap):
    """Arguments that no call accepts: what is let through fails for another reason than EPERM."""
    column, _ = seccomp.MACHINES[platform.machine()]
    numbers = {n: v[column] for n, v in seccomp.REFUSED.items() if v[column] is not None}
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def f(number):\n"
        "    return libc.syscall(number, -1, -1, -1, -1, -1, -1), ctypes.get_errno()\n"
    )
    tests = (
        f"for name, number in {numbers!r}.items():\n"
        "    assert program.f(number) == (-1, 1), name\n"
        "assert program.f(100_000) == (-1, 38)\n"
    )
    assert run_program(code, tests=tests, allow=True).reason == "passed"


def test_descriptors_of_the_process_above_cannot_be_taken(bwrap):
    """Regression: pidfd_getfd gave the program bubblewrap's own, a file outside among them."""
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def f():\n"
        "    pid = libc.syscall(434, os.getppid(), 0)\n"
        "    return [fd for fd in range(16) if libc.syscall(438, pid, fd, 0) >= 0]\n"
    )
    assert run_program(code, tests="assert program.f() == []", allow=True).reason == "passed"
