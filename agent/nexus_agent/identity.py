"""Where the credential of a service comes from, read anew for each request, so that a rotated key is used at once."""

import os
import stat
from pathlib import Path

from nexus_agent.errors import BadSettings
from nexus_agent.model import Sensitive
from nexus_agent.settings import CredentialSource, SourceKind
from nexus_agent.wire import is_known_key, is_public_key

_MOST_BYTES = 4096


class Credential:
    """The key of one service. `read()` gives it, `public` says by its prefix that anybody may know it."""

    def __init__(self, source: CredentialSource, service: str) -> None:
        self._source = source
        self._service = service
        self._once: Sensitive[str] | None = source.value if source.kind is SourceKind.VALUE else None

    def read(self) -> Sensitive[str]:
        """The key as it is now. Raises `BadSettings`, naming the service and the source."""
        if self._once is not None:
            return self._once
        if self._source.kind is SourceKind.DESCRIPTOR:
            self._once = self._checked(self._read_descriptor())  # a pipe can be read only once
            return self._once
        return self._checked(_read_private(self._source.path, self._where()))

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
        try:
            with open(self._source.descriptor, "rb") as pipe:
                return pipe.read(_MOST_BYTES)
        except OSError as error:
            raise BadSettings(f"{self._where()}: {error.strerror}", "pass the key on an open descriptor") from None

    def _checked(self, raw: bytes) -> Sensitive[str]:
        text = raw.strip()
        if not text:
            raise BadSettings(f"{self._where()}: is empty", "write the key of the service into it")
        if not text.isascii() or not text.decode("ascii").isprintable() or b" " in text:
            raise BadSettings(f"{self._where()}: holds more than one key", "write the bare key on one line")
        return Sensitive(text.decode("ascii"))


def _read_private(path: Path, where: str) -> bytes:
    """A regular file of ours or root's that nobody else may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadSettings(f"{where}: there is no such file", "create it with mode 0600, or correct the path") from None
    except OSError as error:
        raise BadSettings(f"{where}: {error.strerror}", "check its owner and mode; a symlink is refused") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadSettings(f"{where}: is no regular file", "name the file that holds the key")
        if status.st_uid not in (0, os.geteuid()):
            raise BadSettings(f"{where}: belongs to another user", "give it to root or to the agent's user")
        if status.st_mode & 0o077:
            raise BadSettings(f"{where}: others may read it", "chmod 600 (or 400) the file")
        return file.read(_MOST_BYTES)
