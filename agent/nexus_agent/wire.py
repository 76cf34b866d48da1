"""The only place that knows how Nexus speaks: paths, headers, status codes, JSON fields, event names.

Bytes become model values and back; there is no I/O. What is documented, witnessed in the official SDK or assumed is
marked in `PROTOCOL.md`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from nexus_agent import __version__, exactjson
from nexus_agent.errors import BadAnswer, NexusError
from nexus_agent.exactjson import DecimalText, RawJson
from nexus_agent.model import (
    KEYS_MAX,
    VALUE_MAX_BYTES,
    Config,
    Flag,
    Secret,
    SecretType,
    Sensitive,
    ServiceKind,
    Snapshot,
    is_key,
)
from nexus_agent.outcomes import Outcome, Verdict

SYNC_PATH: Final = "/v1/sync"
STREAM_PATH: Final = "/v1/stream"
SECRETS_PATH: Final = "/v1/secrets"
EVALUATE_AB_PATH: Final = "/v1/flags/evaluate-ab"
KEY_HEADER: Final = "X-Nexus-API-Key"
USER_AGENT: Final = f"nexus-agent/{__version__}"
STREAM_TYPE: Final = "text/event-stream"
BODY_MAX_BYTES: Final = 8 * 1024 * 1024
ERROR_BODY_MAX_BYTES: Final = 64 * 1024
HEADERS_MAX_BYTES: Final = 64 * 1024
LINE_MAX_BYTES: Final = 64 * 1024
PING: Final = b": ping\n\n"
PING_INTERVAL: Final = 30.0
RESYNC: Final = "resync"
AB_ADDON_NOT_ACTIVE: Final = "ab_addon_not_active"

_PUBLIC_PREFIXES = ("wxp_", "pk_")
_SECRET_PREFIXES = ("wxs_", "wxm_", "sk_")

_STATUS_OUTCOMES: Final[Mapping[int, Outcome]] = {
    401: Outcome.UNAUTHORIZED,
    402: Outcome.BILLING,
    403: Outcome.FORBIDDEN,
    404: Outcome.MISSING,
    408: Outcome.UNAVAILABLE,
    410: Outcome.GONE,
}


_MEANINGS: Final[Mapping[int, str]] = {
    401: ": the key is wrong or has been revoked; put a valid one into the service's credential",
    402: ": the bill of the project is overdue",
    403: ": the key may not read this service; use the key of the service at this endpoint",
    404: ": there is no Nexus at this endpoint; correct it",
    410: ": this service is gone",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of Nexus, understood. `problem` says what is wrong with it in words that hold nothing of its body;
    `public_key` whether it was asked for with a public key, if it was asked for with any."""

    verdict: Verdict
    snapshot: Snapshot | None = None
    etag: str = ""
    problem: str = ""
    public_key: bool | None = None


def is_public_key(key: str) -> bool:
    """Whether a key's prefix says that it may be seen by anybody."""
    return key.startswith(_PUBLIC_PREFIXES)


def is_known_key(key: str) -> bool:
    """Whether a key begins like any that Nexus gives out."""
    return key.startswith(_PUBLIC_PREFIXES + _SECRET_PREFIXES)


def request_headers(key: str, etag: str = "") -> dict[str, str]:
    """The headers of a sync. Compression is refused, so that a body's limit holds before it is read."""
    headers = {KEY_HEADER: key, "User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Accept": "application/json"}
    return {**headers, "If-None-Match": etag} if etag else headers


def stream_headers(key: str) -> dict[str, str]:
    """The headers that open a stream."""
    return {**request_headers(key), "Accept": STREAM_TYPE}


def read_answer(status: int, headers: Mapping[str, str], body: bytes, *, public: bool, etag: str, now: float) -> Answer:
    """What an answer to a sync means.

    `public`: whether the key that was sent is a public one by its prefix. `etag`: the tag that was sent, or nothing.
    `now`: Unix time in seconds, which absolute times in the answer are measured against. Never raises: what cannot be
    used is an `Outcome` as well.
    """
    if status == 200:
        try:
            return Answer(Verdict(Outcome.FRESH), read_snapshot(body, public), headers.get("ETag", ""))
        except NexusError as error:
            return Answer(Verdict(Outcome.INVALID), problem=error.detail)
    if status == 304 and etag:
        return Answer(Verdict(Outcome.UNCHANGED))
    if status == 304:
        return Answer(Verdict(Outcome.INVALID), problem="Nexus answered 304, though it was not told what is known here")
    return refused(status, headers, body, now)


def refused(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
    """What any other status than 200 and 304 means."""
    document = _json_object(body)
    problem = f"Nexus answered {status}{_MEANINGS.get(status, '')}"
    if status == 429:
        if document is not None and document.get("error") == "quarantined":
            wait = _seconds_until(document.get("expires_at"), now)
            return Answer(Verdict(Outcome.QUARANTINED, wait), problem="Nexus has quarantined the key")
        return Answer(Verdict(Outcome.RATE_LIMITED, _retry_after(headers, now)), problem=problem)
    if status < 300:
        return Answer(Verdict(Outcome.INVALID), problem=f"{problem}, which is no snapshot")
    if status < 400:
        return Answer(Verdict(Outcome.REDIRECTED), problem=f"{problem}: a redirect is not followed")
    if status >= 500:
        return Answer(Verdict(Outcome.UNAVAILABLE), problem=problem)
    outcome = _STATUS_OUTCOMES.get(status, Outcome.REJECTED)
    return Answer(Verdict(outcome, final=document is not None), problem=problem)


def read_snapshot(body: bytes, public: bool) -> Snapshot:
    """A sync's body as a snapshot. Raises `BadAnswer`, which names the place and never quotes the body."""
    if len(body) > BODY_MAX_BYTES:
        raise BadAnswer(f"the snapshot is over {BODY_MAX_BYTES} bytes")
    try:
        document = exactjson.load(body)
    except NexusError as error:
        raise BadAnswer(f"the snapshot cannot be read: {error.detail}") from None
    if not isinstance(document, dict):
        raise BadAnswer("the snapshot is no JSON object")
    if not _is_text(document.get("synced_at")):
        raise BadAnswer("the snapshot has no synced_at")
    public = public or _one_of(document, "key_type", ("sk", "pk", "")) == "pk"
    kind = ServiceKind(_one_of(document, "service_kind", tuple(ServiceKind)))
    secrets = _entries(document, "secrets", _secret)
    configs = _entries(document, "configs", _config)
    flags = _entries(document, "flags", _flag)
    if len(secrets) + len(configs) + len(flags) > KEYS_MAX:
        raise BadAnswer(f"the snapshot has more than {KEYS_MAX} keys")
    if public or kind is ServiceKind.FRONTEND:
        secrets = {}  # whatever the server says: such a caller has none
    return Snapshot(secrets=secrets, configs=configs, flags=flags, public=public, kind=kind)


def write_snapshot(snapshot: Snapshot, synced_at: str) -> bytes:
    """A sync's body. A public snapshot has no `secrets` member at all."""
    document: dict[str, object] = {
        "synced_at": synced_at,
        "key_type": "pk" if snapshot.public else "sk",
        "service_kind": snapshot.kind.value,
        "configs": {
            key: {"value": RawJson(config.json.reveal()), "source": config.source}
            for key, config in snapshot.configs.items()
        },
        "flags": {key: {"is_active": f.is_active, "source": f.source} for key, f in snapshot.flags.items()},
    }
    if not snapshot.public:
        document["secrets"] = {
            key: {"value": s.value.reveal(), "version": s.version, "type": s.type.value, "source": s.source}
            for key, s in snapshot.secrets.items()
        }
    return exactjson.dump(document).encode()


def write_event(name: str, key: str = "") -> bytes:
    """One event of a stream: `event:` first and a single `data:` line, as each data line costs an SDK a sync."""
    data = exactjson.dump({"key": key} if key else {})
    return f"event: {name}\ndata: {data}\n\n".encode()


def write_error(code: str, message: str) -> bytes:
    """The body of a refusal."""
    return exactjson.dump({"error": code, "message": message}).encode()


class EventReader:
    """Bytes of a stream, cut anywhere, to the names of its events (WHATWG HTML, 9.2.6 "Interpreting an event stream").

    Lines end with CR, LF or both. An event is a hint, so its data is not kept, and one without data counts as well.
    A line over 64 KiB raises `BadAnswer`: the peer is broken, and memory is not to follow it.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._at_start = True
        self._after_cr = False
        self._name: str | None = None

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The names of the events that `chunk` completes."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > LINE_MAX_BYTES:
            raise BadAnswer(f"the stream has a line over {LINE_MAX_BYTES} bytes")
        for line in lines:
            yield from self._line(line)

    def _line(self, line: bytes) -> Iterator[str]:
        if len(line) > LINE_MAX_BYTES:
            raise BadAnswer(f"the stream has a line over {LINE_MAX_BYTES} bytes")
        if self._at_start:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        if not line:
            if self._name is not None:
                yield self._name or "message"
            self._name = None
            return
        field, _, value = line.partition(b":")
        if field == b"event":
            self._name = value.removeprefix(b" ").decode("utf-8", "replace")
        elif field == b"data" and self._name is None:
            self._name = ""


def _json_object(body: bytes) -> dict[str, Any] | None:
    if len(body) > ERROR_BODY_MAX_BYTES:
        return None
    try:
        document = exactjson.load(body)
    except NexusError:
        return None
    return document if isinstance(document, dict) else None


def _seconds_until(moment: object, now: float) -> float | None:
    if not isinstance(moment, str):
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return None if parsed.tzinfo is None else parsed.timestamp() - now


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, DecimalText)


def _one_of(document: Mapping[str, object], field: str, allowed: tuple[str, ...]) -> str:
    value = document.get(field)
    value = "" if value is None else value
    if not isinstance(value, str) or value not in allowed:
        raise BadAnswer(f"the snapshot's {field} is none that Nexus has")
    return value


def _entries(document: Mapping[str, object], field: str, read: Any) -> dict[str, Any]:
    group = document.get(field)
    if group is None:
        return {}
    if not isinstance(group, dict):
        raise BadAnswer(f"the snapshot's {field} is no object")
    entries = {}
    for number, (key, entry) in enumerate(group.items(), start=1):
        if not is_key(key):
            raise BadAnswer(f"entry {number} of the snapshot's {field} has a name that is no key")
        if not isinstance(entry, dict) or not _is_text(entry.get("source")):
            raise BadAnswer(f"{field} {key} is no object with a source")
        entries[key] = read(key, entry)
    return entries


def _secret(key: str, entry: Mapping[str, Any]) -> Secret:
    value, version = entry.get("value"), entry.get("version")
    if not isinstance(value, str) or not _is_text(value):
        raise BadAnswer(f"secret {key} has no text as its value")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadAnswer(f"secret {key} has no version from 1 on")
    kind = entry.get("type")
    kind = SecretType.TEXT if kind is None or kind == "" else kind
    if kind not in tuple(SecretType):
        raise BadAnswer(f"secret {key} has a type that is neither text nor file")
    if len(value.encode()) > VALUE_MAX_BYTES:
        raise BadAnswer(f"secret {key} is over {VALUE_MAX_BYTES} bytes")
    if kind == SecretType.TEXT and "\0" in value:
        raise BadAnswer(f"secret {key} has a NUL character in its text")
    return Secret(Sensitive(value), version, SecretType(kind), entry["source"])


def _config(key: str, entry: Mapping[str, Any]) -> Config:
    if "value" not in entry:
        raise BadAnswer(f"config {key} has no value")
    text = exactjson.dump(entry["value"])
    if len(text.encode()) > VALUE_MAX_BYTES:
        raise BadAnswer(f"config {key} is over {VALUE_MAX_BYTES} bytes")
    return Config(Sensitive(text), entry["source"])


def _flag(key: str, entry: Mapping[str, Any]) -> Flag:
    if not isinstance(entry.get("is_active"), bool):
        raise BadAnswer(f"flag {key} does not say whether it is active")
    return Flag(entry["is_active"], entry["source"])
