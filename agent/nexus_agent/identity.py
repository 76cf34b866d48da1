"""Where the credential of a service comes from, read anew for each request, so that a rotated key is used at once."""

import os
import select
import stat
from pathlib import Path

from nexus_agent.errors import BadSettings
from nexus_agent.model import Sensitive
from nexus_agent.settings import CredentialSource, SourceKind
from nexus_agent.wire import is_known_key, is_public_key

_MOST_BYTES = 4096


class Credential:
    """The key of one service. `read()` gives it, `public` says by its prefix that anybody may know it. A pipe that says
    nothing is waited for `patience` seconds."""

    def __init__(self, source: CredentialSource, service: str, patience: float = 5.0) -> None:
        self._patience = patience
        self._source = source
        self._service = service
        self._once: Sensitive[str] | None = None  # of what can be read only once, or does not change

    def read(self) -> Sensitive[str]:
        """The key as it is now. Raises `BadSettings`, naming the service and the source."""
        if self._once is not None:
            return self._once
        if self._source.kind is SourceKind.DESCRIPTOR:
            self._once = self._checked(self._read_descriptor())
            return self._once
        if self._source.kind is SourceKind.VALUE:
            self._once = self._checked(os.fsencode(self._source.value.reveal()))
            return self._once
        # systemd may give a unit's user access to its credentials by an ACL, which shows as bits of the group.
        forbidden = 0o007 if self._source.kind is SourceKind.CREDENTIAL else 0o077
        return self._checked(_read_private(self._source.path, self._where(), forbidden))

    @property
    def public(self) -> bool:
        """Whether the present key is a public one."""
        return is_public_key(self.read().reveal())

    @property
    def known(self) -> bool:
        """Whether the present key begins like one that Nexus gives out."""
        return is_known_key(self.read().reveal())

    def _where(self) -> str:
        return f"service {self._service}: credential {self._source.label}"

    def _read_descriptor(self) -> bytes:
        """Everything up to the end, or to the end of a line: the writer may keep its side open."""
        key = b""
        try:
            with open(self._source.descriptor, "rb", buffering=0) as pipe:
                while b"\n" not in key and len(key) < _MOST_BYTES:
                    if not select.select((pipe,), (), (), self._patience)[0]:
                        hint = "write the key and a newline to it, or close it"
                        raise BadSettings(f"{self._where()}: nothing came for {self._patience:.0f} s", hint)
                    if not (piece := pipe.read(_MOST_BYTES)):
                        break
                    key += piece
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no open descriptor"
            raise BadSettings(f"{self._where()}: {reason}", "pass the key on an open descriptor") from None
        return key

    def _checked(self, raw: bytes) -> Sensitive[str]:
        text = raw.strip()
        if not text:
            raise BadSettings(f"{self._where()}: is empty", "write the key of the service into it")
        if not text.isascii() or not text.decode("ascii").isprintable() or b" " in text:
            raise BadSettings(f"{self._where()}: holds more than one key", "write the bare key on one line")
        return Sensitive(text.decode("ascii"))


def _read_private(path: Path, where: str, forbidden: int) -> bytes:
    """A regular file of ours or root's that nobody else may read: `forbidden` are the mode's bits for others."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadSettings(f"{where}: there is no such file", "create it with mode 0600, or correct the path") from None
    except OSError as error:
        raise BadSettings(f"{where}: {error.strerror}", "check its owner and mode; a symlink is refused") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BadSettings(f"{where}: is no regular file", "name the file that holds the key")
    with open(descriptor, "rb") as file:
        if status.st_uid not in (0, os.geteuid()):
            raise BadSettings(f"{where}: belongs to another user", "give it to root or to the agent's user")
        if status.st_mode & forbidden:
            raise BadSettings(f"{where}: others may read it", "chmod 600 (or 400) the file")
        return file.read(_MOST_BYTES)
