"""Who is at the other end of a Unix socket, by the kernel's word: SO_PEERCRED (unix(7)), SO_PEERGROUPS (Linux 4.13)."""

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final, Protocol

_UCRED: Final = struct.Struct("=iII")
_SO_PEERGROUPS: Final = 59
_USUAL_GROUPS: Final = 128
_MOST_GROUPS: Final = 65_536  # NGROUPS_MAX
# The uid that the kernel shows for one that has no name in this user namespace. It is nobody in particular.
OVERFLOW_UID: Final = 65_534


class HasOptions(Protocol):
    """The part of a socket that is read here; asyncio's transports give no more."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """See socket(7)."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """A process as the kernel saw it when it connected. `pid` 0 means that it lives in a pid namespace of its own."""

    pid: int
    uid: int
    gids: frozenset[int]


def caller(connection: HasOptions) -> Caller:
    """The process that connected. Raises `OSError` when the connection is not a Unix socket."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Caller(pid, uid, frozenset({gid, *_supplementary(connection)}))


def _supplementary(connection: HasOptions) -> tuple[int, ...]:
    for room in (_USUAL_GROUPS, _MOST_GROUPS):
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, room * 4)
        except OSError as error:
            if error.errno == errno.ERANGE:
                continue
            return ()  # an older kernel: only the primary group is certain
        return struct.unpack(f"={len(raw) // 4}I", raw)
    return ()
