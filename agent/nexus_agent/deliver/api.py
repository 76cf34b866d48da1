"""The socket API as a pure function: a request, who sent it and what there is become an answer.

Three answers are wishes that only a live connection can carry out, and the face does: `Refresh`, `Follow`, `Pending`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

from nexus_agent.cadence import Condition, is_stale
from nexus_agent.deliver import documents
from nexus_agent.deliver.documents import Body
from nexus_agent.deliver.responses import Response, fresh, of_state, problem, tagged
from nexus_agent.envnames import variables
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
class Refresh:
    """Ask Nexus about this service, then answer with its entry of `/v1/services`."""

    service: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Send one event for each generation of this service, from the present one on."""

    service: str


@dataclass(frozen=True, slots=True)
class Pending:
    """What is missing is about to be there: ask again as soon as the state of this service changes, and when that takes
    too long, `reason` is the answer."""

    service: str
    reason: NexusError


Answer = Response | Refresh | Follow | Pending


class _NotYet(Exception):
    """On the way to a `Pending`."""

    def __init__(self, pending: Pending) -> None:
        super().__init__(pending.service)
        self.pending = pending


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

    def fresh(self, body: Body, state: State, more: Mapping[str, str] | None = None) -> Response:
        return fresh(body, state, self.view.now, self.request.if_none_match, more)

    def no_query(self) -> None:
        if self.request.query:
            raise BadRequest(f"unknown parameter {documents.shown(self.request.query[0][0])}", "leave it out")


def answer(request: Request, caller: Caller, view: View) -> Answer:
    """The answer to one request. Never raises one of our errors: those become problems (RFC 9457)."""
    try:
        route, captured = _route(request)
        return route.handle(_Call(request, caller, view, captured))
    except _NotYet as not_yet:
        return not_yet.pending
    except NexusError as error:
        return problem(error)


def refreshed(state: State, now: float) -> Response:
    """What `Refresh` ends with when Nexus has answered."""
    return of_state(Body(documents.service(state, now)), state, now)


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
    if not waiting:
        return Response(200, b'{"status":"ready"}')
    reasons = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
    allowed = call.view.policy.allows(call.caller)  # whoever may not read learns no more than that it is not ready
    return problem(NotReady(reasons if allowed else "not every service is ready", "'nexus-agent status' says more"))


def _unready(state: State, now: float) -> str:
    if state.snapshot is None:
        return "no values yet"
    if is_stale(state.validated_at, now):
        return "the values are stale"
    return "" if state.has_files else state.files.problem or "file secrets are not in place yet"


def _status(call: _Call) -> Answer:
    call.no_query()
    call.require_permission()
    return tagged(
        Body(documents.status(call.view.states.values(), call.view.now, call.view.version)), call.request.if_none_match
    )


def _services(call: _Call) -> Answer:
    call.no_query()
    states = call.view.states.values() if call.view.policy.allows(call.caller) else ()
    listed = {"services": [documents.service(state, call.view.now) for state in states]}
    return tagged(Body(listed), call.request.if_none_match)


def _secrets(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    snapshot = _with_secrets(state)
    return call.fresh(Body(documents.secrets(snapshot)), state)


def _secret(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    key, secret = _entry(_with_secrets(state).secrets, "secret", call)
    bare = documents.wants(call.request.accept, "application/octet-stream")
    if secret.type is SecretType.FILE and not bare:
        _require_files(state)
    body = Body(secret.value.reveal().encode(), "raw") if bare else documents.secret(key, secret, state)
    return call.fresh(body, state, {"Nexus-Version": str(secret.version)})


def _configs(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    return call.fresh(Body(documents.configs(_values(state))), state)


def _config(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    key, config = _entry(_values(state).configs, "config", call)
    return call.fresh(Body(documents.config(key, config)), state)


def _flags(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    return call.fresh(Body(documents.flags(_values(state))), state)


def _flag(call: _Call) -> Answer:
    call.no_query()
    state = call.state()
    key, flag = _entry(_values(state).flags, "flag", call)
    return call.fresh(Body(documents.flag(key, flag)), state)


def _env(call: _Call) -> Answer:
    state = call.state()
    wanted = documents.environment_query(call.request.query)
    snapshot = _values(state) if wanted.configs or wanted.flags else _with_secrets(state)
    entries = documents.environment_entries(snapshot, wanted, state.files.directory)
    chosen = variables(entries, wanted.selection)
    if any(variable.entry.type == SecretType.FILE for variable in chosen):
        _require_files(state)
    block = documents.wants(call.request.accept, "application/x-env0")
    return call.fresh(documents.environment(chosen, state.generation, block), state)


def _changes(call: _Call) -> Answer:
    call.no_query()
    return Follow(call.state().name)


def _refresh(call: _Call) -> Answer:
    call.no_query()
    return Refresh(call.state().name)


def _values(state: State) -> Snapshot:
    if state.snapshot is not None:
        return state.snapshot
    reason = state.sync.last_problem or "Nexus has not answered yet"
    error = NotReady(f"no values of {state.name}: {reason}", "'nexus-agent status' has the next try")
    if state.sync.condition is Condition.STARTING:
        raise _NotYet(Pending(state.name, error))  # an agent that has just been started has its first answer soon
    raise error


def _with_secrets(state: State) -> Snapshot:
    """Secrets are refused to a public key and on a frontend service, whatever Nexus may have answered."""
    if state.sync.public_key or (state.snapshot is not None and state.snapshot.public):
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


def _require_files(state: State) -> None:
    if state.files.problem:
        raise NotReady(state.files.problem, "make room or mend the runtime directory; the agent tries again by itself")
    if not state.has_files:
        raise _NotYet(Pending(state.name, NotReady("the file secrets are not in place yet", "ask again in a moment")))


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
