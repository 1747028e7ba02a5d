"""The system calls that a sandboxed program may not make, as a filter for the kernel.

What is refused, and why nothing else would stop it:

- processes and threads: RLIMIT_NPROC counts per user, and not at all for root;
- sockets: AF_VSOCK knows no network namespace;
- shared segments and memfds: RLIMIT_AS does not count them;
- whatever reaches into another process: bubblewrap's own first process lives in the same namespace
  and holds descriptors from outside, which ``pidfd_getfd`` would hand over;
- namespaces, mounts, handles, keys, the kernel's log, tracing and loading of code into the kernel:
  most of it needs privileges that the sandbox does not have; none of it is needed;
- flushing the disks of the whole machine.
"""

from __future__ import annotations

import struct
from typing import Final

from basinscope.errors import BasinscopeError

REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # name: number on (x86_64, aarch64); None: does not exist there
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
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "modify_ldt": (154, None),
    "syslog": (103, 116),
    "sync": (162, 81),
    "syncfs": (306, 267),
}
MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # AUDIT_ARCH_*
_X32: Final = 0x40000000  # numbers of x86_64's other ABI start here


def rules(machine: str) -> bytes:
    """Filter for the kernel: a classic BPF program over (number, architecture) of a call.

    Calls of `REFUSED` fail with EPERM; a call in the convention of another architecture kills.
    """
    if machine not in MACHINES:
        raise BasinscopeError(
            f"no sandbox for a machine of type {machine!r}", ", ".join(MACHINES), "another machine"
        )
    column, architecture = MACHINES[machine]
    numbers = [n[column] for n in REFUSED.values() if n[column] is not None]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, 0x80000000),  # SECCOMP_RET_KILL_PROCESS
        (load, 0, 0, 0),
        (at_least, len(numbers) + 1, 0, _X32),
        *((equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        (give, 0, 0, 0x00050001),  # SECCOMP_RET_ERRNO with EPERM
    ]
    return b"".join(struct.pack("HBBI", *rule) for rule in program)
