"""The running server: listens for the wire and for administration, and stops cleanly."""

import asyncio
import re
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from nexus_agent import http_server, log
from nexus_agent.errors import BadSettings
from nexus_agent.listener import BACKLOG, Lock, listen
from nexus_local import admin
from nexus_local.app import AdminFace, WireFace
from nexus_local.store import Store
from nexus_local.streams import Streams

_DRAIN_SECONDS = 2.0
# Whoever else writes to the database is short about it; all clients wait meanwhile.
_BUSY_SECONDS = 1.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a Unix socket's path, or a host on loopback and a port (0: any free one)."""

    path: Path | None = None
    host: str = ""
    port: int = 0


def address(text: str) -> Address:
    """Parse `127.0.0.1:8484`, `[::1]:0` or `unix:/PATH`. Raises `BadSettings`."""
    if text.startswith("unix:"):
        return Address(path=Path(text.removeprefix("unix:")).absolute())
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise BadSettings(f"--listen {text}: no address", "write HOST:PORT or unix:PATH")
    if host not in _LOOPBACK:
        raise BadSettings(
            f"--listen {text}: not on loopback",
            "keys would travel in clear text: put a TLS proxy before it that asks with Host: localhost",
        )
    return Address(host=host, port=int(port))


async def serve(directory: Path, where: Address, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Serve a data directory until `stop` is set; `ready` gets the endpoint once requests are answered.

    Raises `AlreadyRunning` when another server has the directory, and `BadSettings` for an address that cannot be had.
    """
    async with AsyncExitStack() as stack:
        store = Store(directory, busy_seconds=_BUSY_SECONDS)
        stack.callback(store.close)
        lock = Lock(directory / "serve.lock", f"the data directory {directory}")
        stack.callback(lock.release)
        listener, endpoint = _bound(where, stack)
        admin_listener = stack.enter_context(listen(directory / admin.SOCKET_NAME, 0o600)).socket
        streams = Streams(store)
        faces = (WireFace(store, streams), listener), (AdminFace(store, streams), admin_listener)
        for face, bound in faces:
            served = http_server.server(face.handle, face.refused, log.get("nexus-local"))
            runner = web.ServerRunner(served, shutdown_timeout=_DRAIN_SECONDS)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, bound, backlog=BACKLOG).start()
        store.set_endpoint(endpoint)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(streams.watch())
            ready(endpoint)
            await stop.wait()
            watching.cancel()


def _bound(where: Address, stack: AsyncExitStack) -> tuple[socket.socket, str]:
    """A listening socket, and the endpoint that clients are given for it."""
    if where.path is not None:
        # Whoever may reach the path may knock; the key decides, as it does on a port.
        listener = stack.enter_context(listen(where.path, 0o666))
        return listener.socket, f"unix:{where.path}"
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    stack.callback(bound.close)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((where.host, where.port))
    except OSError as error:
        raise BadSettings(
            f"{where.host}:{where.port}: cannot listen there: {error.strerror}", "choose another port; 0 is a free one"
        ) from None
    bound.listen(BACKLOG)
    bound.setblocking(False)
    host = f"[{where.host}]" if family == socket.AF_INET6 else where.host
    return bound, f"http://{host}:{bound.getsockname()[1]}"
