"""Commands that ask a running agent over its socket."""

import http.client
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nexus_agent import errors, settings
from nexus_agent.errors import AgentUnreachable, NexusError, StorageFailed

_SECONDS = 10.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("nexus-agent", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def status(config: Path | None, as_json: bool) -> None:
    """Print the agent's own account of itself."""
    raw = _request(config, "/v1/status", "application/json")
    try:
        document = json.loads(raw)
        lines = [f"nexus-agent {document['version']}"]
        for service in document["services"]:
            lines += [f"  {label:<12} {text}" if label != "service" else f"\n{text}" for label, text in _rows(service)]
    except (ValueError, KeyError, TypeError):
        raise _no_agent() from None
    _write(raw + b"\n" if as_json else "\n".join((*lines, "")).encode())


def get(config: Path | None, service: str, key: str) -> None:
    """Write one secret's bytes to standard output, and nothing else."""
    service, key = (quote(os.fsencode(word), safe="") for word in (service, key))
    _write(_request(config, f"/v1/{service}/secrets/{key}", "application/octet-stream"))


def _rows(service: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("service", f"{service['name']} ({service['environment'] or 'no environment'}) at {service['endpoint']}"),
        ("state", f"{service['state']}{', stale' if service['stale'] else ''}, stream {service['stream']}"),
        ("values", f"{service['secrets']} secrets, {service['configs']} configs, {service['flags']} flags"),
        ("key", f"{service['key_type']}, {service['kind'] or 'unknown'} service"),
        ("generation", f"{service['generation'] or 'none yet'}, confirmed {_moment(service['validated_at'])}"),
        ("next try", _moment(service["next_attempt"])),
    ]
    problems = [service["problem"], service["files"]["problem"]]
    return rows + [("problem", problem) for problem in problems if problem]


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _request(config: Path | None, path: str, accept: str) -> bytes:
    where = settings.socket_path(config)
    connection = _UnixConnection(where)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise AgentUnreachable(
            f"no agent answers on {where}: {reason}",
            "start it with 'nexus-agent run', or name its settings with --config",
        ) from None
    finally:
        connection.close()
    if response.status == 200:
        return body
    raise _problem(body)


def _problem(body: bytes) -> NexusError:
    """The agent's problem as the error that it was there, so that its exit status is the same here."""
    try:
        document = json.loads(body)
        return errors.revive(document["code"], document["detail"], document.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return _no_agent()


def _no_agent() -> AgentUnreachable:
    return AgentUnreachable("what answers on the socket is no nexus-agent", "name its settings with --config")


def _write(content: bytes) -> None:
    """Standard output itself: what cannot be written is found now, and not when the interpreter ends."""
    try:
        while content:
            content = content[os.write(1, content) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "what was written is not whole"
        raise StorageFailed(f"standard output cannot be written: {error.strerror}", hint) from None
