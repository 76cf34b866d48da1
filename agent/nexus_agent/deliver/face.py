"""The thin HTTP face of the socket API: a connection to a `Request`, an `Answer` to a response."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from nexus_agent import http_server, peer
from nexus_agent.deliver import api, documents
from nexus_agent.deliver.api import Follow, Pending, Refresh, Request, View
from nexus_agent.deliver.door import Door
from nexus_agent.deliver.responses import Response, problem
from nexus_agent.errors import BadRequest, NexusError, NotFresh, TooLarge
from nexus_agent.model import Snapshot, changes
from nexus_agent.policy import Policy
from nexus_agent.store import Store

REQUEST_MAX_BYTES = 64 * 1024
REFRESH_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 60.0
FOLLOW_PING_SECONDS = 30.0
# aiohttp spends it twice: on requests that run, and on connections that do not close.
DRAIN_SECONDS = 2.0
_OF_A_PROXY = ("X-Forwarded-For", "Forwarded", "Via")


class Face:
    """Serves the API on a listening Unix socket. `refresh` asks Nexus about one service and returns when it is done;
    what is about to be there is waited for `patience` seconds."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        policy: Policy,
        refresh: Mapping[str, Callable[[], Awaitable[None]]],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        version: str = "",
        patience: float = 5.0,
    ) -> None:
        self._stores = stores
        self._policy = policy
        self._refresh = refresh
        self._wall = wall
        self._log = log
        self._version = version
        self.patience = patience
        self._followers: set[asyncio.Task[object]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve until cancelled; then let running requests finish, for a few seconds at most."""
        served = http_server.server(self._respond, _refused, self._log, keepalive_timeout=KEEP_ALIVE_SECONDS)
        runner = web.ServerRunner(served, shutdown_timeout=DRAIN_SECONDS)
        await runner.setup()
        door = Door(listener, self._at_once, served)
        door.open()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await door.close(DRAIN_SECONDS)
            for follower in self._followers:
                follower.cancel()
            await runner.cleanup()

    def _view(self) -> View:
        states = {name: store.current() for name, store in self._stores.items()}
        return View(states, self._policy, self._wall(), self._version)

    def _at_once(self, target: bytes, accept: bytes, connection: peer.HasOptions) -> bytes | None:
        """The whole answer to a program's start; nothing where it takes waiting, or words for a fault."""
        try:
            request = _request("GET", target.decode("ascii"), accept.decode("ascii"))
            answer = api.answer(request, peer.caller(connection), self._view())
        except Exception:  # the server meets it again, and has an answer for it
            return None
        return _whole(answer) if isinstance(answer, Response) else None

    async def _respond(self, raw: web.BaseRequest) -> web.StreamResponse:
        if raw.content_length is not None and raw.content_length > REQUEST_MAX_BYTES:
            raise TooLarge(f"a request of over {REQUEST_MAX_BYTES} bytes")
        if through := [name for name in _OF_A_PROXY if name in raw.headers]:
            raise BadRequest(f"this came through a proxy: {', '.join(through)}", "ask the agent's socket directly")
        if raw.transport is None:
            raise ConnectionResetError
        caller = peer.caller(raw.transport.get_extra_info("socket"))
        accept, if_none_match = (",".join(raw.headers.getall(name, ())) for name in ("Accept", "If-None-Match"))
        request = _request(raw.method, raw.raw_path, accept, if_none_match)
        answer = api.answer(request, caller, self._view())
        if isinstance(answer, Pending):
            answer = await self._patiently(answer, request, caller)
        if isinstance(answer, Refresh):
            return _http(await self._refreshed(answer.service))
        if isinstance(answer, Follow):
            return await self._follow(raw, self._stores[answer.service])
        if isinstance(answer, Pending):
            raise answer.reason
        return _http(answer)

    async def _patiently(self, pending: Pending, request: Request, caller: peer.Caller) -> api.Answer:
        """Ask again at each change, until what is missing is there."""
        store = self._stores[pending.service]
        answer: api.Answer = pending
        try:
            async with asyncio.timeout(self.patience):
                while isinstance(answer, Pending):
                    state = store.current()
                    answer = api.answer(request, caller, self._view())
                    if isinstance(answer, Pending):
                        await store.changed(state)
        except TimeoutError:
            pass
        return answer

    async def _refreshed(self, service: str) -> Response:
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._refresh[service]()
        except TimeoutError:
            hint = "'nexus-agent status' has the next try"
            raise NotFresh("Nexus could not be asked in time", hint) from None
        return api.refreshed(self._stores[service].current(), self._wall())

    async def _follow(self, raw: web.BaseRequest, store: Store) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        task = asyncio.current_task()
        if task is not None:
            self._followers.add(task)
        try:
            await response.prepare(raw)
            await self._send_generations(response, store)
        except ConnectionResetError:
            pass  # the reader has left, which is how it says that it has heard enough
        finally:
            if task is not None:
                self._followers.discard(task)
        return response

    async def _send_generations(self, response: web.StreamResponse, store: Store) -> None:
        told, generation = Snapshot(), 0
        state = store.current()
        while True:
            if state.snapshot is not None and state.generation != generation:
                event = documents.generation_event(state.generation, changes(told, state.snapshot))
                told, generation = state.snapshot, state.generation
                await response.write(event)
            try:
                async with asyncio.timeout(FOLLOW_PING_SECONDS):
                    state = await store.changed(state)
            except TimeoutError:
                await response.write(b": ping\n\n")  # the only way to learn that a reader is gone


def _request(method: str, target: str, accept: str, if_none_match: str = "") -> Request:
    path, _, query = target.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise BadRequest("the query cannot be read", "write NAME=VALUE pairs joined by &, percent-encoded") from None
    return Request(method, path, tuple(pairs), accept, if_none_match)


def _refused(error: NexusError) -> web.Response:
    return _http(problem(error))


def _whole(answer: Response) -> bytes:
    headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    status = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"
    return f"{status}\r\n{lines}Connection: close\r\n\r\n".encode() + answer.body


def _http(answer: Response) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={**answer.headers, "Content-Type": answer.content_type},
    )
