"""Becoming the command: its environment in bytes, and the one call after which there is nothing left of us."""

import ctypes
import errno
import os
import signal
from collections.abc import Sequence
from typing import NoReturn

from nexus_run.failure import Failed, shown

_OWN = (b"NEXUS_API_KEY", b"WESTYX_DEV_TOKEN")
# What execvp(3) goes on after; whatever else is wrong would be wrong everywhere.
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG)


def name_of(string: bytes) -> bytes:
    """What stands before the first '=' of an environment string."""
    return string.partition(b"=")[0]


def environment(inherited: Sequence[bytes], secrets: Sequence[bytes]) -> "list[bytes]":
    """What is inherited, in its order and with what it has twice, less what is ours or replaced; then the secrets."""
    dropped = {*map(name_of, secrets), *_OWN}
    kept = [s for s in inherited if name_of(s) not in dropped and not s.startswith(b"NEXUS_RUN_")]
    return [*kept, *secrets]


def become(command: Sequence[bytes], strings: Sequence[bytes]) -> NoReturn:
    """Replace this process by the command. Raises `Failed` when that cannot be done."""
    program = command[0]
    path = next((s.partition(b"=")[2] for s in strings if name_of(s) == b"PATH"), b"/bin:/usr/bin")
    candidates = [program] if b"/" in program else [os.path.join(place, program) for place in path.split(b":")]
    candidates = candidates if program else []
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    worst = errno.ENOENT
    for candidate in candidates:
        failed = _execve(candidate, command, strings)
        if failed not in _ELSEWHERE:
            raise _why(failed, shown(program))
        if failed == errno.EACCES:
            worst = failed
    raise _why(worst, shown(program))


def _execve(path: bytes, command: Sequence[bytes], strings: Sequence[bytes]) -> int:
    """execve(2) itself, as Python's own takes no name twice and none that is empty. Returns errno."""

    def array(items: Sequence[bytes]) -> "ctypes.Array[ctypes.c_char_p]":
        return (ctypes.c_char_p * (len(items) + 1))(*items, None)

    libc = ctypes.CDLL(None, use_errno=True)
    libc.execve(path, array(command), array(strings))
    return ctypes.get_errno()


def _why(number: int, program: str) -> Failed:
    if number == errno.ENOENT and os.path.exists(os.fsencode(program)) and "/" in program:
        return Failed("not_found", f"{program} names an interpreter that is not there", "check its first line", 127)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return Failed("not_found", f"there is no program {program or 'without a name'}", "check the name and PATH", 127)
    if number == errno.E2BIG:
        what = "environment and arguments are more than the system takes"
        return Failed("too_large", what, "leave keys out, or pass large values as file secrets")
    if number == errno.ENOEXEC:
        hint = "a script needs a first line #!..."
        return Failed("not_executable", f"{program} is no program for this machine", hint, 126)
    return Failed(
        "not_executable", f"{program}: {os.strerror(number)}", "check its mode and what is mounted noexec", 126
    )
