"""The HTTP face on a real socket: connections, HEAD, followers, files that come late, drain."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from nexus_agent import log
from nexus_agent.deliver.face import Face
from nexus_agent.errors import NotFresh
from nexus_agent.listener import listen
from nexus_agent.model import Flag, Secret, SecretType, Sensitive, Snapshot
from nexus_agent.policy import Policy
from nexus_agent.store import Delivered, State, Store


class Served:
    """A face with one service, and a client."""

    def __init__(
        self, store: Store, session: aiohttp.ClientSession, path: Path, serving: asyncio.Task[None], face: Face
    ) -> None:
        self.store = store
        self.session = session
        self.path = path
        self.serving = serving
        self.face = face
        self.refreshed = 0


@pytest.fixture
async def served(run_dir: Path) -> AsyncIterator[Served]:
    """Serves a store that the test fills."""
    store = Store(State("shop", "test", "https://h"))
    path = run_dir / "agent.sock"
    with listen(path, 0o666) as listener:
        holder: list[Served] = []

        async def refresh() -> None:
            holder[0].refreshed += 1
            if holder[0].refreshed > 1:
                raise NotFresh("Nexus answered 503")

        face = Face({"shop": store}, Policy(0), {"shop": refresh}, lambda: 1000.0, log.get("api"))
        serving = asyncio.create_task(face.run(listener.socket))
        async with aiohttp.ClientSession("http://agent", connector=aiohttp.UnixConnector(str(path))) as session:
            holder.append(Served(store, session, path, serving, face))
            yield holder[0]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def snapshot(on: bool, **files: str) -> Snapshot:
    """Values with one flag and these file secrets."""
    secrets = {key: Secret(Sensitive(text), 1, SecretType.FILE) for key, text in files.items()}
    return Snapshot(secrets, flags={"f": Flag(on)})


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, object]]:
    """The documents of a stream of events."""
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


async def test_get_and_head(served: Served) -> None:
    """HEAD has the same headers and no body."""
    served.store.publish(snapshot(True), 1000.0)
    async with served.session.get("/v1/-/flags") as get, served.session.head("/v1/-/flags") as head:
        assert await get.json() == {"flags": {"f": True}}
        assert await head.read() == b""
        names = ("ETag", "Nexus-Generation", "Content-Length", "Content-Type", "Age")
        assert [head.headers[name] for name in names] == [get.headers[name] for name in names]


async def test_conditional(served: Served) -> None:
    """304 without a body."""
    served.store.publish(snapshot(True), 1000.0)
    async with served.session.get("/v1/-/flags") as first:
        tag = first.headers["ETag"]
    async with served.session.get("/v1/-/flags", headers={"If-None-Match": tag}) as again:
        assert (again.status, await again.read()) == (304, b"")


async def test_changes_begin_with_the_present_and_name_what_differs(served: Served) -> None:
    """One event a generation; one that was skipped is in the names of the next."""
    served.store.publish(snapshot(True), 1000.0)
    async with served.session.get("/v1/-/changes") as response:
        assert response.content_type == "text/event-stream"
        stream = events(response)
        first = await anext(stream)
        assert (first["secrets"], first["flags"]) == ([], ["f"])
        served.store.publish(snapshot(False), 1001.0)
        served.store.publish(snapshot(False, CERT="x"), 1002.0)
        second = await anext(stream)
        assert (second["secrets"], second["flags"]) == (["CERT"], ["f"])
        assert second["generation"] == served.store.current().generation


async def test_a_follower_that_leaves_is_no_fault(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged for it, and its place is free again."""
    served.store.publish(snapshot(True), 1000.0)
    response = await served.session.get("/v1/-/changes")
    await anext(events(response))
    response.close()
    for number in range(20):  # enough that one write meets the closed connection
        served.store.publish(snapshot(bool(number % 2)), 1000.0)
        async with served.session.get("/v1/-/flags") as after:
            assert after.status == 200
    assert caplog.records == []


async def test_changes_wait_for_the_first_values(served: Served) -> None:
    """A follower may come before there is anything."""
    async with served.session.get("/v1/-/changes") as response:
        served.store.publish(snapshot(True), 1000.0)
        assert (await anext(events(response)))["flags"] == ["f"]


async def test_an_answer_waits_for_files_of_its_generation(served: Served, run_dir: Path) -> None:
    """Nobody is given a path that is not there yet."""
    served.store.publish(snapshot(True, CERT="x"), 1000.0)
    asking = asyncio.create_task(served.session.get("/v1/-/secrets/CERT"))
    async with served.session.get("/v1/-/flags") as other:  # the control: the face answers meanwhile
        assert other.status == 200
    assert not asking.done()
    served.store.delivered(Delivered(served.store.current().generation, run_dir))
    async with await asking as response:
        assert (await response.json())["path"] == str(run_dir / "CERT")


@pytest.mark.parametrize(
    ("target", "accept"),
    [
        ("/v1/-/env", "application/x-env0"),
        ("/v1/-/env?flags=1", "application/x-env0"),
        ("/v1/-/env", "application/json"),
        ("/v1/-/secrets/nope", "*/*"),
        ("/v1/nope/env", "application/x-env0"),
        ("/v1/-/env?x=1", "application/x-env0"),
        ("/v1/-/env?%ff", "application/x-env0"),
        ("/v1/-/refresh", "*/*"),
    ],
)
async def test_the_short_way_gives_the_same_answer(served: Served, target: str, accept: str) -> None:
    """The start of a program is answered at the door, and everybody else by the server: in the same words."""
    served.store.publish(snapshot(True), 1000.0)
    head = f"GET {target} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n"
    answers = []
    for more in ("\r\n", "User-Agent: x\r\n\r\n"):
        first, _, body = (await raw(served, (head + more).encode())).partition(b"\r\n\r\n")
        status, *lines = first.decode().split("\r\n")
        headers = {line for line in lines if not line.startswith(("Date: ", "Server: "))}
        answers.append((status, headers, body))
        by_the_server = more != "\r\n" or "%ff" in target
        assert (b"Date: " in first) is by_the_server  # the control: they did go two ways
    assert answers[0] == answers[1]


async def test_the_first_answer_of_nexus_is_waited_for(served: Served) -> None:
    """An agent that has just been started has it in a moment; who waits that long gets it."""
    asking = asyncio.create_task(served.session.get("/v1/-/flags"))
    async with served.session.get("/healthz") as other:  # the control: the face answers meanwhile
        assert other.status == 200
    assert not asking.done()
    served.store.publish(snapshot(True), 1000.0)
    async with await asking as response:
        assert await response.json() == {"flags": {"f": True}}


async def test_nothing_is_waited_for_for_ever(served: Served) -> None:
    """The reason why it is not there is the answer."""
    served.face.patience = 0.01
    async with served.session.get("/v1/-/flags") as response:
        assert (response.status, (await response.json())["code"]) == (503, "not_ready")
    served.store.publish(snapshot(True, CERT="x"), 1000.0)
    async with served.session.get("/v1/-/env") as response:
        assert (await response.json())["detail"] == "the file secrets are not in place yet"
    async with served.session.get("/v1/-/env?exclude=CERT") as response:  # nothing of it is a file
        assert response.status == 200


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "via"])
async def test_what_came_through_a_proxy_is_refused(served: Served, name: str) -> None:
    """The kernel vouches for the proxy, not for whoever asked it."""
    served.store.publish(snapshot(True), 1000.0)
    async with served.session.get("/v1/-/flags", headers={name: "x"}) as response:
        assert (response.status, (await response.json())["code"]) == (400, "bad_request")


async def test_refresh(served: Served) -> None:
    """Answers when Nexus was asked, with a problem when that did not help."""
    served.store.publish(snapshot(True), 1000.0)
    async with served.session.post("/v1/-/refresh") as response:
        assert (response.status, served.refreshed) == (200, 1)
        assert (await response.json())["name"] == "shop"
    async with served.session.post("/v1/-/refresh") as response:
        assert (response.status, (await response.json())["code"]) == (504, "not_fresh")


async def raw(served: Served, request: bytes) -> bytes:
    """What comes back for these bytes, until the connection ends."""
    reader, writer = await asyncio.open_unix_connection(str(served.path))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /v1/-/secrets/%ff HTTP/1.1", b" 400 "),
        (b"GET /v1/-/env?%ff=1 HTTP/1.1", b" 400 "),
        (b"GET /v1/-/env?a HTTP/1.1", b" 400 "),
        (b"GET nonsense HTTP/1.1", b" 40"),
        (b"\x00\x01", b" 400 "),
    ],
)
async def test_broken_requests(served: Served, request_line: bytes, status: bytes) -> None:
    """Refused, and the next one is answered."""
    served.store.publish(snapshot(True), 1000.0)
    answer = await raw(served, request_line + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert status in answer.split(b"\r\n")[0]
    async with served.session.get("/v1/-/flags") as response:
        assert response.status == 200


async def test_a_large_request_is_refused(served: Served) -> None:
    """There is nothing that large to say."""
    head = b"POST /v1/-/refresh HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\nConnection: close\r\n\r\n"
    assert b" 413 " in (await raw(served, head + b"x" * 65537)).split(b"\r\n")[0]
    assert served.refreshed == 0


async def test_a_stop_ends_followers(served: Served) -> None:
    """They would otherwise hold the drain open."""
    served.store.publish(snapshot(True), 1000.0)
    async with served.session.get("/v1/-/changes") as response:
        await anext(events(response))
        served.serving.cancel()
        async with asyncio.timeout(4):  # less than the drain would take
            await asyncio.gather(served.serving, return_exceptions=True)
