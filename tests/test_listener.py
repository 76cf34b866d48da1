"""The local socket as a file."""

import os
import socket
import stat
from pathlib import Path

import pytest

from nexus_agent.errors import AlreadyRunning, BadSettings
from nexus_agent.listener import listen


def test_it_is_there_with_its_mode_and_gone_afterwards(run_dir: Path) -> None:
    """Bound under a umask that lets nobody in, so it never exists with another mode."""
    path = run_dir / "deep" / "agent.sock"
    with listen(path, 0o660, os.getegid()):
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert status.st_mode & 0o777 == 0o660
        assert path.parent.stat().st_mode & 0o777 == 0o755
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_one_at_a_time(run_dir: Path) -> None:
    """The second is refused, also by a listener that holds no lock; afterwards the place is free."""
    path = run_dir / "agent.sock"
    with listen(path, 0o666), pytest.raises(AlreadyRunning, match="holds the socket"):
        listen(path, 0o666)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(AlreadyRunning, match="listens on"):
            listen(path, 0o666)
    with listen(path, 0o666):  # the other one is dead now, and its socket is still there
        pass


def test_what_is_there_and_no_socket_stays(run_dir: Path) -> None:
    """Nobody's file is removed."""
    path = run_dir / "agent.sock"
    path.write_text("precious")
    with pytest.raises(BadSettings, match="no socket"):
        listen(path, 0o666)
    assert path.read_text() == "precious"


def test_a_socket_that_somebody_else_put_there_is_not_removed(run_dir: Path) -> None:
    """At the end only our own goes."""
    path = run_dir / "agent.sock"
    with listen(path, 0o666):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.is_socket()
    other.close()


def test_places_that_do_not_fit(run_dir: Path) -> None:
    """A directory that others may write, one that cannot be made, and a path that is too long."""
    run_dir.chmod(0o777)
    with pytest.raises(BadSettings, match="others may write"):
        listen(run_dir / "agent.sock", 0o666)
    with pytest.raises(BadSettings, match="cannot be made"):
        listen(Path("/proc/nothing/agent.sock"), 0o666)
    with pytest.raises(BadSettings, match="too long"):
        listen(run_dir / ("x" * 100) / "agent.sock", 0o666)
