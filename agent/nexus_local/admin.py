"""Administration: one table of operations, run on the database itself or by the server that has it open.

An operation takes and gives JSON. Values travel as base64, because a file secret is any text and a terminal is none of
our business here. The server listens for operations on `admin.sock` (0600) in its data directory (0700).
"""

import base64
import binascii
import http.client
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from nexus_agent import errors
from nexus_agent.errors import BadRequest, NexusError
from nexus_agent.model import SecretType
from nexus_local.services import Service
from nexus_local.store import Store

SOCKET_NAME: Final = "admin.sock"
OPERATION_PATH: Final = "/operation"
ACTOR: Final = "admin"
_SECONDS: Final = 30.0

Arguments = Mapping[str, Any]
Result = dict[str, Any]


def encoded(value: bytes) -> str:
    """A value as an operation carries it."""
    return base64.b64encode(value).decode()


def decoded(text: str) -> bytes:
    """The value that an operation carried. Raises `BadRequest`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("a value is not base64") from None


def perform(store: Store, operation: str, arguments: Arguments) -> Result:
    """Carry out one operation. Raises `BadRequest` for one that does not exist, and whatever the store raises."""
    if operation not in _OPERATIONS:
        raise BadRequest(f"there is no operation {operation!r}", "client and server are of different versions")
    return _OPERATIONS[operation](store, arguments)


def ask(directory: Path, operation: str, arguments: Arguments) -> Result:
    """Carry out one operation in a data directory: by its server if one runs, else on the database."""
    connection = _connected(directory / SOCKET_NAME)
    if connection is None:
        store = Store(directory)
        try:
            return perform(store, operation, arguments)
        finally:
            store.close()
    try:
        body = json.dumps({"operation": operation, "arguments": dict(arguments)})
        connection.request("POST", OPERATION_PATH, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        document = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        raise errors.AgentUnreachable("the server ended before it answered", "start it again and look") from None
    finally:
        connection.close()
    if response.status == 200:
        return dict(document)
    raise errors.revive(document.get("code"), document.get("detail"), document.get("hint", ""))


def problem(error: NexusError) -> Result:
    """An error as the server sends it."""
    return {"code": error.code, "detail": error.detail, "hint": error.hint}


def _connected(path: Path) -> http.client.HTTPConnection | None:
    connection = http.client.HTTPConnection("nexus-local", timeout=_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(_SECONDS)
    try:
        connection.sock.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise errors.BadSettings(f"{path}: {error.strerror}", "run this as the user who runs the server") from None
    return connection


def _service(store: Store, arguments: Arguments) -> Service:
    return store.services.named(arguments["service"])


def _create_service(store: Store, arguments: Arguments) -> Result:
    service, keys = store.services.create(arguments["name"], arguments["kind"], arguments["environment"], ACTOR)
    return {
        "service": service.name,
        "kind": service.kind.value,
        "environment": service.environment,
        "endpoint": store.endpoint(),
        "primary": keys.primary.reveal(),
        "secondary": keys.secondary.reveal(),
        "public": keys.public.reveal(),
    }


def _list_services(store: Store, _: Arguments) -> Result:
    listed = [
        {"service": service.name, "kind": service.kind.value, "environment": service.environment}
        for service in store.services.all()
    ]
    return {"services": listed, "endpoint": store.endpoint()}


def _set_secret(store: Store, arguments: Arguments) -> Result:
    try:
        value = decoded(arguments["value"]).decode("utf-8", "strict")
    except UnicodeDecodeError:
        hint = "store binary content as its base64 text"
        raise BadRequest(f"secret {arguments['key']}: the value is not UTF-8", hint) from None
    version = store.set_secret(
        _service(store, arguments),
        arguments["key"],
        value,
        SecretType(arguments["type"]),
        arguments["description"],
        ACTOR,
    )
    return {"service": arguments["service"], "key": arguments["key"], "version": version}


def _get_secret(store: Store, arguments: Arguments) -> Result:
    secret = store.secret(_service(store, arguments), arguments["key"], ACTOR)
    return {
        "key": arguments["key"],
        "version": secret.version,
        "type": secret.type.value,
        "value": encoded(secret.value.reveal().encode()),
    }


def _list_secrets(store: Store, arguments: Arguments) -> Result:
    return {"secrets": store.list_secrets(_service(store, arguments), ACTOR)}


def _secret_history(store: Store, arguments: Arguments) -> Result:
    versions = store.secret_history(_service(store, arguments), arguments["key"], arguments["reveal"], ACTOR)
    for version in versions:
        if "value" in version:
            version["value"] = encoded(version["value"].reveal().encode())
    return {"key": arguments["key"], "versions": versions}


def _delete_secret(store: Store, arguments: Arguments) -> Result:
    store.delete_secret(_service(store, arguments), arguments["key"], arguments["version"], ACTOR)
    return {"deleted": arguments["key"], "version": arguments["version"]}


def _set_config(store: Store, arguments: Arguments) -> Result:
    store.set_config(_service(store, arguments), arguments["key"], decoded(arguments["value"]), ACTOR)
    return {"service": arguments["service"], "key": arguments["key"]}


def _list_configs(store: Store, arguments: Arguments) -> Result:
    return {"configs": store.configs(_service(store, arguments))}


def _set_flag(store: Store, arguments: Arguments) -> Result:
    store.set_flag(_service(store, arguments), arguments["key"], arguments["active"], ACTOR)
    return {"service": arguments["service"], "key": arguments["key"], "active": arguments["active"]}


def _list_flags(store: Store, arguments: Arguments) -> Result:
    return {"flags": store.flags(_service(store, arguments))}


def _delete_entry(store: Store, arguments: Arguments) -> Result:
    store.delete_entry(_service(store, arguments), arguments["group"], arguments["key"], ACTOR)
    return {"deleted": arguments["key"]}


def _audit(store: Store, arguments: Arguments) -> Result:
    name = arguments["service"]
    return {"audit": store.audit(store.services.named(name) if name else None)}


_OPERATIONS: Final[Mapping[str, Callable[[Store, Arguments], Result]]] = {
    "service.create": _create_service,
    "service.list": _list_services,
    "secret.set": _set_secret,
    "secret.get": _get_secret,
    "secret.list": _list_secrets,
    "secret.history": _secret_history,
    "secret.delete": _delete_secret,
    "config.set": _set_config,
    "config.list": _list_configs,
    "flag.set": _set_flag,
    "flag.list": _list_flags,
    "entry.delete": _delete_entry,
    "audit.list": _audit,
}
