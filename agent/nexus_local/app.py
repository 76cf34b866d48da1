"""The HTTP face of the embedded Nexus: its wire for agents and SDKs, and its admin socket."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from nexus_agent import exactjson, wire
from nexus_agent.errors import (
    BadRequest,
    MethodNotAllowed,
    NexusError,
    NotFound,
    PublicKeyRestricted,
)
from nexus_agent.exactjson import DecimalText
from nexus_agent.http_server import body_of, has_tag
from nexus_agent.model import SecretType
from nexus_local import admin
from nexus_local.database import now
from nexus_local.services import Caller
from nexus_local.store import Store
from nexus_local.streams import Streams

# A secret of the largest size, with every character escaped, and its frame.
REQUEST_MAX_BYTES: Final = 7 * 1024 * 1024
_BARE_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]", "")
_JSON: Final = "application/json"


class Unauthorized(NexusError):
    """No key, or one that opens nothing here."""

    code, exit_status, http_status = "unauthorized", 77, 401


class HostMismatch(NexusError):
    """The host that was asked is not the one of the key's service."""

    code, exit_status, http_status = "host_mismatch", 77, 403


class AddonNotActive(NexusError):
    """A/B rollout is an add-on of the hosted service."""

    code, exit_status, http_status = wire.AB_ADDON_NOT_ACTIVE, 1, 403


@dataclass(frozen=True, slots=True)
class _Call:
    """An authenticated request on its way to its handler."""

    raw: web.BaseRequest
    caller: Caller
    key: str = ""

    def require_secret_key(self) -> None:
        if self.caller.public:
            raise PublicKeyRestricted("a public key writes nothing", "use the service's secret key")

    @property
    def actor(self) -> str:
        return f"key:{self.caller.role}"


class WireFace:
    """The wire: `handle` is what an aiohttp server calls for each request."""

    def __init__(self, store: Store, streams: Streams) -> None:
        self._store = store
        self._streams = streams
        self._routes: Mapping[str, Mapping[str, Callable[[_Call], Awaitable[web.StreamResponse]]]] = {
            wire.SYNC_PATH: {"GET": self._sync},
            wire.STREAM_PATH: {"GET": self._stream},
            wire.SECRETS_PATH: {"POST": self._write_secret},
            f"{wire.SECRETS_PATH}/": {"DELETE": self._delete_secret},
            wire.EVALUATE_AB_PATH: {"POST": self._evaluate_ab},
        }

    @staticmethod
    def refused(error: NexusError) -> web.Response:
        """An error as the wire has it."""
        headers = {"Allow": ", ".join(error.allow)} if isinstance(error, MethodNotAllowed) else {}
        body = wire.write_error(error.code, ": ".join(filter(None, (error.detail, error.hint))))
        return web.Response(status=error.http_status, body=body, content_type=_JSON, headers=headers)

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        """One request. Raises our errors."""
        path = raw.raw_path.partition("?")[0]
        key = ""
        if path.startswith(f"{wire.SECRETS_PATH}/"):
            path, key = f"{wire.SECRETS_PATH}/", unquote(path.removeprefix(f"{wire.SECRETS_PATH}/"))
        methods = self._routes.get(path)
        if methods is None:
            raise NotFound("no such path")
        caller = self._authenticate(raw)
        if raw.method not in methods:
            raise MethodNotAllowed("no such method on this path", tuple(methods))
        return await methods[raw.method](_Call(raw, caller, key))

    def _authenticate(self, raw: web.BaseRequest) -> Caller:
        """The double gate: the key must open a service, and a host that names a service must name that one."""
        keys = raw.headers.getall(wire.KEY_HEADER, [])
        caller = self._store.services.authenticate(keys[0]) if len(keys) == 1 else None
        if caller is None:
            raise Unauthorized("no key, or one that opens nothing here", f"send the service's key as {wire.KEY_HEADER}")
        host = raw.headers.get("Host", "")
        name, colon, port = host.rpartition(":")
        name = name if colon and (port.isdigit() or not port) else host
        if name.lower().removesuffix(".") not in (*_BARE_HOSTS, f"{caller.service.name}.localhost"):
            raise HostMismatch("the host is not the one of the key's service", f"ask {caller.service.name}.localhost")
        return caller

    async def _sync(self, call: _Call) -> web.StreamResponse:
        snapshot = self._store.snapshot(call.caller.service, call.caller.public)
        headers = {"ETag": f'"{sha256(wire.write_snapshot(snapshot, "")).hexdigest()}"', "Cache-Control": "no-store"}
        if has_tag(call.raw.headers.get("If-None-Match", ""), headers["ETag"]):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=wire.write_snapshot(snapshot, now()), content_type=_JSON, headers=headers)

    async def _stream(self, call: _Call) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": wire.STREAM_TYPE, "Cache-Control": "no-store"})
        with self._streams.subscribe(call.caller.service.id) as events:
            await response.prepare(call.raw)
            await response.write(wire.write_event(wire.RESYNC))
            async for chunk in events:
                await response.write(chunk)
        return response

    async def _write_secret(self, call: _Call) -> web.StreamResponse:
        call.require_secret_key()
        document = await _document(call.raw)
        kind = document.get("type")
        texts = {
            "key": document.get("key"),
            "value": document.get("value"),
            "type": "text" if kind in (None, "") else kind,
        }
        if not all(isinstance(text, str) and not isinstance(text, DecimalText) for text in texts.values()):
            raise BadRequest("a secret needs key and value, and may have a type; all of them text")
        if texts["type"] not in tuple(SecretType):
            raise BadRequest("a secret's type is text or file")
        key, value, kind = (str(texts[name]) for name in ("key", "value", "type"))
        service = call.caller.service
        version = self._store.set_secret(service, key, value, SecretType(kind), "", call.actor)
        self._streams.pump()
        return web.Response(body=exactjson.dump({"key": key, "version": version}).encode(), content_type=_JSON)

    async def _delete_secret(self, call: _Call) -> web.StreamResponse:
        call.require_secret_key()
        query = call.raw.raw_path.partition("?")[2]
        match = re.fullmatch(r"version=([1-9][0-9]{0,8})", query, re.ASCII)
        if query and match is None:
            raise BadRequest("a deletion takes one parameter, version, a whole number from 1 on; nothing was deleted")
        version = int(match[1]) if match else None
        self._store.delete_secret(call.caller.service, call.key, version, call.actor)
        self._streams.pump()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _evaluate_ab(self, call: _Call) -> web.StreamResponse:
        raise AddonNotActive("A/B rollout is an add-on, which this Nexus does not have")


class AdminFace:
    """The admin socket: one path, one operation a request; what it changes reaches the streams at once."""

    def __init__(self, store: Store, streams: Streams) -> None:
        self._store = store
        self._streams = streams

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        """One operation. Raises our errors."""
        if (raw.method, raw.raw_path) != ("POST", admin.OPERATION_PATH):
            raise NotFound("no such path")
        document = await _document(raw)
        arguments = document.get("arguments")
        if not isinstance(arguments, dict):
            raise BadRequest("an operation needs arguments")
        result = admin.perform(self._store, str(document.get("operation")), arguments)
        self._streams.pump()
        return web.json_response(result)

    @staticmethod
    def refused(error: NexusError) -> web.Response:
        """An error as the client of the admin socket raises it again."""
        return web.json_response(admin.problem(error), status=error.http_status)


async def _document(raw: web.BaseRequest) -> dict[str, object]:
    document = exactjson.load(await body_of(raw, REQUEST_MAX_BYTES))
    if not isinstance(document, dict):
        raise BadRequest("the body is no JSON object")
    return document
