"""The socket API as a pure function: a request, who sent it and what there is become an answer.

Three answers are wishes that only a live connection can carry out, and the face does: `Refresh`, `Follow`, `Pending`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

from nexus_agent import exactjson
from nexus_agent.cadence import is_stale
from nexus_agent.deliver import documents
from nexus_agent.deliver.documents import Body
from nexus_agent.errors import (
    BadRequest,
    Denied,
    MethodNotAllowed,
    NexusError,
    NotFound,
    NotReady,
    PublicKeyRestricted,
    ServiceKindMismatch,
)
from nexus_agent.model import SecretType, ServiceKind, Snapshot
from nexus_agent.peer import Caller
from nexus_agent.policy import Policy
from nexus_agent.store import State

PROBLEM_TYPE: Final = "application/problem+json"
T = TypeVar("T")

_READ: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `path` still percent-encoded, `query` decoded and in its order."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    accept: str = ""
    if_none_match: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What there is: each service's state by name, who may read it, and the Unix time in seconds."""

    states: Mapping[str, State]
    policy: Policy
    now: float
    version: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. The body is kept out of every repr."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refresh:
    """Ask Nexus about this service, then answer with its entry of `/v1/services`."""

    service: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Send one event for each generation of this service, from the present one on."""

    service: str


@dataclass(frozen=True, slots=True)
class Pending:
    """The files of this service's generation are about to be in place: ask again as soon as its state changes."""

    service: str


Answer = Response | Refresh | Follow | Pending


@dataclass(frozen=True, slots=True)
class _Route:
    segments: tuple[str, ...]
    methods: tuple[str, ...]
    handle: Callable[["_Call"], Answer]


@dataclass(frozen=True, slots=True)
class _Call:
    """A request on its way to its handler."""

    request: Request
    caller: Caller
    view: View
    captured: Mapping[str, str]

    def require_permission(self) -> None:
        if not self.view.policy.allows(self.caller):
            raise Denied(
                "this user may not read from the agent",
                "run as root, as the agent's user or as a member of the socket's group (settings: socket.group)",
            )

    def state(self) -> State:
        self.require_permission()
        states, name = self.view.states, self.captured["service"]
        if name == "-":
            name = next(iter(states)) if len(states) == 1 else "default"
            if name not in states:
                raise BadRequest("there are several services", f"name one of {', '.join(states)} instead of '-'")
        if name not in states:
            raise NotFound(f"no service {documents.shown(name)}", f"the agent has {', '.join(states)}")
        return states[name]

    def no_query(self) -> None:
        if self.request.query:
            raise BadRequest(f"unknown parameter {documents.shown(self.request.query[0][0])}", "leave it out")


def answer(request: Request, caller: Caller, view: View) -> Answer:
    """The answer to one request. Never raises one of our errors: those become problems (RFC 9457)."""
    try:
        route, captured = _route(request)
        return route.handle(_Call(request, caller, view, captured))
    except NexusError as error:
        return problem(error)


def problem(error: NexusError) -> Response:
    """An error as an answer."""
    document = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": error.http_status,
        "code": error.code,
        "detail": error.detail,
    }
    if error.hint:
        document["hint"] = error.hint
    headers = {"Allow": ", ".join(error.allow)} if isinstance(error, MethodNotAllowed) else {}
    return Response(error.http_status, exactjson.dump(document).encode(), PROBLEM_TYPE, headers)


def refreshed(state: State, now: float) -> Response:
    """What `Refresh` ends with when Nexus has answered."""
    return _of_state(Body(documents.service(state, now)), state, now)


def _route(request: Request) -> tuple[_Route, Mapping[str, str]]:
    try:
        parts = [unquote_to_bytes(part).decode() for part in request.path.split("/")[1:]]
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8", "percent-encode the key's UTF-8 bytes") from None
    for route in _ROUTES:
        if len(parts) != len(route.segments):
            continue
        pairs = list(zip(route.segments, parts, strict=True))
        if all(segment.startswith("{") or segment == part for segment, part in pairs):
            if request.method not in route.methods:
                raise MethodNotAllowed(f"no {documents.shown(request.method)} here", route.methods)
            return route, {segment.strip("{}"): part for segment, part in pairs if segment.startswith("{")}
    raise NotFound("no such path", "PROTOCOL.md lists them; the API begins with /v1/")


def _healthz(call: _Call) -> Answer:
    call.no_query()
    return Response(200, b'{"status":"alive"}')


def _readyz(call: _Call) -> Answer:
    call.no_query()
    waiting = {name: reason for name, state in call.view.states.items() if (reason := _unready(state, call.view.now))}
    if waiting:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
        return problem(NotReady(reasons, "'nexus-agent status' says what each service waits for"))
    return Response(200, b'{"status":"ready"}')


def _unready(state: State, now: float) -> str:
    if state.snapshot is None:
        return "no values yet"
    if is_stale(state.validated_at, now):
        return "the values are stale"
    return "" if state.has_files else state.files.problem or "file secrets are not in place yet"


def _status(call: _Call) -> Answer:
    call.no_query()
    call.require_permission()
    return _tagged(Body(documents.status(call.view.states.values(), call.view.now, call.view.version)), call)


def _services(call: _Call) -> Answer:
    call.no_query()
    states = call.view.states.values() if call.view.policy.allows(call.caller) else ()
    listed = {"services": [documents.service(state, call.view.now) for state in states]}
    return _tagged(Body(listed), call)


def _secrets(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    snapshot = _with_secrets(state)
    return _fresh(Body(documents.secrets(snapshot)), state, call)


def _secret(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    key, secret = _entry(_with_secrets(state).secrets, "secret", call)
    bare = "application/octet-stream" in call.request.accept
    if secret.type is SecretType.FILE and not bare and not state.has_files:
        return _awaiting_files(state)
    body = Body(secret.value.reveal().encode(), "raw") if bare else documents.secret(key, secret, state)
    return _fresh(body, state, call, {"Nexus-Version": str(secret.version)})


def _configs(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    return _fresh(Body(documents.configs(_values(state))), state, call)


def _config(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    key, config = _entry(_values(state).configs, "config", call)
    return _fresh(Body(documents.config(key, config)), state, call)


def _flags(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    return _fresh(Body(documents.flags(_values(state))), state, call)


def _flag(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    key, flag = _entry(_values(state).flags, "flag", call)
    return _fresh(Body(documents.flag(key, flag)), state, call)


def _env(call: _Call) -> Answer:
    state = call.state()
    wanted = documents.environment_query(call.request.query)
    snapshot = _values(state) if wanted.configs or wanted.flags else _with_secrets(state)
    entries = documents.environment_entries(snapshot, wanted, state.files.directory)
    if any(entry.type == SecretType.FILE for entry in entries) and not state.has_files:
        return _awaiting_files(state)
    block = "application/x-env0" in call.request.accept
    body = documents.environment(entries, wanted, state.generation, block)
    return _fresh(body, state, call)


def _changes(call: _Call) -> Answer:
    call.no_query()
    return Follow(call.state().name)


def _refresh(call: _Call) -> Answer:
    call.no_query()
    return Refresh(call.state().name)


def _values(state: State) -> Snapshot:
    if state.snapshot is None:
        reason = state.sync.last_problem or "Nexus has not answered yet"
        raise NotReady(f"no values of {state.name}: {reason}", "'nexus-agent status' has the next try")
    return state.snapshot


def _with_secrets(state: State) -> Snapshot:
    """Secrets are refused to a public key and on a frontend service, whatever Nexus may have answered."""
    if state.public_key or (state.snapshot is not None and state.snapshot.public):
        raise PublicKeyRestricted(
            f"service {state.name} is configured with a public key, which has no secrets",
            "give the agent the service's secret key; configs and flags can be read with this one",
        )
    snapshot = _values(state)
    if snapshot.kind is ServiceKind.FRONTEND:
        raise ServiceKindMismatch(
            f"{state.name} is a frontend service, which has no secrets", "read its configs and flags"
        )
    return snapshot


def _entry(group: Mapping[str, T], kind: str, call: _Call) -> tuple[str, T]:
    key = call.captured["key"]
    if key not in group:
        raise NotFound(f"no {kind} {documents.shown(key)}", "keys are case-sensitive; the list of them is one path up")
    return key, group[key]


def _awaiting_files(state: State) -> Answer:
    if state.files.problem:
        raise NotReady(state.files.problem, "make room or mend the runtime directory; the agent tries again by itself")
    return Pending(state.name)


def _fresh(body: Body, state: State, call: _Call, more: Mapping[str, str] | None = None) -> Response:
    response = _of_state(body, state, call.view.now)
    headers = {**response.headers, **(more or {}), "ETag": f'"{state.generation}-{body.form}"', "Vary": "Accept"}
    return _conditional(Response(200, response.body, response.content_type, headers), call)


def _of_state(body: Body, state: State, now: float) -> Response:
    headers = {
        "Nexus-Generation": str(state.generation),
        "Nexus-Source": "live",
        "Age": str(max(0, int(now - state.validated_at))),
        "Cache-Control": "no-store",
    }
    if is_stale(state.validated_at, now):
        headers["Nexus-Stale"] = "true"
    return Response(200, body.encoded(), body.content_type, headers)


def _tagged(body: Body, call: _Call) -> Response:
    headers = {"ETag": f'"{body.digest()}"', "Cache-Control": "no-store"}
    return _conditional(Response(200, body.encoded(), body.content_type, headers), call)


def _conditional(response: Response, call: _Call) -> Response:
    """RFC 9110, 13.1.2. Only safe methods come here."""
    known = [tag.strip().removeprefix("W/") for tag in call.request.if_none_match.split(",")]
    if response.headers["ETag"] in known or known == ["*"]:
        return Response(304, b"", response.content_type, response.headers)
    return response


_ROUTES: Final = (
    _Route(("healthz",), _READ, _healthz),
    _Route(("readyz",), _READ, _readyz),
    _Route(("v1", "status"), _READ, _status),
    _Route(("v1", "services"), _READ, _services),
    _Route(("v1", "{service}", "secrets"), _READ, _secrets),
    _Route(("v1", "{service}", "secrets", "{key}"), _READ, _secret),
    _Route(("v1", "{service}", "configs"), _READ, _configs),
    _Route(("v1", "{service}", "configs", "{key}"), _READ, _config),
    _Route(("v1", "{service}", "flags"), _READ, _flags),
    _Route(("v1", "{service}", "flags", "{key}"), _READ, _flag),
    _Route(("v1", "{service}", "env"), _READ, _env),
    _Route(("v1", "{service}", "changes"), ("GET",), _changes),
    _Route(("v1", "{service}", "refresh"), ("POST",), _refresh),
)
