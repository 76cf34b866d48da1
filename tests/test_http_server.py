"""What both HTTP faces have in common: nothing that was sent is logged or repeated."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from nexus_agent import http_server, log
from nexus_agent.errors import NexusError, NotFound
from rig.canary import CANARY


def refused(error: NexusError) -> web.Response:
    """A refusal in its shortest form."""
    return web.Response(status=error.http_status, text=error.code)


async def answer(raw: web.BaseRequest) -> web.StreamResponse:
    """Something of each kind, by path."""
    if raw.path == "/fault":
        raise ValueError(CANARY)
    if raw.path == "/refused":
        raise NotFound("nothing there")
    return web.Response(body=b"%d" % len(await http_server.body_of(raw, 100)))


@pytest.fixture
async def port(caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    """A running server. Whatever is logged is looked through at the end."""
    runner = web.ServerRunner(http_server.server(answer, refused, log.get("test")))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield int(site.name.rpartition(":")[2])
    await runner.cleanup()
    assert CANARY not in caplog.text


async def exchange(port: int, *pieces: bytes) -> bytes:
    """Send the first piece, and each further one when something has come back; everything that came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    async with asyncio.timeout(10):
        for piece in pieces:
            writer.write(piece)
            got += await reader.read(65536)
        got += await reader.read()
    writer.close()
    return got


HEAD = b"Host: a\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (b"GET /refused HTTP/1.1\r\n" + HEAD + b"\r\n", 404, b"not_found"),
        (b"GET /fault HTTP/1.1\r\n" + HEAD + b"\r\n", 500, b"internal"),
        (b"GET /x HTTP/1.1\r\nX-Nexus-API-Key: " + CANARY.encode() + b"\x01\r\n\r\n", 400, b"bad_request"),
        (b"POST /x HTTP/1.1\r\n" + HEAD + b"Content-Length: 101\r\n\r\n" + b"x" * 101, 413, b"too_large"),
        (b"POST /x HTTP/1.1\r\n" + HEAD + b"Content-Length: 100\r\n\r\n" + b"x" * 100, 200, b"100"),
        (
            b"POST /x HTTP/1.1\r\n" + HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            400,
            b"bad_request",
        ),
        (CANARY.encode() + b"\r\n\r\n", 400, b"bad_request"),
    ],
)
async def test_every_answer_is_one_of_ours(
    port: int, sent: bytes, status: int, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also to what is no request at all, and to a fault of ours."""
    got = await exchange(port, sent)
    assert got.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status)), got
    assert got.endswith(b"\r\n\r\n" + body)
    printed = capsys.readouterr()
    assert CANARY not in printed.out + printed.err
    assert ("ValueError" in printed.out + printed.err) == (status == 500)


async def test_a_body_that_breaks_off_is_not_logged(port: int) -> None:
    """A chunk that is none, with a value in it."""
    got = await exchange(
        port, b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n"
    )
    assert got.startswith(b"HTTP/1.0 400 ")
    assert CANARY.encode() not in got


async def test_who_waits_for_permission_to_send_gets_it(port: int) -> None:
    """RFC 9110, 10.1.1: curl asks before it sends a large body."""
    head = b"POST /x HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    got = await exchange(port, head, b"abc")
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert got.endswith(b"3")


@pytest.mark.parametrize(
    ("header", "has"),
    [
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ("*", True),
        ('"b"', False),
        ("a", False),
        ("", False),
    ],
)
def test_tags(header: str, has: bool) -> None:
    """Any of a list, and the comparison is weak."""
    assert http_server.has_tag(header, '"a"') is has
