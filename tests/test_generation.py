"""Files for applications: whole sets, swapped at once, touched only when something changed."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from nexus_agent.errors import BadSettings
from nexus_agent.generation import Access, Files, is_tmpfs, require_tmpfs
from nexus_agent.model import Sensitive


def contents(**texts: str) -> dict[str, Sensitive[bytes]]:
    """File contents by name."""
    return {name: Sensitive(text.encode()) for name, text in texts.items()}


def read(files: Files) -> dict[str, str]:
    """What a reader sees."""
    return {path.name: path.read_text() for path in files.directory.iterdir() if not path.name.startswith("..")}


@pytest.fixture
def files(run_dir: Path) -> Files:
    """A set of a service."""
    return Files(run_dir / "shop" / "files", Access())


def test_a_generation_appears_and_what_is_gone_disappears(files: Files) -> None:
    """The names that users see follow the newest one."""
    assert files.write(1, contents(a="1", b="2"))
    assert read(files) == {"a": "1", "b": "2"}
    assert files.write(2, contents(b="3", c="4"))
    assert read(files) == {"b": "3", "c": "4"}
    assert files.write(3, {})
    assert read(files) == {}


def test_nothing_is_touched_when_nothing_changed(files: Files) -> None:
    """Same inode, same time; and a changed mode is a change."""
    files.write(1, contents(a="1"))
    before = (files.directory / "a").stat()
    assert not files.write(2, contents(a="1"))
    after = (files.directory / "a").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    (files.directory / "a").chmod(0o644)
    assert files.write(3, contents(a="1"))
    assert (files.directory / "a").stat().st_mode & 0o777 == 0o400
    (files.directory / "a").unlink()
    assert files.write(4, contents(a="1"))
    assert read(files) == {"a": "1"}


@pytest.mark.parametrize(
    ("access", "file_mode", "directory_mode"),
    [(Access(), 0o400, 0o700), (Access(0o440, os.getegid()), 0o440, 0o750)],
    ids=["own", "group"],
)
def test_modes(run_dir: Path, access: Access, file_mode: int, directory_mode: int) -> None:
    """Whatever the umask is, and the way there is passable for whoever may read."""
    old = os.umask(0o077)
    try:
        files = Files(run_dir / "shop" / "files", access)
        files.write(1, contents(a="1"))
    finally:
        os.umask(old)
    assert (files.directory / "a").stat().st_mode & 0o777 == file_mode
    for directory in (files.directory, files.directory / "..data"):
        assert directory.stat().st_mode & 0o777 == directory_mode
    assert files.directory.parent.stat().st_mode & 0o777 == 0o755


def test_what_a_kill_left_is_swept_and_repaired(files: Files) -> None:
    """A half-built directory, a staged link, a link without its file."""
    files.write(1, contents(a="1"))
    half = files.directory / "..7"
    half.mkdir()
    (half / "a").write_text("half")
    (files.directory / "..new").symlink_to("..7")
    (files.directory / "old").symlink_to("..data/old")
    files.write(8, contents(a="2"))
    assert read(files) == {"a": "2"}
    assert sorted(path.name for path in files.directory.iterdir()) == ["..1", "..8", "..data", "a"]


def test_links_are_mended_also_when_no_value_changed(files: Files) -> None:
    """One that leads elsewhere would show a reader something else for ever."""
    files.write(1, contents(a="1"))
    (files.directory / "a").unlink()
    (files.directory / "a").symlink_to("/etc/hostname")
    assert files.write(2, contents(a="1"))
    assert read(files) == {"a": "1"}
    assert not files.write(3, contents(a="1"))


def test_what_was_before_goes_when_it_is_told_to(files: Files) -> None:
    """A key that is gone from Nexus is not to lie there for ever."""
    files.write(1, contents(a="1"))
    files.write(2, contents(b="2"))
    assert sorted(path.name for path in files.directory.iterdir()) == ["..1", "..2", "..data", "b"]
    files.forget_previous()
    assert sorted(path.name for path in files.directory.iterdir()) == ["..2", "..data", "b"]
    assert read(files) == {"b": "2"}


def test_no_try_touches_what_readers_see(run_dir: Path, roles: None) -> None:
    """A tmpfs without a name left, and a directory where a link belongs: again and again, and then there is room."""
    place = run_dir / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=16,mode=755", "none", place], check=True)
    try:
        files = Files(place / "files", Access())
        files.write(1, contents(a="1"))
        many = contents(**{f"k{number}": "x" for number in range(10)})
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                files.write(2, many)
            assert read(files) == {"a": "1"}
        (place / "files" / "b").mkdir()
        for _ in range(3):
            with pytest.raises(OSError, match="directory"):
                files.write(3, contents(a="2", b="2"))
            assert (files.directory / "a").read_text() == "1"
        (place / "files" / "b").rmdir()
        assert files.write(3, contents(a="2", b="2"))
        assert read(files) == {"a": "2", "b": "2"}
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_failure_leaves_the_old_generation(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, as the kernel tells it."""
    files.write(1, contents(a="1"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)  # the machine's answer; nothing of ours is replaced
    with pytest.raises(OSError, match="No space left"):
        files.write(2, contents(a="2"))
    monkeypatch.undo()
    assert read(files) == {"a": "1"}


def test_readers_that_hold_the_directory_never_see_a_mixture(files: Files, rounds: int) -> None:
    """Two files of one generation, read beside a writer that swaps."""
    files.write(1, contents(a="1", b="1"))
    stop = threading.Event()

    def swap() -> None:
        number = 1
        while not stop.is_set():
            number += 1
            files.write(number, contents(a=str(number), b=str(number)))

    writer = threading.Thread(target=swap)
    writer.start()
    try:
        seen = set()
        for _ in range(500 * rounds):
            try:
                directory = os.open(files.directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                raise AssertionError("the swap left a gap") from None
            try:
                texts = []
                for name in ("a", "b"):
                    with open(os.open(name, os.O_RDONLY, dir_fd=directory)) as file:
                        texts.append(file.read())
            except FileNotFoundError:
                continue  # two swaps later: the directory is gone, and a reader opens the next one
            finally:
                os.close(directory)
            assert texts[0] == texts[1]
            seen.add(texts[0])
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1  # the control: the writer really swapped meanwhile


def test_the_place_must_be_in_memory_and_ours(run_dir: Path, tmp_path: Path) -> None:
    """Made if it is missing, refused if others may write or it is on a disk."""
    require_tmpfs(run_dir / "new" / "deep", allow_disk=False)
    assert (run_dir / "new" / "deep").stat().st_mode & 0o777 == 0o755
    (run_dir / "new").chmod(0o777)
    with pytest.raises(BadSettings, match="others may write"):
        require_tmpfs(run_dir / "new", allow_disk=False)
    with pytest.raises(BadSettings, match="cannot be made"):
        require_tmpfs(Path("/proc/nothing/here"), allow_disk=True)
    if is_tmpfs(tmp_path):
        pytest.skip("the temporary directory of this machine is a tmpfs itself")
    with pytest.raises(BadSettings, match="not on tmpfs"):
        require_tmpfs(tmp_path, allow_disk=False)
    require_tmpfs(tmp_path, allow_disk=True)
