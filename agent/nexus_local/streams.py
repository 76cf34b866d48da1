"""Who listens, and what they are told: the change journal of the database, sent on to open streams.

A change may come from this process or from another one that wrote to the database, so the journal is the one source for
both: `pump` reads what is new in it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from nexus_agent import wire
from nexus_local.store import Store

# How soon another process' write is noticed. Reading SQLite's data_version touches no disk.
WATCH_SECONDS: Final = 0.1
# A reader that is this far behind is cut off; it comes back and starts with a sync.
_BACKLOG: Final = 1000


class Streams:
    """The open streams of a server. `ping` is after how many quiet seconds a stream shows that it lives."""

    def __init__(self, store: Store, ping: float = wire.PING_INTERVAL) -> None:
        self._store = store
        self._ping = ping
        self._last = store.last_change()
        self._version = store.data_version()
        self._queues: dict[asyncio.Queue[bytes | None], int] = {}

    @contextmanager
    def subscribe(self, service: int) -> Iterator[AsyncIterator[bytes]]:
        """Everything that happens to a service from now on, and pings between; ends when the server stops."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BACKLOG)
        self._queues[queue] = service
        try:
            yield self._chunks(queue)
        finally:
            self._queues.pop(queue, None)

    def pump(self) -> None:
        """Send on what is new in the journal."""
        for change in self._store.changes_after(self._last):
            self._last = change.id
            event = wire.write_event(change.event, change.key)
            for queue in [queue for queue, service in self._queues.items() if service == change.service]:
                if queue.full():
                    self._end(queue)
                else:
                    queue.put_nowait(event)

    async def watch(self) -> None:
        """Notice what other processes write, until cancelled; then end every stream."""
        try:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                version = self._store.data_version()
                if version != self._version:
                    self._version = version
                    self.pump()
        finally:
            for queue in list(self._queues):
                self._end(queue)

    def _end(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._queues.pop(queue, None)
        while queue.full():
            queue.get_nowait()
        queue.put_nowait(None)

    async def _chunks(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._ping):
                    chunk = await queue.get()
            except TimeoutError:
                chunk = wire.PING
            if chunk is None:
                return
            yield chunk
