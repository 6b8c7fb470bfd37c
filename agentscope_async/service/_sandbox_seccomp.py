"""The system calls that code in the sandbox may not make, as a program for the kernel.

A filter for seccomp(2): classic BPF over ``struct seccomp_data`` (linux/seccomp.h, linux/filter.h).
Refused calls fail with EPERM, and those newer than this list with ENOSYS, so that programs fall back
as they do on an older kernel; calls of another instruction set end the process. Namespaces and limits
are what keeps code in: this takes the kernel's most often broken parts out of its reach.
"""

from __future__ import annotations

import errno
import struct
from functools import cache

from ..errors import ConfigError

__all__ = ["ARCHITECTURES", "seccomp_program"]

ARCHITECTURES = ("x86_64", "aarch64")
"""Machines that the numbers below are known for."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h

_NEWEST = 462
"""``mseal``, Linux 6.10: numbers above were not judged, and the x32 calls lie far above."""

_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # name: its number on x86_64 (asm/unistd_64.h) and on aarch64 (asm-generic/unistd.h)
    "_sysctl": (156, None), "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171),
    "bpf": (321, 280), "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112),
    "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "listmount": (458, 458), "lookup_dcookie": (212, 18), "mbind": (237, 235),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "remap_file_pages": (216, 234), "request_key": (249, 218), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "semget": (64, 190), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "setpriority": (141, 140), "settimeofday": (164, 170), "shmget": (29, 194), "statmount": (457, 457),
    "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116), "sysfs": (139, None),
    "umount2": (166, 39), "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282),
    "ustat": (136, None), "vhangup": (153, 58), "vmsplice": (278, 75),
}  # fmt: skip

_CLONE, _CLONE3, _SOCKET, _IOCTL, _PRLIMIT = (56, 220), (435, 435), (41, 198), (16, 29), (302, 261)
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*, linux/sched.h
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: of these the sandbox has its own; AF_VSOCK it has not
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type into the terminal

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|..|K
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT = 0, 4

_Step = tuple[int, int, int, int]  # code, how far to jump if true, if false, constant


@cache
def seccomp_program(machine: str) -> bytes:
    """Return the filter for such a machine (``platform.machine()``), as ``bwrap --seccomp`` reads it.

    Raises:
        ConfigError: the numbers of its system calls are not known here.
    """
    if machine not in ARCHITECTURES:
        raise ConfigError(f"The sandbox has no system call filter for {machine!r}, only for {ARCHITECTURES}.")
    steps = [*_same_machine(_AUDIT_ARCH[machine]), *_by_number(ARCHITECTURES.index(machine))]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _same_machine(arch: int) -> list[_Step]:
    return [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL_PROCESS)]


def _by_number(column: int) -> list[_Step]:
    steps: list[_Step] = [(_LOAD, 0, 0, _NUMBER_AT), (_GREATER, 0, 1, _NEWEST), _fail(errno.ENOSYS)]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            steps += [(_EQUAL, 0, 1, number), _fail(errno.EPERM)]
    # clone3 keeps its flags in memory, where a filter cannot read; without it libc uses clone
    steps += [(_EQUAL, 0, 1, _CLONE3[column]), _fail(errno.ENOSYS)]
    steps += _if_call(_CLONE[column], [_argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _fail(errno.EPERM)])
    steps += _if_call(_SOCKET[column], [_argument(0), *_unless_one_of(_FAMILIES)])
    ioctl: list[_Step] = [_argument(1)]
    for request in _TERMINAL_INPUT:
        ioctl += [(_EQUAL, 0, 1, request), _fail(errno.EPERM)]
    steps += _if_call(_IOCTL[column], ioctl)
    # process 1 has the same user: only a process's own limits (0) may be changed
    steps += _if_call(_PRLIMIT[column], [_argument(0), (_EQUAL, 1, 0, 0), _fail(errno.EPERM)])
    return steps


def _if_call(number: int, checks: list[_Step]) -> list[_Step]:
    """Return steps that make the checks for this call and allow it when none of them ended it."""
    return [(_EQUAL, 0, len(checks) + 1, number), *checks, (_RETURN, 0, 0, _ALLOW)]


def _unless_one_of(values: tuple[int, ...]) -> list[_Step]:
    last = len(values) - 1
    tests = [(_EQUAL, last - at + 1, 0, value) for at, value in enumerate(values)]
    return [*tests, _fail(errno.EAFNOSUPPORT)]


def _argument(position: int) -> _Step:
    return (_LOAD, 0, 0, 16 + 8 * position)  # its lower half, on little-endian machines


def _fail(code: int) -> _Step:
    return (_RETURN, 0, 0, _FAIL | code)
