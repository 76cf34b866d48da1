"""The whole agent in this process, against a recorded Nexus: every vector from the wire to the socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from nexus_agent import daemon, exactjson, settings
from nexus_agent.errors import AlreadyRunning, BadSettings
from nexus_agent.listener import listen
from nexus_agent.model import Config, Sensitive
from rig import recorded as rec
from rig.canary import CANARY
from rig.processes import private_file
from rig.recorded import Recorded
from rig.vectors import Vector, load

WIRE = load("wire")
BEFORE = rec.snapshot({"before": "one"})


class Agent:
    """A running agent and a client on its socket."""

    def __init__(self, path: Path, session: aiohttp.ClientSession, task: asyncio.Task[None]) -> None:
        self.path = path
        self.session = session
        self.task = task

    async def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Status and JSON body; decimals as they were written."""
        async with self.session.request(method, f"http://agent{path}") as response:
            body = await response.read()
            return response.status, exactjson.load(body) if body else None

    async def texts(self, service: str = "-") -> dict[str, dict[str, str]]:
        """Everything that the agent has, as the vectors write it."""
        given: dict[str, dict[str, str]] = {"secrets": {}, "configs": {}, "flags": {}}
        for group, texts in given.items():
            status, listed = await self.ask(f"/v1/{service}/{group}")
            if status != 200:
                continue  # a public key, or a frontend service
            keys = [entry["key"] for entry in listed["secrets"]] if group == "secrets" else listed[group]
            for key in keys:
                _, entry = await self.ask(f"/v1/{service}/{group}/{quote(key, safe='')}")
                texts[key] = text_of(group, entry)
        return given


def text_of(group: str, entry: dict[str, Any]) -> str:
    """What a program would get of one entry."""
    if group == "secrets":
        return str(entry["value"]) if "value" in entry else Path(entry["path"]).read_bytes().decode()
    if group == "configs":
        return Config(Sensitive(exactjson.dump(entry["value"]))).text()
    return "true" if entry["is_active"] else "false"


def configuration(directory: Path, *endpoints: str) -> settings.Settings:
    """Settings for one service an endpoint: a, b, …"""
    key = private_file(directory / "key", "wxs_key")
    text = f'[runtime]\ndirectory = "{directory}/run"\n'
    for name, endpoint in zip("abc", endpoints, strict=False):
        text += f'[[service]]\nname = "{name}"\nendpoint = "{endpoint}"\ncredential = "file:{key}"\n'
    path = directory / "agent.toml"
    path.write_text(text)
    return settings.load(path)


@asynccontextmanager
async def running(loaded: settings.Settings) -> AsyncIterator[Agent]:
    """An agent that listens, until the block ends."""
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(daemon.run(loaded, stop, ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        await task
    path = loaded.socket.path
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield Agent(path, session, task)
    stop.set()
    await task


async def until(agent: Agent, wanted: Callable[[dict[str, Any]], bool], service: str = "-") -> None:
    """Follow the generations until one is wanted."""
    async with asyncio.timeout(20), agent.session.get(f"http://agent/v1/{service}/changes") as response:
        async for line in response.content:
            if line.startswith(b"data: ") and wanted(json.loads(line[6:])):
                return


@pytest.mark.parametrize("vector", WIRE, ids=lambda vector: vector.name)
async def test_vectors_through_the_agent(vector: Vector, recorded: Recorded, run_dir: Path) -> None:
    """What is valid arrives to the last digit; after what is not, everything is as it was, and the reason is told."""
    recorded.script["/v1/sync"] = [rec.response(200, BEFORE), rec.response(200, vector.body)]
    async with running(configuration(run_dir, f"http://127.0.0.1:{recorded.port}")) as agent:
        await until(agent, lambda event: True)
        status, answer = await agent.ask("/v1/-/refresh", "POST")
        problem = (await agent.ask("/v1/status"))[1]["services"][0]["problem"]
        given = await agent.texts()
    if vector.expect == "valid" and vector.data("gives") == {"secrets": {}, "configs": {}, "flags": {}}:
        assert (status, given["secrets"]) == (504, {"before": "one"})  # nothing at all is held back
        assert problem == "Nexus suddenly has no value at all"
    elif vector.expect == "valid":
        assert (status, given, problem) == (200, vector.data("gives"), None)
    else:
        assert (status, answer["code"], answer["detail"]) == (504, "not_fresh", problem)
        assert given == {"secrets": {"before": "one"}, "configs": {}, "flags": {}}


async def test_one_service_that_fails_does_not_disturb_another(recorded: Recorded, run_dir: Path) -> None:
    """Each has its own engine, files and state."""
    recorded.script["/v1/sync"] = [rec.response(200, rec.snapshot({"k": CANARY, "F": ("pem", {"type": "file"})}))]
    endpoint = f"http://127.0.0.1:{recorded.port}"
    async with running(configuration(run_dir, endpoint, "http://127.0.0.1:1")) as agent:
        await until(agent, lambda event: event["secrets"] == ["F", "k"], "a")
        assert await agent.texts("a") == {"secrets": {"k": CANARY, "F": "pem"}, "configs": {}, "flags": {}}
        status, problem = await agent.ask("/v1/b/secrets")
        assert (status, problem["code"]) == (503, "not_ready")
        assert (await agent.ask("/readyz"))[0] == 503
        assert (await agent.ask("/healthz"))[0] == 200
        assert (await agent.ask("/v1/-/secrets"))[1]["code"] == "bad_request"
    assert not agent.path.exists()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody else's live socket."""
    path.parent.mkdir(mode=0o755)
    with listen(path, 0o600):
        yield


async def test_nothing_is_started_when_it_cannot_run(run_dir: Path) -> None:
    """The socket of somebody else stays, no socket of ours is left, and nobody was asked."""
    loaded = configuration(run_dir, "http://127.0.0.1:1")
    with held(loaded.socket.path), pytest.raises(AlreadyRunning):
        async with running(loaded):
            pass
    (run_dir / "key").unlink()
    with pytest.raises(BadSettings, match="no such file"):
        async with running(loaded):
            pass
    assert not loaded.socket.path.exists()
