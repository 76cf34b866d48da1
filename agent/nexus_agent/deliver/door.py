"""The door of the socket: lets connections in, and answers the start of a program itself.

Every start of a program waits for one answer. So the one request that `nexus-run` sends is answered right where its
connection comes in, without a task or a transport of its own; what is measured is in `tests/benchmarks`. Any other
request is handed over, unread, to the HTTP server, and whoever says nothing is let out again.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine
from typing import Final

from nexus_agent.peer import HasOptions

# To the letter what `nexus-run` sends: the strict reading of everything else is the HTTP server's work.
_START: Final = re.compile(
    rb"GET (/v1/[!-~]*) HTTP/1\.1\r\nHost: [!-~]*\r\nAccept: ([ -~]*)\r\nConnection: close\r\n\r\n"
)
_PEEKED_BYTES: Final = 4096
_FULL_SECONDS: Final = 1.0
_SEND_SECONDS: Final = 60.0

Answer = Callable[[bytes, bytes, HasOptions], bytes | None]


class Door:
    """Accepts on `listener`. `answer` gets target and Accept of a start and who asks, and gives the whole answer, or
    nothing when that takes more than looking; `served` makes the protocol for every other connection. A connection on
    which nothing comes for `patience` seconds is closed."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Answer,
        served: Callable[[], asyncio.Protocol],
        patience: float = 10.0,
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._served = served
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._reopening: asyncio.TimerHandle | None = None
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Let connections in from now on."""
        self._loop.add_reader(self._listener, self._accept)

    async def close(self, drain: float) -> None:
        """Let nobody in any more, and those out who have said nothing; an answer on its way has `drain` seconds."""
        self._loop.remove_reader(self._listener)
        if self._reopening is not None:
            self._reopening.cancel()
        for connection in list(self._silent):
            self._let_out(connection)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain)
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor left: whoever knocks waits at the door, and not this loop on him
            self._loop.remove_reader(self._listener)
            self._reopening = self._loop.call_later(_FULL_SECONDS, self.open)
            return
        connection.setblocking(False)
        if not self._look(connection):
            self._silent[connection] = self._loop.call_later(self._patience, self._let_out, connection)
            self._loop.add_reader(connection, self._spoken, connection)

    def _spoken(self, connection: socket.socket) -> None:
        self._loop.remove_reader(connection)
        self._silent.pop(connection).cancel()
        self._look(connection)

    def _let_out(self, connection: socket.socket) -> None:
        self._loop.remove_reader(connection)
        self._silent.pop(connection).cancel()
        connection.close()

    def _look(self, connection: socket.socket) -> bool:
        """Act on what has come, if anything has."""
        try:
            head = connection.recv(_PEEKED_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            head = b""
        if not head:
            connection.close()
            return True
        start = _START.fullmatch(head)
        answer = self._answer(start[1], start[2], connection) if start else None
        if answer is None:
            self._spawn(self._hand_over(connection))
        else:
            connection.recv(len(head))
            self._send(connection, answer)
        return True

    def _send(self, connection: socket.socket, answer: bytes) -> None:
        try:
            sent = connection.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(answer)  # whoever has left hears no more
        if sent == len(answer):
            connection.close()
        else:
            self._spawn(self._send_slowly(connection, answer[sent:]))

    async def _send_slowly(self, connection: socket.socket, rest: bytes) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._loop.sock_sendall(connection, rest)
        except (OSError, TimeoutError):
            pass
        finally:
            connection.close()

    async def _hand_over(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._served, connection)
        except BaseException:
            connection.close()
            raise

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
