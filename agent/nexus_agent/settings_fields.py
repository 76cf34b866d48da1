"""What a single setting may look like. Each function takes what was written and gives what is meant, or raises
`ValueError` with the rest of a sentence that begins with the setting's name; what has another type is pydantic's."""

import ipaddress
import re
from urllib.parse import urlsplit

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


def seconds(value: object) -> object:
    """A duration in seconds: `300`, `"5m"`, `"250ms"`."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", value.strip())
        if match is None:
            raise ValueError('is no duration: write a number with ms, s, m, h or d, such as "5m"')
        return float(match[1]) * _UNITS[match[2]]
    return value


def mode(value: object) -> object:
    """A file mode, in octal as text."""
    if isinstance(value, str):
        if not re.fullmatch(r"0?[0-7]{3}", value):
            raise ValueError('is no file mode: write it in octal, such as "0660"')
        return int(value, 8)
    return value


def endpoint(value: object) -> object:
    """Where a service is: https, http on loopback only, or `unix:/PATH`; without a slash at its end."""
    if not isinstance(value, str):
        return value
    text = value.strip().rstrip("/")
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise ValueError("needs an absolute path after unix:")
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.fragment:
        raise ValueError("is no endpoint: write https://HOST[:PORT] or unix:/PATH, without a path behind it")
    if parts.username is not None:
        raise ValueError("must not hold a user or password")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("would send the key in clear text: http is for loopback only, use https")
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy(value: object) -> object:
    """An HTTP proxy."""
    if isinstance(value, str) and value and urlsplit(value).scheme != "http":
        raise ValueError("is no proxy: write http://HOST:PORT (the connection through it is still encrypted)")
    return value


def credential(value: object) -> object:
    """Where a key comes from: `credential:NAME`, `file:/PATH`, `fd:N` or `env:NAME`."""
    if isinstance(value, str):
        kind, _, rest = value.partition(":")
        if kind not in ("credential", "file", "fd", "env") or not rest or (kind == "fd" and not rest.isdigit()):
            raise ValueError("is no credential: write credential:NAME, file:/PATH, fd:N or env:NAME")
        if kind == "file" and not rest.startswith("/"):
            raise ValueError("needs an absolute path after file:")
        if kind == "credential" and "/" in rest:
            raise ValueError("needs a name after credential:, not a path")
    return value
