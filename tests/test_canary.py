"""The search for the canary finds what it must, or it would prove nothing."""

import base64
from pathlib import Path

import pytest

from rig import canary

OTHER = "another-value-that-only-this-test-uses"


@pytest.mark.parametrize("offset", range(4))
def test_finds_the_value_in_base64_at_every_offset(offset: int) -> None:
    """Values travel as base64 between our own processes, so a leak may look like that."""
    assert canary.found_in(base64.b64encode(b"x" * offset + OTHER.encode() + b"rest"), OTHER)


def test_finds_the_value_in_files_and_only_there(tmp_path: Path) -> None:
    """The control of the whole suite's last check."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "leak").write_bytes(b"\0\1" + OTHER.encode())
    (tmp_path / "clean").write_text("nothing here")
    assert list(canary.search(tmp_path, OTHER)) == [tmp_path / "deep" / "leak"]
