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
from inspect import signature
from pathlib import Path
from typing import Any, Final

from nexus_agent import errors
from nexus_agent.directories import require_own
from nexus_agent.errors import BadRequest, NexusError
from nexus_agent.model import SecretType
from nexus_local.database import ADVICE, DATABASE_NAME
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
    """Carry out one operation. Raises `BadRequest` for one that does not exist or is called with other arguments, and
    whatever the store raises."""
    try:
        call = signature(_OPERATIONS[operation]).bind(store, **arguments)
    except (KeyError, TypeError):
        hint = "client and server are of different versions"
        raise BadRequest(f"there is no operation {operation!r} with these arguments", hint) from None
    return _OPERATIONS[operation](*call.args)


def ask(directory: Path, operation: str, arguments: Arguments) -> Result:
    """Carry out one operation in a data directory: by its server if one runs, else on the database."""
    if not all(_is_utf8(text) for text in arguments.values()):
        raise BadRequest("an argument is not UTF-8", "values that are not text come from a file or standard input")
    connection = _connected(directory)
    if connection is None:
        if operation != "service.create" and not (directory / DATABASE_NAME).exists():
            hint = "'nexus-local serve' or 'service create' makes one; name another directory with --data"
            raise errors.BadSettings(f"{directory}: there is no Nexus", hint)
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
    except TimeoutError:
        hint = "look before you try again: it may still do it"
        raise errors.Busy(f"the server has not answered for {_SECONDS:.0f} s", hint) from None
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


def _is_utf8(argument: object) -> bool:
    """Click hands bytes that are none of the locale's on as surrogates."""
    return not isinstance(argument, str) or not any("\ud800" <= character <= "\udfff" for character in argument)


def _connected(directory: Path) -> http.client.HTTPConnection | None:
    if not directory.exists():
        return None
    require_own(directory, ADVICE)
    path = directory / SOCKET_NAME
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


def _create_service(store: Store, name: str, kind: str, environment: str) -> Result:
    service, keys = store.services.create(name, kind, environment, ACTOR)
    return {
        "service": service.name,
        "kind": service.kind.value,
        "environment": service.environment,
        "endpoint": store.endpoint(),
        "primary": keys.primary.reveal(),
        "secondary": keys.secondary.reveal(),
        "public": keys.public.reveal(),
    }


def _list_services(store: Store) -> Result:
    listed = [
        {"service": service.name, "kind": service.kind.value, "environment": service.environment}
        for service in store.services.all()
    ]
    return {"services": listed, "endpoint": store.endpoint()}


def _set_secret(store: Store, service: str, key: str, value: str, type: str, description: str) -> Result:  # noqa: A002  # the words of the protocol
    try:
        text = decoded(value).decode("utf-8", "strict")
    except UnicodeDecodeError:
        hint = "store binary content as its base64 text"
        raise BadRequest(f"secret {key}: the value is not UTF-8", hint) from None
    named = store.services.named(service)
    version = store.set_secret(named, key, text, SecretType(type), description, ACTOR)
    return {"service": service, "key": key, "version": version}


def _get_secret(store: Store, service: str, key: str) -> Result:
    secret = store.secret(store.services.named(service), key, ACTOR)
    value = encoded(secret.value.reveal().encode())
    return {"key": key, "version": secret.version, "type": secret.type.value, "value": value}


def _list_secrets(store: Store, service: str) -> Result:
    return {"secrets": store.list_secrets(store.services.named(service), ACTOR)}


def _secret_history(store: Store, service: str, key: str, reveal: bool) -> Result:
    versions = store.secret_history(store.services.named(service), key, reveal, ACTOR)
    for version in versions:
        if "value" in version:
            version["value"] = encoded(version["value"].reveal().encode())
    return {"key": key, "versions": versions}


def _delete_secret(store: Store, service: str, key: str, version: int | None) -> Result:
    store.delete_secret(store.services.named(service), key, version, ACTOR)
    return {"deleted": key, "version": version}


def _set_config(store: Store, service: str, key: str, value: str) -> Result:
    store.set_config(store.services.named(service), key, decoded(value), ACTOR)
    return {"service": service, "key": key}


def _list_configs(store: Store, service: str) -> Result:
    return {"configs": store.configs(store.services.named(service))}


def _set_flag(store: Store, service: str, key: str, active: bool) -> Result:
    store.set_flag(store.services.named(service), key, active, ACTOR)
    return {"service": service, "key": key, "active": active}


def _list_flags(store: Store, service: str) -> Result:
    return {"flags": store.flags(store.services.named(service))}


def _delete_entry(store: Store, service: str, group: str, key: str) -> Result:
    store.delete_entry(store.services.named(service), group, key, ACTOR)
    return {"deleted": key}


def _audit(store: Store, service: str | None) -> Result:
    return {"audit": store.audit(None if service is None else store.services.named(service))}


_OPERATIONS: Final[Mapping[str, Callable[..., Result]]] = {
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
