"""What a single setting may look like. Each function takes what was written and gives what is meant, or raises
`ValueError` with the rest of a sentence that begins with the setting's name; what has another type is pydantic's."""

import grp
import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_LONGEST_SECONDS = 7 * 86400.0
_LARGEST_ID = 2**32 - 2
# sockaddr_un holds 108 bytes with the final NUL (unix(7)).
SOCKET_PATH_BYTES = 107


def seconds(value: object) -> object:
    """A duration in seconds, from one to a week: `300`, `"5m"`, `"1500ms"`."""
    advice = 'write a number with ms, s, m, h or d, such as "5m"'
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d|)", value.strip(), re.ASCII)
        if match is None:
            raise ValueError(f"is no duration: {advice}")
        value = float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is no duration: {advice}")
    if not 1 <= value <= _LONGEST_SECONDS:
        raise ValueError("is not between 1s and 7d")
    return float(value)


def mode(value: object) -> object:
    """A file mode in octal, as text: a bare 440 in TOML would be a decimal number."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('is no file mode: write it in octal and in quotes, such as "0660"')
    return int(value, 8)


def group(value: object) -> object:
    """A group's number, from that or from its name on this machine."""
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        number = int(value[:20])
    if isinstance(number, str) and number and "\0" not in number:
        try:
            return grp.getgrnam(number).gr_gid
        except KeyError:
            advice = "create it with groupadd, or write another name"
            raise ValueError(f"there is no such group on this machine; {advice}") from None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _LARGEST_ID:
        raise ValueError("is no group: write its name or its number")
    return number


def absolute_path(value: Path) -> Path:
    """A path that means the same from wherever it is looked at."""
    if not value.is_absolute() or "\0" in str(value):
        raise ValueError("needs an absolute path")
    return value


def endpoint(value: object) -> object:
    """Where a service is: https, http on loopback only, or `unix:/PATH`; without a slash at its end."""
    if not isinstance(value, str):
        return value
    text = value.strip().rstrip("/")
    if text.startswith("unix:"):
        if not text.startswith("unix:/") or "\0" in text:
            raise ValueError("needs an absolute path after unix:")
        if len(os.fsencode(text.removeprefix("unix:"))) > SOCKET_PATH_BYTES:
            raise ValueError(f"names a path of over {SOCKET_PATH_BYTES} bytes, too long for a socket")
        return text
    parts = _split(text)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or (parts.path or parts.query or parts.fragment)
    ):
        raise ValueError("is no endpoint: write https://HOST[:PORT] or unix:/PATH, without a path behind it")
    if parts.username is not None:
        raise ValueError("must not hold a user or password")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("would send the key in clear text: http is for loopback only, use https")
    return text


def proxy(value: object) -> object:
    """An HTTP proxy."""
    if isinstance(value, str):
        parts = _split(value)
        if parts is None or parts.scheme != "http" or not parts.hostname:
            raise ValueError("is no proxy: write http://HOST:PORT (the connection through it is still encrypted)")
    return value


def credential(value: object) -> object:
    """Where a key comes from: `credential:NAME`, `file:/PATH`, `fd:N` or `env:NAME`."""
    if isinstance(value, str):
        kind, _, rest = value.partition(":")
        if kind not in ("credential", "file", "fd", "env") or not rest or "\0" in rest:
            raise ValueError("is no credential: write credential:NAME, file:/PATH, fd:N or env:NAME")
        if kind == "file" and not rest.startswith("/"):
            raise ValueError("needs an absolute path after file:")
        if kind == "credential" and "/" in rest:
            raise ValueError("needs a name after credential:, not a path")
        if kind == "fd" and not re.fullmatch(r"[0-9]{1,6}", rest):
            raise ValueError("needs the number of a descriptor after fd:")
        if kind == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", rest):
            raise ValueError("needs the name of an environment variable after env:")
    return value


def _split(text: str) -> SplitResult | None:
    """The parts of a URL with a usable port; the library's own errors quote what they could not read."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
