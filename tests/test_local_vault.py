"""Sealing of versions, and the key file beside the database."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent.errors import VaultError
from nexus_local.vault import Vault, read_or_make_key

KEY = bytes(range(32))


@given(st.binary(max_size=200), st.lists(st.text(max_size=20), max_size=4))
def test_what_is_sealed_opens_with_the_same_context(value: bytes, context: list[str]) -> None:
    """Any value under any context, and never twice the same bytes."""
    vault = Vault(KEY)
    sealed = vault.seal(value, *context)
    assert vault.open(sealed, *context) == value
    assert sealed != vault.seal(value, *context)


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_no_other_context_opens_it(sealed_for: list[str], opened_for: list[str]) -> None:
    """Not even one whose parts give the same text when they are joined."""
    vault = Vault(KEY)
    sealed = vault.seal(b"v", *sealed_for)
    if sealed_for == opened_for:
        assert vault.open(sealed, *opened_for) == b"v"
    else:
        with pytest.raises(VaultError):
            vault.open(sealed, *opened_for)


def test_every_flipped_bit_is_found() -> None:
    """Format byte, nonce, ciphertext and tag."""
    vault = Vault(KEY)
    sealed = vault.seal(b"value", "a")
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(VaultError):
            vault.open(bytes(changed), "a")


@pytest.mark.parametrize("length", range(30))
def test_what_is_cut_short_is_found(length: int) -> None:
    """Down to nothing."""
    vault = Vault(KEY)
    with pytest.raises(VaultError):
        vault.open(vault.seal(b"value", "a")[:length], "a")


def test_another_key_opens_nothing() -> None:
    """And the error says whose fault that may be."""
    with pytest.raises(VaultError, match="a: does not open") as caught:
        Vault(bytes(32)).open(Vault(KEY).seal(b"value", "a"), "a")
    assert "another one" in caught.value.hint


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    """0600 whatever the umask, the same at the second call, and no other file is left."""
    old = os.umask(0)
    try:
        key = read_or_make_key(tmp_path / "key", may_make=True)
    finally:
        os.umask(old)
    assert (len(key), (tmp_path / "key").stat().st_mode & 0o777) == (32, 0o600)
    assert read_or_make_key(tmp_path / "key", may_make=True) == key
    assert os.listdir(tmp_path) == ["key"]


def test_keys_that_are_not_taken(tmp_path: Path) -> None:
    """Missing where one must be, of another length, or readable by others."""
    path = tmp_path / "key"
    with pytest.raises(VaultError, match="cannot be read"):
        read_or_make_key(path, may_make=False)
    path.write_bytes(bytes(31))
    path.chmod(0o600)
    with pytest.raises(VaultError, match="no key of 32 bytes"):
        read_or_make_key(path, may_make=True)
    path.write_bytes(bytes(32))
    path.chmod(0o640)
    with pytest.raises(VaultError, match="others may read"):
        read_or_make_key(path, may_make=True)
