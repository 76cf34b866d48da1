"""A small recorded Nexus that imports nothing of ours: raw bytes on a real socket, so that no error judges itself.

Each request is answered by what the test put into `script` for its path, in order; the last entry stays. An entry is
the whole answer as bytes, or a coroutine function that gets the writer and does what it likes.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]
Entry = bytes | Behaviour


def response(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None, content_type: str = "application/json"
) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} Recorded", f"Content-Length: {len(body)}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def snapshot(
    secrets: dict[str, Any] | None = None,
    configs: dict[str, Any] | None = None,
    flags: dict[str, bool] | None = None,
    **more: object,
) -> bytes:
    """The body of a sync. A secret is its value, or a pair of value and the rest of its fields."""

    def secret(value: Any) -> dict[str, object]:
        text, rest = value if isinstance(value, tuple) else (value, {})
        return {"value": text, "version": 1, "type": "text", "source": "service", **rest}

    document = {
        "synced_at": "2026-06-01T10:00:00Z",
        "key_type": "sk",
        "service_kind": "backend",
        "secrets": {key: secret(value) for key, value in (secrets or {}).items()},
        "configs": {key: {"value": value, "source": "service"} for key, value in (configs or {}).items()},
        "flags": {key: {"is_active": value, "source": "service"} for key, value in (flags or {}).items()},
    }
    return json.dumps({**document, **more}).encode()


def stream(*chunks: bytes, stay: bool = True) -> Behaviour:
    """A stream that sends these chunks and then stays silent, or ends."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        if stay:
            await asyncio.get_running_loop().create_future()

    return behave


class Recorded:
    """The server. `requests` has the head of each request, as text."""

    def __init__(self) -> None:
        self.script: dict[str, list[Entry]] = {
            "/v1/sync": [response(200, snapshot())],
            "/v1/stream": [stream(b"event: resync\ndata: {}\n\n")],
        }
        self.requests: list[str] = []
        self.arrived = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [request.split(" ")[1] for request in self.requests]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head)
        self.arrived.set()
        entries = self.script[head.split(" ")[1].partition("?")[0]]
        entry = entries[0] if len(entries) == 1 else entries.pop(0)
        if isinstance(entry, bytes):
            writer.write(entry)
            await writer.drain()
            return True
        await entry(writer)
        return False
