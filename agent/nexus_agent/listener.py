"""The local socket as a file: one agent at a time, never seen with a wrong mode, gone after a clean stop."""

import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus_agent import directories
from nexus_agent.errors import AlreadyRunning, BadSettings
from nexus_agent.settings_fields import SOCKET_PATH_BYTES

BACKLOG = 1024
_ADVICE = "choose a socket in a directory of the user who listens, mode 0755"


class Lock:
    """A lock file that this process holds as long as it lives. The file stays: removing one is a race."""

    def __init__(self, path: Path, what: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BadSettings(f"{path}: cannot be opened: {error.strerror}", "check the directory's owner") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AlreadyRunning(f"another process holds {what}", "stop it first, or choose another path") from None

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket and what is to be undone at the end. Use it as a context manager."""

    path: Path
    socket: socket.socket
    lock: Lock
    inode: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        if self.path.is_socket() and self.path.stat().st_ino == self.inode:
            self.path.unlink()
        self.lock.release()


def listen(path: Path, mode: int, group: int | None = None) -> Listener:
    """Bind and listen at `path`. The socket of a dead agent is taken over, that of a live one is not.

    Raises `AlreadyRunning` when somebody listens there, and `BadSettings` when the directory does not fit: only the
    agent and root may write into it, else somebody else could put a socket of his own in its place.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise BadSettings(f"{path}: over {SOCKET_PATH_BYTES} bytes, too long for a socket", "choose a shorter path")
    directories.make(path.parent, _ADVICE)
    lock = Lock(path.with_name(f"{path.name}.lock"), f"the socket {path}")
    try:
        _clear(path)
        return _bind(path, mode, group, lock)
    except BaseException:
        lock.release()
        raise


def _clear(path: Path) -> None:
    if not path.is_symlink() and not path.exists():
        return
    if not path.is_socket():
        raise BadSettings(f"{path}: there is something that is no socket", "move it away, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # alive, but not for us or not now
    raise AlreadyRunning(f"another process listens on {path}", "stop it first, or choose another path")


def _bind(path: Path, mode: int, group: int | None, lock: Lock) -> Listener:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old_mask = os.umask(0o777)  # until its owner and mode are right, nobody can connect
    try:
        listener.bind(str(path))
        os.umask(old_mask)
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        path.unlink(missing_ok=True)
        raise BadSettings(
            f"{path}: cannot listen there: {error.strerror}",
            "whoever listens needs to own the directory, and to be a member of the socket's group",
        ) from None
    finally:
        os.umask(old_mask)
    return Listener(path, listener, lock, path.stat().st_ino)
