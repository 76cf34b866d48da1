"""The wire of the embedded Nexus over real HTTP: what it answers, to whom, and what its streams say."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nexus_agent import wire
from nexus_agent.model import SecretType
from nexus_local import admin, server
from nexus_local.app import REQUEST_MAX_BYTES
from nexus_local.services import Keys, Service
from nexus_local.store import Store
from nexus_local.streams import Streams
from rig.canary import CANARY


class Served:
    """A server in this process, a store of its own on the same database, and a client."""

    def __init__(self, directory: Path, endpoint: str, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.session = session
        self.store = Store(directory)
        self.service: Service
        self.keys: Keys
        self.service, self.keys = self.store.services.create("shop", "backend", "test", "t")

    def headers(self, role: str = "primary") -> dict[str, str]:
        """A key of the service, as it is sent."""
        return {wire.KEY_HEADER: getattr(self.keys, role).reveal()}

    async def ask(self, method: str, path: str, role: str = "primary", **more: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of one request."""
        headers = {**self.headers(role), **more.pop("headers", {})}
        async with self.session.request(method, self.endpoint + path, headers=headers, **more) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else {}

    async def write(self, **document: object) -> tuple[int, dict[str, Any]]:
        """A secret by the wire."""
        return await self.ask("POST", "/v1/secrets", json=document)

    def secrets(self) -> dict[str, str]:
        """All values."""
        snapshot = self.store.snapshot(self.service, public=False)
        return {key: secret.value.reveal() for key, secret in snapshot.secrets.items()}


@pytest.fixture
async def nexus(tmp_path: Path) -> AsyncIterator[Served]:
    """A running server with one backend service."""
    stop = asyncio.Event()
    endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    where = server.Address(host="127.0.0.1")
    serving = asyncio.create_task(server.serve(tmp_path / "nexus", where, stop, endpoint.set_result))
    async with aiohttp.ClientSession() as session:
        served = Served(tmp_path / "nexus", await endpoint, session)
        yield served
        served.store.close()
    stop.set()
    await serving


async def test_a_sync(nexus: Served) -> None:
    """Everything, in the shape that clients read; the tag changes with the content and not with the time."""
    nexus.store.set_secret(nexus.service, "db:password", CANARY, SecretType.TEXT, "", "t")
    nexus.store.set_config(nexus.service, "n", b"18446744073709551615", "t")
    nexus.store.set_flag(nexus.service, "f", True, "t")
    status, document = await nexus.ask("GET", "/v1/sync")
    assert (status, document["key_type"], document["service_kind"]) == (200, "sk", "backend")
    assert document["synced_at"].endswith("Z")
    assert document["secrets"] == {"db:password": {"value": CANARY, "version": 1, "type": "text", "source": "service"}}
    assert document["configs"] == {"n": {"value": 18446744073709551615, "source": "service"}}
    assert document["flags"] == {"f": {"is_active": True, "source": "service"}}
    tags = []
    for _ in range(2):
        async with nexus.session.get(nexus.endpoint + "/v1/sync", headers=nexus.headers()) as response:
            tags.append(response.headers["ETag"])
    assert tags[0] == tags[1]
    headers = {"If-None-Match": tags[0]}
    assert await nexus.ask("GET", "/v1/sync", headers=headers) == (304, {})
    listed = {"If-None-Match": f'"other", W/{tags[0]}'}
    assert await nexus.ask("GET", "/v1/sync", headers=listed) == (304, {})
    nexus.store.set_flag(nexus.service, "f", False, "t")
    assert (await nexus.ask("GET", "/v1/sync", headers=headers))[0] == 200


async def test_a_public_key_sees_no_secrets(nexus: Served) -> None:
    """There is no such member at all, and the tag is another one."""
    nexus.store.set_secret(nexus.service, "k", CANARY, SecretType.TEXT, "", "t")
    nexus.store.set_config(nexus.service, "c", b'"{{secret:k}}"', "t")
    status, document = await nexus.ask("GET", "/v1/sync", role="public")
    assert (status, document["key_type"], document["configs"]) == (200, "pk", {})
    assert "secrets" not in document
    assert (await nexus.ask("POST", "/v1/secrets", role="public", json={"key": "k", "value": "v"}))[0] == 403
    assert (await nexus.ask("DELETE", "/v1/secrets/k", role="public"))[1]["error"] == "public_key_restricted"
    assert nexus.secrets() == {"k": CANARY}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("shop.localhost:8484", 200),
        ("shop.localhost.:8484", 200),
        ("localhost:", 200),
        ("SHOP.localhost", 200),
        ("web.localhost:8484", 403),
        ("nexus.example", 403),
        ("shop.localhost.example", 403),
    ],
)
async def test_the_double_gate(nexus: Served, host: str, status: int) -> None:
    """A host that names a service must name the key's one."""
    nexus.store.services.create("web", "backend", "test", "t")
    got, document = await nexus.ask("GET", "/v1/sync", headers={"Host": host})
    assert (got, document.get("error")) == (status, "host_mismatch" if status == 403 else None)


@pytest.mark.parametrize("key", [None, "", "wxs_wrong", "wxs_ä"])
@pytest.mark.parametrize("path", ["/v1/sync", "/v1/stream"])
async def test_without_a_key_that_opens(nexus: Served, path: str, key: str | None) -> None:
    """401 with a code, and the same for a key that is missing and one that is wrong."""
    headers = {} if key is None else {wire.KEY_HEADER: key}
    async with nexus.session.get(nexus.endpoint + path, headers=headers) as response:
        assert (response.status, (await response.json())["error"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/v1/nope", 404, None),
        ("GET", "/v1/sync/", 404, None),
        ("POST", "/v1/sync", 405, "GET"),
        ("DELETE", "/v1/stream", 405, "GET"),
        ("GET", "/v1/secrets", 405, "POST"),
        ("POST", "/v1/secrets/k", 405, "DELETE"),
        ("GET", "/v1/flags/evaluate-ab", 405, "POST"),
        ("DELETE", "/v1/secrets/nope", 404, None),
        ("DELETE", "/v1/secrets/", 404, None),
    ],
)
async def test_paths_and_methods(nexus: Served, method: str, path: str, status: int, allow: str | None) -> None:
    """404 for what is not there, 405 with what there is."""
    async with nexus.session.request(method, nexus.endpoint + path, headers=nexus.headers()) as response:
        assert (response.status, response.headers.get("Allow")) == (status, allow)


async def test_secrets_by_the_wire(nexus: Served) -> None:
    """Written with and without a type, deleted whole or by version; `%3A` in a path is a colon."""
    assert (await nexus.write(key="db:password", value="one"))[0] == 200
    assert await nexus.write(key="db:password", value="two", type="file") == (200, {"key": "db:password", "version": 2})
    assert (await nexus.write(key="plain", value="p", type=""))[0] == 200
    assert nexus.secrets() == {"db:password": "two", "plain": "p"}
    assert (await nexus.ask("DELETE", "/v1/secrets/db%3Apassword?version=2"))[0] == 204
    assert nexus.secrets() == {"db:password": "one", "plain": "p"}
    assert (await nexus.ask("DELETE", "/v1/secrets/db:password"))[0] == 204
    assert nexus.secrets() == {"plain": "p"}
    actors = {row["actor"] for row in nexus.store.audit(nexus.service) if row["key"]}
    assert actors == {"key:primary"}


@pytest.mark.parametrize(
    "query",
    ["version=", "version=0", "version=-1", "version=x", "version=1.0", "version=99999999999999999999", "version=%00",
     "Version=1", "x", "v;version=1", "version=1&version=2", "version=1&x=1"],
)  # fmt: skip
async def test_a_query_that_is_no_version_deletes_nothing(nexus: Served, query: str) -> None:
    """400, or 404 where it could be one."""
    await nexus.write(key="k", value="v")
    status, _ = await nexus.ask("DELETE", f"/v1/secrets/k?{query}")
    assert status == 400
    assert (await nexus.ask("DELETE", "/v1/secrets/k?version=7"))[0] == 404
    assert nexus.secrets() == {"k": "v"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"key":"k"}', 400),
        (b'{"key":"k","value":1}', 400),
        (b'{"key":"k","value":1.5}', 400),
        (b'{"key":"k","value":null}', 400),
        (b'{"key":"a b","value":"v"}', 400),
        (b'{"key":"k","value":"v","type":"blob"}', 400),
        (b'{"key":"k","value":"v","type":5}', 400),
        (b'{"key":"k","value":"v","type":0}', 400),
        (b'{"key":"k","key":"k","value":"v"}', 400),
        (b'{"key":"k","value":"\\u0000"}', 400),
        (b'{"key":"k","value":"' + b"x" * 1_048_577 + b'"}', 413),
        (b" " * (REQUEST_MAX_BYTES + 1), 413),
    ],
    ids=lambda part: None if isinstance(part, int) else f"{part[:30]!r} of {len(part)}",
)
async def test_bodies_that_are_refused(nexus: Served, body: bytes, status: int) -> None:
    """Nothing is written, and the body is not quoted."""
    got, document = await nexus.ask("POST", "/v1/secrets", data=io.BytesIO(body))
    assert got == status, document
    assert {"error", "message"} == set(document)
    assert nexus.secrets() == {}


async def test_a_b_rollout_is_an_add_on(nexus: Served) -> None:
    """403, with the code that clients look for."""
    status, document = await nexus.ask("POST", "/v1/flags/evaluate-ab", json={"keys": ["f"], "user_id": "u"})
    assert (status, document["error"]) == (403, "ab_addon_not_active")


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """Each event as it stands: its first line and its second."""
    buffer = b""
    async for chunk in response.content.iter_any():
        buffer += chunk
        while b"\n\n" in buffer:
            block, _, buffer = buffer.partition(b"\n\n")
            first, _, second = block.decode().partition("\n")
            yield first, second


async def test_the_stream(nexus: Served) -> None:
    """`resync` first; then every change of this service by whichever way it was made, and of no other one."""
    other, _ = nexus.store.services.create("web", "backend", "test", "t")
    async with asyncio.timeout(20):
        async with nexus.session.get(nexus.endpoint + "/v1/stream", headers=nexus.headers()) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
            told = events(response)
            assert await anext(told) == ("event: resync", "data: {}")
            await nexus.write(key="k", value="v")
            assert await anext(told) == ("event: secret.created", 'data: {"key":"k"}')
            await nexus.ask("DELETE", "/v1/secrets/k")
            assert await anext(told) == ("event: secret.deleted", 'data: {"key":"k"}')
            nexus.store.set_flag(other, "not.ours", True, "t")
            nexus.store.set_flag(nexus.service, "f", True, "t")  # past the server, straight into the database
            assert await anext(told) == ("event: flag.created", 'data: {"key":"f"}')
            arguments = {"service": "shop", "key": "c", "value": admin.encoded(b"1")}
            await asyncio.to_thread(admin.ask, nexus.directory, "config.set", arguments)
            assert await anext(told) == ("event: config.created", 'data: {"key":"c"}')


async def test_a_quiet_stream_shows_that_it_lives(tmp_path: Path) -> None:
    """A comment after each quiet while."""
    store = Store(tmp_path)
    streams = Streams(store, ping=0.01)
    with streams.subscribe(1) as chunks:
        assert [await anext(chunks) for _ in range(2)] == [b": ping\n\n"] * 2
    store.close()


async def test_a_reader_that_falls_behind_is_cut_off_and_the_others_go_on(tmp_path: Path) -> None:
    """It comes back and starts with a sync, so nothing is lost and memory does not grow."""
    store = Store(tmp_path)
    service, _ = store.services.create("shop", "backend", "test", "t")
    streams = Streams(store)
    with streams.subscribe(service.id) as slow, streams.subscribe(service.id) as quick:
        for number in range(1002):
            store.set_flag(service, "f", bool(number % 2), "t")
            streams.pump()
            assert b"flag." in await anext(quick)
        assert len([chunk async for chunk in slow]) < 1002
        store.set_flag(service, "f", True, "t")
        streams.pump()
        assert b"flag.toggled" in await anext(quick)
    store.close()


async def test_a_stop_ends_streams(nexus: Served, tmp_path: Path) -> None:
    """A stream that is open does not keep a server from ending."""
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    place = tmp_path / "second"
    serving = asyncio.create_task(server.serve(place, server.Address(host="127.0.0.1"), stop, ready.set_result))
    endpoint = await ready
    made = await asyncio.to_thread(
        admin.ask, place, "service.create", {"name": "a", "kind": "backend", "environment": "test"}
    )
    async with nexus.session.get(f"{endpoint}/v1/stream", headers={wire.KEY_HEADER: made["primary"]}) as response:
        told = events(response)
        await anext(told)
        stop.set()
        assert [event async for event in told] == []
    await serving


async def test_the_admin_socket_is_for_its_owner_and_for_operations(nexus: Served) -> None:
    """0600, one path, and nonsense gets an answer."""
    path = nexus.directory / admin.SOCKET_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        for method, target, body in (
            ("GET", "/operation", b""),
            ("POST", "/v1/sync", b"{}"),
            ("POST", "/operation", b"{"),
            ("POST", "/operation", b"[]"),
            ("POST", "/operation", b'{"operation":"secret.get"}'),
            ("POST", "/operation", b'{"operation":"nope","arguments":{}}'),
            ("POST", "/operation", b'{"operation":"secret.get","arguments":{"service":"shop"}}'),
        ):
            async with session.request(method, f"http://local{target}", data=body) as response:
                assert response.status in (400, 404), (method, target, body)
                assert "code" in await response.json()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8484", server.Address(host="127.0.0.1", port=8484)),
        ("[::1]:0", server.Address(host="::1", port=0)),
        ("localhost:1", server.Address(host="localhost", port=1)),
        ("unix:/run/x.sock", server.Address(path=Path("/run/x.sock"))),
    ],
)
def test_addresses(text: str, expected: server.Address) -> None:
    """TCP on loopback, or a socket."""
    assert server.address(text) == expected


async def test_it_serves_on_ipv6_and_on_a_socket(tmp_path: Path) -> None:
    """The endpoint that is told is the one that answers."""
    for where in (server.Address(host="::1"), server.Address(path=tmp_path / "n.sock")):
        stop = asyncio.Event()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(server.serve(tmp_path / "nexus", where, stop, ready.set_result))
        endpoint = await ready
        path = endpoint.removeprefix("unix:") if endpoint.startswith("unix:") else None
        connector = aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector(family=socket.AF_INET6)
        target = "http://localhost/v1/sync" if path else f"{endpoint}/v1/sync"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(target) as response:
            assert response.status == 401
        stop.set()
        await serving
