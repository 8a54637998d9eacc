"""A unit's SystemCallFilter and MemoryDenyWriteExecute without systemd: becomes a command in them.

python sandbox.py ALLOWED COMMAND ...     ALLOWED: a file with the names of the allowed calls
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_MDWE = 65  # prctl(2), Linux 6.3
_PR_MDWE_REFUSE_EXEC_GAIN = 1
_ACT_ALLOW = 0x7FFF0000  # seccomp_init(3)
_ACT_ERRNO = 0x00050000


def allowed(filters: Sequence[str]) -> list[str]:
    """Return the calls that the values of SystemCallFilter= leave, groups taken apart."""
    names: set[str] = set()
    for value in filters:
        listed = {call for each in value.lstrip("~").split() for call in _calls(each)}
        names = names - listed if value.startswith("~") else names | listed
    return sorted(names)


def _calls(name: str) -> list[str]:
    if not name.startswith("@"):
        return [name]
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.strip() for line in shown.splitlines()[1:]]
    members = [line for line in lines if line and not line.startswith("#")]
    return [call for member in members for call in _calls(member)]


def enter(calls: Sequence[str]) -> None:
    """Let this process and its children make these system calls only; others are EPERM."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)  # older kernels: without
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_rule_add.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
    )
    seccomp.seccomp_load.argtypes = (ctypes.c_void_p,)
    context = seccomp.seccomp_init(_ACT_ERRNO | errno.EPERM)
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number != -1:
            seccomp.seccomp_rule_add(context, _ACT_ALLOW, number, 0)
    if seccomp.seccomp_load(context):
        raise OSError("the filter of system calls cannot be loaded")


if __name__ == "__main__":
    enter(Path(sys.argv[1]).read_text().split())
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - it becomes the command
