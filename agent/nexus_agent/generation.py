"""The only writer of files for applications: whole directories, swapped in at once.

    <target>/
      KEY  -> ..data/KEY            what a reader opens
      ..data -> ..1780000000000     one symlink, swapped by rename: the only moment that matters
      ..1780000000000/KEY           a generation: mode and group are set before the name can be seen through ..data

A reader sees the old directory or the new one. One that wants several files of the same generation opens the directory
`..data` first and the files relative to it. When bytes, mode and group are what they were, nothing is touched.
"""

import itertools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nexus_agent import directories
from nexus_agent.errors import BadSettings
from nexus_agent.model import Sensitive

_DATA: Final = "..data"
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Access:
    """Who may read a set of files: the mode of the files, and their group (a gid) if it is not the agent's own."""

    mode: int = 0o400
    group: int | None = None

    @property
    def directory_mode(self) -> int:
        """Whoever may read the files may enter and list their directory."""
        return self.mode | (self.mode & 0o444) >> 2 | 0o300


def require_tmpfs(directory: Path, allow_disk: bool) -> None:
    """Create `directory` (0755) if it is missing, and refuse it unless it lives in memory and is ours alone to write.

    Raises `BadSettings`, naming the directory.
    """
    directories.make(directory, "give it to the agent's user, mode 0755, or set runtime.directory to another one")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise BadSettings(f"{directory}: the agent may not write into it", "give it to the agent's user")
    if not allow_disk and not is_tmpfs(directory):
        raise BadSettings(
            f"{directory}: not on tmpfs, so secrets would reach a disk",
            "choose a directory on tmpfs (such as one in /dev/shm), mount one there, or set runtime.allow_disk = true",
        )


def is_tmpfs(directory: Path) -> bool:
    """Whether what is written there stays in memory, by proc_pid_mountinfo(5)."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0] in ("tmpfs", "ramfs")
    return False


class Files:
    """One directory of files, whose owner is this process."""

    def __init__(self, target: Path, access: Access) -> None:
        self._target = target
        self._access = access

    @property
    def directory(self) -> Path:
        """Where a reader finds each file by its name, in this generation and the next ones."""
        return self._target

    def write(self, generation: int, contents: Mapping[str, Sensitive[bytes]]) -> bool:
        """Make `contents` what readers see, all at once. Returns whether anything had to change for them.

        Raises `OSError`; then readers still see what they saw before.
        """
        self._prepare()
        current = self._current()
        if current is not None and self._same(current, contents):
            return self._link(contents)
        fresh = self._unused(generation)
        try:
            self._build(fresh, contents)
            self._link(contents)
            self._point(self._target / _DATA, fresh.name)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        self._unlink(contents)
        self._sweep(keep={fresh.name} | ({current.name} if current else set()))
        return True

    def forget_previous(self) -> None:
        """Take away every generation but the present one."""
        current = self._current()
        self._sweep(keep={current.name} if current else set())

    def _unused(self, generation: int) -> Path:
        """A name that is not taken: an earlier try may have left one behind, or be the present one."""
        suffixes = itertools.chain(("",), (f"-{number}" for number in itertools.count(1)))
        return next(p for suffix in suffixes if not (p := self._target / f"..{generation}{suffix}").exists())

    def _prepare(self) -> None:
        directories.make_passable(self._target.parent)
        self._target.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._target, _DIRECTORY_FLAGS)
        try:
            self._give(descriptor, self._access.directory_mode)
        finally:
            os.close(descriptor)

    def _give(self, descriptor: int, mode: int) -> None:
        group = self._access.group
        if group is not None and os.fstat(descriptor).st_gid != group:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, mode)

    def _current(self) -> Path | None:
        try:
            current = self._target / os.readlink(self._target / _DATA)
        except FileNotFoundError:
            return None
        return current if current.is_dir() else None

    def _same(self, current: Path, contents: Mapping[str, Sensitive[bytes]]) -> bool:
        if set(os.listdir(current)) != set(contents):
            return False
        group = self._access.group
        for name, content in contents.items():
            status = os.lstat(current / name)
            right = status.st_mode & 0o777 == self._access.mode and (group is None or status.st_gid == group)
            if not right or (current / name).read_bytes() != content.reveal():
                return False
        return True

    def _build(self, fresh: Path, contents: Mapping[str, Sensitive[bytes]]) -> None:
        fresh.mkdir(mode=0o700)
        directory = os.open(fresh, _DIRECTORY_FLAGS)
        try:
            for name, content in contents.items():
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o600, dir_fd=directory)
                with open(descriptor, "wb") as file:
                    self._give(descriptor, self._access.mode)
                    file.write(content.reveal())
            self._give(directory, self._access.directory_mode)
        finally:
            os.close(directory)

    def _link(self, contents: Mapping[str, Sensitive[bytes]]) -> bool:
        """Each name through `..data`; a new one leads nowhere before the swap, as if it were not there. Returns whether
        any had to be made or mended."""
        wrong = [name for name in contents if not _leads_to(self._target / name, f"{_DATA}/{name}")]
        for name in wrong:
            self._point(self._target / name, f"{_DATA}/{name}")
        return bool(wrong)

    def _point(self, link: Path, goal: str) -> None:
        """A symlink, made or changed in one step. Raises `OSError` where something else has the name."""
        staged = self._target / "..new"
        staged.unlink(missing_ok=True)
        staged.symlink_to(goal)
        try:
            staged.rename(link)
        except OSError:
            staged.unlink()
            raise

    def _unlink(self, contents: Mapping[str, Sensitive[bytes]]) -> None:
        for entry in self._target.iterdir():
            if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in contents:
                entry.unlink()

    def _sweep(self, keep: set[str]) -> None:
        """Generations that are not to be kept go, and whatever a kill left."""
        for entry in self._target.iterdir():
            if entry.name.startswith("..") and entry.name not in keep and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)


def _leads_to(link: Path, goal: str) -> bool:
    return link.is_symlink() and os.readlink(link) == goal
