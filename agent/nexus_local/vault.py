"""Sealing of secret versions: AES-256-GCM under a key that lies beside the database, never in it.

A sealed value is `version byte (1) | nonce (12) | ciphertext | tag (16)`. The associated data name what the value
belongs to, each part with its length before it, so that a row that is moved to another service, key or version does not
open. A nonce is random; with one key, 2^32 values may be sealed before chance matters (NIST SP 800-38D, 8.3).
"""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nexus_agent.errors import VaultError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class Vault:
    """Seals and opens values with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, value: bytes, *context: str) -> bytes:
        """`value`, readable again only with this key and the same context."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, value, _bound(context))

    def open(self, sealed: bytes, *context: str) -> bytes:
        """What was sealed. Raises `VaultError` for another key, another context, or a changed byte."""
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        what = " version ".join(context[-2:])
        if sealed[:1] != _FORMAT:
            raise VaultError(f"{what}: sealed in a format that is not known here")
        try:
            return self._cipher.decrypt(nonce, ciphertext, _bound(context))
        except (InvalidTag, ValueError):
            raise VaultError(
                f"{what}: does not open",
                "the key file is another one than it was sealed with, or the row was changed",
            ) from None


def _bound(context: tuple[str, ...]) -> bytes:
    parts = ("nexus-local", *context)
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def read_or_make_key(path: Path, may_make: bool) -> bytes:
    """The key in `path`, made (0600, whole or not at all) if there is none and `may_make`. Raises `VaultError`."""
    if may_make and not path.exists():
        _make_key(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            key = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise VaultError(
            f"{path}: the key cannot be read: {error.strerror}",
            "the database beside it cannot be read without this file: bring it back from your backup",
        ) from None
    if len(key) != _KEY_BYTES:
        raise VaultError(f"{path}: is no key of {_KEY_BYTES} bytes", "bring the file back from your backup")
    if path.stat().st_mode & 0o077:
        raise VaultError(f"{path}: others may read the key", "chmod 600 the file")
    return key


def _make_key(path: Path) -> None:
    staged = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        os.link(staged, path)  # unlike a rename, it never replaces the key that another process has just made
    except FileExistsError:
        pass
    finally:
        staged.unlink()
