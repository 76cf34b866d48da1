"""The door of the socket: what it answers itself, what it hands over, and whom it lets out again."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nexus_agent.deliver.door import Door
from nexus_agent.listener import listen
from nexus_agent.peer import HasOptions

START = (
    b"GET /v1/-/env?configs=0 HTTP/1.1\r\nHost: nexus-agent\r\nAccept: application/x-env0\r\nConnection: close\r\n\r\n"
)


class Served(asyncio.Protocol):
    """Echoes whatever was handed over, in upper case, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """All that the client sent."""
        self.transport.write(data.upper())
        self.transport.close()


class House:
    """A door, and what it was asked."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self.answer: bytes | None = b"at once"
        self.asked: list[tuple[bytes, bytes]] = []
        self.door = Door(listener, self._answer, Served, patience=0.2)

    def _answer(self, target: bytes, accept: bytes, connection: HasOptions) -> bytes | None:
        self.asked.append((target, accept))
        return self.answer

    async def exchange(self, *pieces: bytes) -> bytes:
        """Send the pieces one after the other, and everything that comes back until the end."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        async with asyncio.timeout(10):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            got = await reader.read()
        writer.close()
        return got


@pytest.fixture
async def house(run_dir: Path) -> AsyncIterator[House]:
    """An open door."""
    with listen(run_dir / "door.sock", 0o600) as listener:
        house = House(run_dir / "door.sock", listener.socket)
        house.door.open()
        yield house
        await house.door.close(0.1)


async def test_a_start_is_answered_at_once(house: House) -> None:
    """Target and Accept as they were sent."""
    assert await house.exchange(START) == b"at once"
    assert house.asked == [(b"/v1/-/env?configs=0", b"application/x-env0")]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/-/env HTTP/1.1\r\nHost: a\r\n\r\n",
        START.replace(b"close", b"keep-alive"),
        START.replace(b"GET", b"PUT"),
        START.replace(b"/v1/", b"/v2/"),
        START.replace(b"Accept", b"Via"),
        START.replace(b"HTTP/1.1", b"HTTP/1.0"),
        START.replace(b"/env", b"/\xff"),
        START + b"GET ",
        START[:-1],
        b"\0",
    ],
)
async def test_everything_else_is_handed_over_as_it_came(house: House, sent: bytes) -> None:
    """Unread, to the last byte."""
    assert await house.exchange(sent) == sent.upper()
    assert house.asked == []


async def test_what_takes_more_than_looking_is_handed_over(house: House) -> None:
    """The start itself as well."""
    house.answer = None
    assert await house.exchange(START) == START.upper()
    assert len(house.asked) == 1


async def test_whoever_says_nothing_is_let_out(house: House) -> None:
    """And whoever takes a moment is not."""
    assert await house.exchange() == b""
    reader, writer = await asyncio.open_unix_connection(house.path)
    for _ in range(20):
        await asyncio.sleep(0)
    writer.write(START)
    assert await reader.read() == b"at once"
    writer.close()


async def test_a_large_answer_reaches_a_slow_reader(house: House) -> None:
    """Whole; somebody else is served meanwhile, and one who leaves in the middle disturbs nobody."""
    house.answer = os.urandom(8 * 1024 * 1024)
    slow, leaving = [await asyncio.open_unix_connection(house.path, limit=1024) for _ in range(2)]
    for _, writer in (slow, leaving):
        writer.write(START)
    assert await leaving[0].read(10) == house.answer[:10]
    leaving[1].close()
    large, house.answer = house.answer, b"small"
    assert await house.exchange(START) == b"small"
    got = b""
    while piece := await slow[0].read(65536):
        got += piece
    assert got == large
    slow[1].close()


async def test_an_answer_on_its_way_is_finished(house: House) -> None:
    """A stop does not cut it short, as long as somebody reads."""
    house.answer = os.urandom(4 * 1024 * 1024)
    reader, writer = await asyncio.open_unix_connection(house.path, limit=1024)
    writer.write(START)
    got = await reader.read(10)
    closing = asyncio.create_task(house.door.close(10))
    while piece := await reader.read(65536):
        got += piece
    assert got == house.answer
    await closing
    writer.close()


async def test_a_closed_door_lets_nobody_in(house: House) -> None:
    """Those who have said nothing are out, and the next one waits in vain."""
    reader, writer = await asyncio.open_unix_connection(house.path)
    for _ in range(5):
        await asyncio.sleep(0)
    await house.door.close(0.1)
    assert await reader.read() == b""
    writer.close()
    late_reader, late = await asyncio.open_unix_connection(house.path)
    late.write(START)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await late_reader.read()
    late.close()
    house.door.open()  # so that the fixture can close it


async def test_without_a_descriptor_left_it_waits_and_goes_on(house: House) -> None:
    """Nobody is lost, and the loop does not spin."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(house.path))
    client.send(START)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):  # the control
            os.dup(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert house.asked == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    client.setblocking(False)
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().sock_recv(client, 100) == b"at once"
    client.close()
