"""The client of Nexus against a recorded server: what is sent, and every fault of a network as one of ours."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme

from nexus_agent.errors import BadSettings
from nexus_agent.model import Sensitive
from nexus_agent.outcomes import Outcome
from nexus_agent.upstream import StreamRefused, Upstream
from nexus_agent.wire import Answer
from rig import recorded as rec
from rig.canary import CANARY
from rig.recorded import Recorded


async def fetch(endpoint: str, etag: str = "", **more: object) -> Answer:
    """One sync with a fresh client."""
    async with Upstream(endpoint, lambda: Sensitive("wxs_key"), **more) as upstream:  # type: ignore[arg-type]  # by name
        return await upstream.fetch(etag)


@pytest.fixture
def endpoint(recorded: Recorded) -> str:
    """Where the recorded server is."""
    return f"http://127.0.0.1:{recorded.port}"


async def test_what_a_sync_sends(recorded: Recorded, endpoint: str) -> None:
    """Path, host with port, key, our name, no compression; a tag only when there is one."""
    await fetch(endpoint)
    await fetch(endpoint, '"tag"')
    plain, tagged = recorded.requests
    assert plain.startswith("GET /v1/sync HTTP/1.1\r\n")
    lines = set(plain.split("\r\n"))
    assert {f"Host: 127.0.0.1:{recorded.port}", "X-Nexus-API-Key: wxs_key", "Accept-Encoding: identity"} <= lines
    assert "User-Agent: nexus-agent/" in plain
    assert "If-None-Match" not in plain
    assert 'If-None-Match: "tag"' in tagged


async def test_the_key_is_read_for_each_request(recorded: Recorded, endpoint: str) -> None:
    """A rotated one is used at once."""
    keys = iter(["wxs_one", "wxs_two"])
    async with Upstream(endpoint, lambda: Sensitive(next(keys))) as upstream:
        await upstream.fetch()
        await upstream.fetch()
    assert ["wxs_one" in recorded.requests[0], "wxs_two" in recorded.requests[1]] == [True, True]


async def test_good_answers(recorded: Recorded, endpoint: str) -> None:
    """A snapshot with its tag, and none when nothing changed."""
    body = rec.snapshot({"k": CANARY})
    recorded.script["/v1/sync"] = [rec.response(200, body, {"ETag": '"1"'}), rec.response(304, headers={"ETag": '"1"'})]
    answer = await fetch(endpoint)
    assert answer.snapshot is not None
    assert (answer.etag, answer.snapshot.secrets["k"].value.reveal()) == ('"1"', CANARY)
    assert CANARY not in repr(answer)
    assert (await fetch(endpoint, answer.etag)).verdict.outcome is Outcome.UNCHANGED


async def test_a_redirect_is_never_followed(recorded: Recorded, endpoint: str) -> None:
    """The key would go along."""
    for status in (301, 302, 303, 307, 308):
        recorded.script["/v1/sync"] = [rec.response(status, headers={"Location": f"{endpoint}/stolen"})]
        answer = await fetch(endpoint)
        assert answer.verdict.outcome is Outcome.REDIRECTED
    assert set(recorded.paths()) == {"/v1/sync"}


async def cut(writer: asyncio.StreamWriter) -> None:
    """Half of what was announced."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n{")
    await writer.drain()
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    """No answer at all."""
    writer.transport.abort()


async def endless(writer: asyncio.StreamWriter) -> None:
    """A body that does not stop, announced as nothing."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    try:
        for _ in range(64):
            writer.write(b" " * (1 << 20))
            await writer.drain()
    except ConnectionError:
        pass


async def noise(writer: asyncio.StreamWriter) -> None:
    """No HTTP."""
    writer.write(b"\x16\x03\x01 what is this\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (cut, Outcome.INVALID),
        (reset, Outcome.UNAVAILABLE),
        (endless, Outcome.INVALID),
        (noise, Outcome.UNAVAILABLE),
        (rec.response(200, rec.snapshot(), {"Content-Encoding": "gzip"}), Outcome.INVALID),
        (rec.response(200, rec.snapshot(), {"X-Long": "x" * 70_000}), Outcome.UNAVAILABLE),
        (rec.response(401, b"x" * 200_000), Outcome.UNAUTHORIZED),
        (rec.response(503, b"busy"), Outcome.UNAVAILABLE),
    ],
    ids=["cut", "reset", "endless", "no HTTP", "compressed", "long header", "long error", "busy"],
)
async def test_faults(recorded: Recorded, endpoint: str, behaviour: rec.Entry, outcome: Outcome) -> None:
    """Each is an answer with a problem in words; nothing is raised, and the fault did happen."""
    recorded.script["/v1/sync"] = [behaviour]
    answer = await fetch(endpoint)
    assert (answer.verdict.outcome, answer.snapshot) == (outcome, None)
    assert answer.problem
    assert recorded.paths() == ["/v1/sync"]  # it did arrive, and once: nothing is sent again behind our back


async def test_nobody_there() -> None:
    """A refused connection, an unknown name, a socket that does not exist."""
    for endpoint in ("http://127.0.0.1:1", "http://no-such-host.localhost:1", "unix:/no/such.sock"):
        answer = await fetch(endpoint)
        assert answer.verdict.outcome is Outcome.UNAVAILABLE
        assert "cannot be re" in answer.problem


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[Recorded, Callable[[str], Path]]]:
    """A recorded server with a certificate for localhost, and files of authorities."""
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    files = {"right": authority, "wrong": stranger}

    def ca_file(which: str) -> Path:
        path = tmp_path / f"{which}.pem"
        files[which].cert_pem.write_to_path(path)
        return path

    server = Recorded()
    await server.start(context)
    yield server, ca_file
    await server.stop()


async def test_tls(secure: tuple[Recorded, Callable[[str], Path]]) -> None:
    """With the right authority it works; without, with another, or for another name, no key is sent."""
    server, ca_file = secure
    endpoint = f"https://localhost:{server.port}"
    assert (await fetch(endpoint, ca_file=ca_file("right"))).verdict.outcome is Outcome.FRESH
    reached = len(server.requests)
    for where, authority in ((endpoint, None), (endpoint, "wrong"), (f"https://127.0.0.1:{server.port}", "right")):
        answer = await fetch(where, ca_file=ca_file(authority) if authority else None)
        assert answer.verdict.outcome is Outcome.TLS_FAILED
    assert len(server.requests) == reached
    with pytest.raises(BadSettings, match="no readable CA"):
        Upstream(endpoint, lambda: Sensitive("k"), ca_file=Path("/no/such.pem"))


async def test_plain_text_where_tls_was_expected() -> None:
    """Named as such, and never read as a refusal."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        answer = await fetch(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert answer.verdict.outcome is Outcome.TLS_FAILED


async def test_a_proxy_carries_the_encrypted_connection(secure: tuple[Recorded, Callable[[str], Path]]) -> None:
    """It sees a host and a port and no key."""
    server, ca_file = secure
    seen: list[bytes] = []
    done = asyncio.Event()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                seen.append(data)
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer), return_exceptions=True)
        for open_writer in (writer, there_writer):
            open_writer.transport.abort()
        done.set()

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    endpoint = f"https://localhost:{server.port}"
    answer = await fetch(endpoint, ca_file=ca_file("right"), proxy=f"http://127.0.0.1:{port}")
    assert answer.verdict.outcome is Outcome.FRESH
    assert seen[0].startswith(f"CONNECT localhost:{server.port} ".encode())
    assert b"wxs_key" not in b"".join(seen)
    await done.wait()
    proxy.close()
    answer = await fetch(endpoint, ca_file=ca_file("right"), proxy="http://127.0.0.1:1")
    assert (answer.verdict.outcome, "proxy" in answer.problem) == (Outcome.UNAVAILABLE, True)


async def follow(endpoint: str, count: int = 1) -> list[str]:
    """So many events of the stream."""
    names: list[str] = []
    async with Upstream(endpoint, lambda: Sensitive("wxs_key")) as upstream:
        stream = upstream.events(lambda: names.append("opened"))
        async with asyncio.timeout(20):
            while len(names) <= count:
                names += await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    return names


async def test_the_stream(recorded: Recorded, endpoint: str) -> None:
    """Opened, then its events."""
    recorded.script["/v1/stream"] = [rec.stream(b"event: resync\ndata: {}\n\n: ping\n\nevent: x\ndata: {}\n\n")]
    assert await follow(endpoint, 2) == ["opened", "resync", "x"]
    assert "Accept: text/event-stream" in recorded.requests[0]


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (rec.response(200, b"{}"), Outcome.UNAVAILABLE),
        (rec.response(200, b"", {"Content-Encoding": "gzip"}, "text/event-stream"), Outcome.UNAVAILABLE),
        (rec.response(401, b'{"error":"x"}'), Outcome.UNAUTHORIZED),
        (rec.response(429, b'{"error":"quarantined"}'), Outcome.QUARANTINED),
        (rec.response(302, b"", {"Location": "/x"}), Outcome.REDIRECTED),
        (rec.stream(stay=False), Outcome.UNAVAILABLE),
        (rec.stream(b"x" * 200_000), Outcome.UNAVAILABLE),
        (reset, Outcome.UNAVAILABLE),
    ],
    ids=["wrong type", "compressed", "401", "quarantined", "redirect", "ends", "endless line", "reset"],
)
async def test_streams_that_are_none(recorded: Recorded, endpoint: str, behaviour: rec.Entry, outcome: Outcome) -> None:
    """Each ends with one of ours."""
    recorded.script["/v1/stream"] = [behaviour]
    with pytest.raises(StreamRefused) as caught:
        await follow(endpoint)
    assert caught.value.answer.verdict.outcome is outcome
    assert recorded.paths() == ["/v1/stream"]
