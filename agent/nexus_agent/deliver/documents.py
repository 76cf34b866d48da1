"""What the answers of the socket API hold: model values to JSON documents and environment blocks."""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nexus_agent import exactjson
from nexus_agent.cadence import is_stale
from nexus_agent.envnames import Entry, Selection, Variable
from nexus_agent.errors import BadRequest
from nexus_agent.exactjson import RawJson
from nexus_agent.model import Changes, Config, Flag, Secret, SecretType, Sensitive, Snapshot
from nexus_agent.store import State

CONTENT_TYPES: Final[Mapping[str, str]] = {
    "json": "application/json",
    "raw": "application/octet-stream",
    "env0": "application/x-env0",
}
_LISTS: Final = ("only", "exclude", "require", "map", "allow")
_SWITCHES: Final[Mapping[str, bool]] = {"0": False, "1": True}


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON document or bytes, and which of the forms of an answer it is."""

    content: object = field(repr=False)
    form: str = "json"

    @property
    def content_type(self) -> str:
        """The media type."""
        return CONTENT_TYPES[self.form]

    def encoded(self) -> bytes:
        """The bytes to send."""
        return self.content if isinstance(self.content, bytes) else exactjson.dump(self.content).encode()

    def digest(self) -> str:
        """A tag of the content; only for answers without values, as it goes into a header."""
        return hashlib.sha256(self.encoded()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class EnvironmentQuery:
    """What a caller of `/env` asked for."""

    selection: Selection
    configs: bool
    flags: bool


def shown(text: str) -> str:
    """A caller's own words in an error: short, and nothing that a terminal would obey."""
    return repr(text[:80])


def wants(accept: str, media_type: str) -> bool:
    """Whether a caller named this type among those that it accepts (RFC 9110, 12.5.1); `*/*` names none."""
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name == media_type:
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def service(state: State, now: float) -> dict[str, object]:
    """One entry of `/v1/services`."""
    return {
        "name": state.name,
        "environment": state.environment,
        "kind": state.snapshot.kind.value if state.snapshot else "",
        "generation": state.generation,
        "state": state.sync.condition.value,
        "fetched_at": state.fetched_at or None,
        "validated_at": state.validated_at or None,
        "stale": state.snapshot is not None and is_stale(state.validated_at, now),
        "source": "live" if state.snapshot else None,
    }


def status(states: Iterable[State], now: float, version: str) -> dict[str, object]:
    """`/v1/status`: what an operator wants to know."""
    return {"version": version, "services": [_service_status(state, now) for state in states]}


def _service_status(state: State, now: float) -> dict[str, object]:
    snapshot = state.snapshot or Snapshot()
    return {
        **service(state, now),
        "endpoint": state.endpoint,
        "key_type": "public" if state.sync.public_key or snapshot.public else "secret",
        "secrets": len(snapshot.secrets),
        "configs": len(snapshot.configs),
        "flags": len(snapshot.flags),
        "stream": "up" if state.sync.stream_up else "down",
        "requests": state.sync.requests,
        "last_attempt": state.sync.last_attempt,
        "next_attempt": state.sync.next_attempt,
        "problem": state.sync.last_problem or None,
        "files": {
            "generation": state.files.generation,
            "directory": str(state.files.directory) if state.files.generation else None,
            "problem": state.files.problem or None,
        },
    }


def secrets(snapshot: Snapshot) -> dict[str, object]:
    """The list of secrets, without values."""
    listed = [
        {"key": key, "type": secret.type.value, "version": secret.version, "source": secret.source}
        for key, secret in snapshot.secrets.items()
    ]
    return {"secrets": listed}


def secret(key: str, secret: Secret, state: State) -> Body:
    """One secret with its value, or with the path and the content of its file."""
    document: dict[str, object] = {
        "key": key,
        "type": secret.type.value,
        "version": secret.version,
        "source": secret.source,
    }
    if secret.type is SecretType.FILE:
        document["path"] = str(state.files.directory / key)
        document["value_base64"] = base64.b64encode(secret.value.reveal().encode()).decode()
    else:
        document["value"] = secret.value.reveal()
    return Body(document)


def configs(snapshot: Snapshot) -> dict[str, object]:
    """All configs by key, numbers with every digit."""
    return {"configs": {key: RawJson(config.json.reveal()) for key, config in snapshot.configs.items()}}


def config(key: str, config: Config) -> dict[str, object]:
    """One config."""
    return {"key": key, "value": RawJson(config.json.reveal()), "source": config.source}


def flags(snapshot: Snapshot) -> dict[str, object]:
    """All flags by key."""
    return {"flags": {key: flag.is_active for key, flag in snapshot.flags.items()}}


def flag(key: str, flag: Flag) -> dict[str, object]:
    """One flag."""
    return {"key": key, "is_active": flag.is_active, "source": flag.source}


def generation_event(generation: int, changed: Changes) -> bytes:
    """One event of `/changes`."""
    document = {
        "generation": generation,
        "secrets": changed.secrets,
        "configs": changed.configs,
        "flags": changed.flags,
    }
    return f"event: generation\nid: {generation}\ndata: {exactjson.dump(document)}\n\n".encode()


def environment_query(query: Sequence[tuple[str, str]]) -> EnvironmentQuery:
    """The parameters of `/env`. Lists may be repeated or separated by commas; raises `BadRequest` for unknown ones."""
    lists: dict[str, tuple[str, ...]] = {}
    single: dict[str, Any] = {"prefix": "", "upcase": True, "configs": False, "flags": False}
    for name, value in query:
        if name in _LISTS:
            lists[name] = lists.get(name, ()) + tuple(part for part in value.split(",") if part)
        elif name == "prefix":
            single[name] = value
        elif name in single:
            if value not in _SWITCHES:
                raise BadRequest(f"{name} is neither 0 nor 1", f"write {name}=1 or leave it out")
            single[name] = _SWITCHES[value]
        else:
            known = ", ".join(sorted([*_LISTS, *single]))
            raise BadRequest(f"unknown parameter {shown(name)}", f"the parameters are {known}")
    for name in ("only", "require"):
        if name in lists and not lists[name]:
            raise BadRequest(f"{name} is empty", "name a key, or leave it out: an empty choice is not everything")
    renamed = _renamings(lists.get("map", ()))
    selection = Selection(
        prefix=single["prefix"],
        only=lists.get("only", ()),
        exclude=lists.get("exclude", ()),
        require=lists.get("require", ()),
        renamed=renamed,
        allowed=lists.get("allow", ()),
        upper_case=single["upcase"],
    )
    return EnvironmentQuery(selection, single["configs"], single["flags"])


def _renamings(pairs: Sequence[str]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for pair in pairs:
        key, equals, name = pair.partition("=")
        if not equals or not key or not name:
            raise BadRequest("map needs KEY=NAME", "write map=KEY=NAME for each key that gets another name")
        if key in renamed:
            raise BadRequest(f"map names {shown(key)} twice", "a key has one name")
        renamed[key] = name
    return renamed


def environment_entries(snapshot: Snapshot, wanted: EnvironmentQuery, files: Path) -> list[Entry]:
    """Everything that may become a variable; a file secret stands for the path of its file below `files`."""
    entries = [
        Entry("secret", key, _path_or_value(key, secret, files), secret.type.value, secret.version)
        for key, secret in snapshot.secrets.items()
    ]
    if wanted.configs:
        entries += [Entry("config", key, Sensitive(config.text())) for key, config in snapshot.configs.items()]
    if wanted.flags:
        entries += [Entry("flag", key, Sensitive(flag.text())) for key, flag in snapshot.flags.items()]
    return entries


def _path_or_value(key: str, secret: Secret, files: Path) -> Sensitive[str]:
    return Sensitive(str(files / key)) if secret.type is SecretType.FILE else secret.value


def environment(chosen: Sequence[Variable], generation: int, block: bool) -> Body:
    """The block that exec wants, `NAME=VALUE` joined by NUL, or the origin of each name without its value."""
    if block:
        return Body(b"\0".join(variable.assignment() for variable in chosen), "env0")
    listed = [
        {
            "name": variable.name,
            "kind": variable.entry.kind,
            "key": variable.entry.key,
            "type": variable.entry.type or None,
            "version": variable.entry.version,
        }
        for variable in chosen
    ]
    return Body({"generation": generation, "variables": listed})
