"""Directories whose content others must not be able to replace: readers may pass through, nobody else may write."""

import os
from pathlib import Path

from nexus_agent.errors import BadSettings


def make_passable(directory: Path) -> None:
    """Make `directory`, if it is missing, such that every reader may pass through, whatever the umask is. Raises
    `OSError`."""
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True)
        directory.chmod(0o755)


def make(directory: Path, advice: str) -> None:
    """The same, and require that it is ours alone. Raises `BadSettings` with `advice` on what to do."""
    try:
        make_passable(directory)
    except OSError as error:
        raise BadSettings(f"{directory}: cannot be made: {error.strerror}", advice) from None
    require_own(directory, advice)


def require_own(path: Path, advice: str) -> None:
    """Raises `BadSettings` for a file or directory of another user than us and root, or one that others may write."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadSettings(f"{path}: cannot be looked at: {error.strerror}", advice) from None
    if status.st_uid not in (0, os.geteuid()):
        raise BadSettings(f"{path}: belongs to another user", advice)
    if status.st_mode & 0o022:
        raise BadSettings(f"{path}: others may write to it", advice)
