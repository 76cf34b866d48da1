"""The socket API as a pure function: every path, every refusal, every header."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent.cadence import Condition
from nexus_agent.deliver.api import Answer, Follow, Pending, Refresh, Request, View, answer
from nexus_agent.deliver.responses import Response
from nexus_agent.model import Config, Flag, Secret, SecretType, Sensitive, ServiceKind, Snapshot
from nexus_agent.peer import Caller
from nexus_agent.policy import Policy
from nexus_agent.store import Delivered, State, SyncReport
from rig.canary import CANARY

ROOT = Caller(1, 0, frozenset({0}))
STRANGER = Caller(1, 1234, frozenset({1234}))
NOW = 1_780_000_100.0
SNAPSHOT = Snapshot(
    {
        "db:password": Secret(Sensitive(CANARY), 3),
        "TLS_CERT": Secret(Sensitive("pem\n"), 1, SecretType.FILE),
    },
    {
        "big": Config(Sensitive("18446744073709551615")),
        "price": Config(Sensitive("1.10")),
        "s": Config(Sensitive('"x"')),
    },
    {"new.checkout": Flag(True)},
    kind=ServiceKind.BACKEND,
)
STATE = State(
    "shop",
    "test",
    "https://h",
    snapshot=SNAPSHOT,
    generation=42,
    fetched_at=NOW - 50,
    validated_at=NOW - 10,
    files=Delivered(42, Path("/run/x/shop/files")),
)


def view(*states: State) -> View:
    """What there is."""
    return View({state.name: state for state in states or (STATE,)}, Policy(500, 600), NOW, "0.0.0")


def get(path: str, *, of: View | None = None, caller: Caller = ROOT, method: str = "GET", **more: Any) -> Answer:
    """The answer to a request."""
    path, _, query = path.partition("?")
    pairs = tuple(tuple(pair.split("=", 1)) for pair in query.split("&")) if query else ()
    return answer(Request(method, path, pairs, **more), caller, of or view())  # type: ignore[arg-type]  # pairs of two


def response(given: Answer) -> Response:
    """An answer that must be a whole one."""
    assert isinstance(given, Response)
    return given


def document(given: Answer, status: int = 200) -> Any:
    """The JSON of an answer with this status."""
    whole = response(given)
    assert whole.status == status, whole.body
    return json.loads(whole.body)


def code(given: Answer) -> str:
    """The stable code of a problem."""
    whole = response(given)
    assert whole.content_type == "application/problem+json"
    problem = json.loads(whole.body)
    assert problem["status"] == whole.status
    assert problem["detail"]
    return str(problem["code"])


def test_a_secret() -> None:
    """As JSON, and as its bare bytes."""
    assert document(get("/v1/-/secrets/db:password")) == {
        "key": "db:password",
        "type": "text",
        "version": 3,
        "source": "service",
        "value": CANARY,
    }
    bare = response(get("/v1/shop/secrets/db%3Apassword", accept="application/octet-stream"))
    assert (bare.body, bare.content_type) == (CANARY.encode(), "application/octet-stream")
    assert bare.headers["Nexus-Version"] == "3"


@pytest.mark.parametrize(
    ("accept", "bare"),
    [
        ("application/octet-stream", True),
        ("Application/Octet-Stream; q=0.5, text/html", True),
        ("application/octet-stream;q=0", False),
        ("application/octet-stream;q=0.000", False),
        ("application/octet-streams", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_the_bare_bytes_are_for_who_names_them(accept: str, bare: bool) -> None:
    """Everybody else gets JSON."""
    given = response(get("/v1/-/secrets/db:password", accept=accept))
    assert (given.content_type == "application/octet-stream") is bare


def test_a_file_secret() -> None:
    """Its path, and its content in base64."""
    given = document(get("/v1/-/secrets/TLS_CERT"))
    assert given["path"] == "/run/x/shop/files/TLS_CERT"
    assert base64.b64decode(given["value_base64"]) == b"pem\n"
    assert "value" not in given


def test_lists_have_no_values_of_secrets() -> None:
    """Keys, types and versions."""
    whole = response(get("/v1/-/secrets"))
    assert CANARY.encode() not in whole.body
    assert {entry["key"]: entry["version"] for entry in json.loads(whole.body)["secrets"]} == {
        "db:password": 3,
        "TLS_CERT": 1,
    }


def test_configs_keep_every_digit() -> None:
    """As JSON text, which no float has rounded."""
    assert response(get("/v1/-/configs")).body == b'{"configs":{"big":18446744073709551615,"price":1.10,"s":"x"}}'
    assert response(get("/v1/-/configs/price")).body == b'{"key":"price","value":1.10,"source":"service"}'


def test_flags() -> None:
    """Booleans."""
    assert document(get("/v1/-/flags")) == {"flags": {"new.checkout": True}}
    assert document(get("/v1/-/flags/new.checkout"))["is_active"] is True


def test_the_environment_block_and_its_origin() -> None:
    """NUL between the strings and none at the end; the other form has names and no values."""
    block = response(get("/v1/-/env", accept="application/x-env0"))
    assert block.body == b"DB_PASSWORD=" + CANARY.encode() + b"\0TLS_CERT=/run/x/shop/files/TLS_CERT"
    assert block.content_type == "application/x-env0"
    origin = response(get("/v1/-/env?configs=1&flags=1"))
    assert CANARY.encode() not in origin.body
    assert [(v["name"], v["kind"], v["version"]) for v in json.loads(origin.body)["variables"]] == [
        ("DB_PASSWORD", "secret", 3),
        ("TLS_CERT", "secret", 1),
        ("BIG", "config", None),
        ("PRICE", "config", None),
        ("S", "config", None),
        ("NEW_CHECKOUT", "flag", None),
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("only=db:*", ["DB_PASSWORD"]),
        ("exclude=db:*", ["TLS_CERT"]),
        ("exclude=db:*,TLS*", []),
        ("only=db:*&only=TLS_CERT", ["DB_PASSWORD", "TLS_CERT"]),
        ("prefix=X_&only=db:*", ["X_DB_PASSWORD"]),
        ("map=db:password=PGPASSWORD", ["PGPASSWORD", "TLS_CERT"]),
        ("map=db:password=PATH&allow=PATH", ["PATH", "TLS_CERT"]),
        ("upcase=0", ["db_password", "TLS_CERT"]),
        ("require=TLS_CERT", ["DB_PASSWORD", "TLS_CERT"]),
        ("flags=1", ["DB_PASSWORD", "TLS_CERT", "NEW_CHECKOUT"]),
        ("configs=1&only=s", ["S"]),
    ],
)
def test_parameters_of_the_environment(query: str, names: list[str]) -> None:
    """Each one changes the result."""
    assert [v["name"] for v in document(get(f"/v1/-/env?{query}"))["variables"]] == names


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("x=1", "bad_request"),
        ("configs=yes", "bad_request"),
        ("map=a", "bad_request"),
        ("map==x", "bad_request"),
        ("map=s=A,s=B&configs=1", "bad_request"),
        ("map=db:password=A\nB", "bad_request"),
        ("only=", "bad_request"),
        ("only=,", "bad_request"),
        ("require=", "bad_request"),
        ("require=nope", "not_found"),
        ("map=db:password=PATH", "forbidden_name"),
        ("map=db:password=TLS_CERT", "name_collision"),
    ],
)
def test_wrong_parameters_of_the_environment(query: str, wanted: str) -> None:
    """Refused, never passed over."""
    assert code(get(f"/v1/-/env?{query}")) == wanted


def test_services_status_health() -> None:
    """What an operator and a probe ask."""
    (entry,) = document(get("/v1/services"))["services"]
    assert entry == {
        "name": "shop",
        "environment": "test",
        "kind": "backend",
        "generation": 42,
        "state": "starting",
        "fetched_at": NOW - 50,
        "validated_at": NOW - 10,
        "stale": False,
        "source": "live",
    }
    whole = response(get("/v1/status"))
    assert CANARY.encode() not in whole.body
    assert json.loads(whole.body)["services"][0]["secrets"] == 2
    assert document(get("/healthz", caller=STRANGER)) == {"status": "alive"}
    assert document(get("/readyz", caller=STRANGER)) == {"status": "ready"}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State("shop", "", ""), "no values yet"),
        (replace(STATE, validated_at=NOW - 3601), "stale"),
        (replace(STATE, files=Delivered(41)), "not in place yet"),
        (replace(STATE, files=Delivered(41, problem="file secrets cannot be written: x")), "cannot be written"),
    ],
)
def test_not_ready(state: State, reason: str) -> None:
    """503, which service, and what it waits for."""
    assert reason in document(get("/readyz", of=view(state)), 503)["detail"]
    assert "shop: " in document(get("/readyz", of=view(state)), 503)["detail"]
    told = document(get("/readyz", of=view(state), caller=STRANGER), 503)["detail"]
    assert told == "not every service is ready"  # whoever may not read learns no name


def test_freshness() -> None:
    """On every answer out of a generation."""
    for path in ("secrets", "secrets/db:password", "configs", "configs/s", "flags", "flags/new.checkout", "env"):
        headers = response(get(f"/v1/-/{path}")).headers
        assert (headers["Nexus-Generation"], headers["Nexus-Source"], headers["Age"]) == ("42", "live", "10")
        assert "Nexus-Stale" not in headers
        assert headers["Cache-Control"] == "no-store"
        old = response(get(f"/v1/-/{path}", of=view(replace(STATE, validated_at=NOW - 3601)))).headers
        assert (old["Nexus-Stale"], old["Age"]) == ("true", "3601")
    ahead = response(get("/v1/-/flags", of=view(replace(STATE, validated_at=NOW + 5)))).headers
    assert ahead["Age"] == "0"


@pytest.mark.parametrize(
    "path", ["/v1/services", "/v1/status", "/v1/-/secrets", "/v1/-/secrets/db:password", "/v1/-/configs/s", "/v1/-/env"]
)
def test_tags(path: str) -> None:
    """304 for whoever has it, 200 after a change; each form of an answer has its own."""
    first = response(get(path))
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = response(get(path, if_none_match=known))
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == tag
    assert response(get(path, if_none_match='"other"')).status == 200
    changed = view(replace(STATE, generation=43, files=Delivered(43, Path("/x"))))
    assert response(get(path, of=changed, if_none_match=tag)).status == 200
    if path.endswith("password"):
        bare = response(get(path, accept="application/octet-stream", if_none_match=tag))
        assert bare.status == 200


def test_wishes() -> None:
    """What only a live connection can do."""
    assert get("/v1/-/refresh", method="POST") == Refresh("shop")
    assert get("/v1/shop/changes") == Follow("shop")
    late = view(replace(STATE, files=Delivered(41)))
    for path in ("secrets/TLS_CERT", "env"):
        pending = get(f"/v1/-/{path}", of=late)
        assert isinstance(pending, Pending)
        assert (pending.service, pending.reason.code) == ("shop", "not_ready")
    assert response(get("/v1/-/env?exclude=TLS_CERT", of=late)).status == 200
    assert isinstance(get("/v1/-/flags", of=view(State("shop", "", ""))), Pending)
    broken = view(replace(STATE, files=Delivered(41, problem="disk full")))
    assert code(get("/v1/-/env", of=broken)) == "not_ready"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/-/secrets", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("GET", "/v1/-/refresh", "POST"),
        ("HEAD", "/v1/-/changes", "GET"),
        ("BREW", "/v1/status", "GET, HEAD"),
    ],
)
def test_wrong_methods(method: str, path: str, allow: str) -> None:
    """405, and what is allowed."""
    refused = response(get(path, method=method))
    assert (refused.status, refused.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/-", "/v1/-/nothing", "/v2/-/env", "/v1/-/secrets/a/b", "//v1/status", "/healthz/"]
)
def test_unknown_paths(path: str) -> None:
    """404."""
    assert code(get(path)) == "not_found"


@pytest.mark.parametrize("path", ["/healthz", "/v1/services", "/v1/-/secrets", "/v1/-/configs/s", "/v1/-/changes"])
def test_unknown_parameters(path: str) -> None:
    """Refused everywhere: a caller who wrote max_age relies on it."""
    assert code(get(f"{path}?max_age=5")) == "bad_request"


PATHS = ["secrets", "secrets/db:password", "secrets/nope", "configs", "configs/nope", "flags/x", "env", "changes"]


@pytest.mark.parametrize("path", PATHS)
def test_a_stranger_learns_nothing(path: str) -> None:
    """The same refusal for what exists and what does not, for any service."""
    for service in ("-", "shop", "nope"):
        refused = response(get(f"/v1/{service}/{path}", caller=STRANGER))
        assert (refused.status, refused.body) == (403, response(get("/v1/-/flags", caller=STRANGER)).body)
        assert not refused.headers
    assert document(get("/v1/services", caller=STRANGER)) == {"services": []}
    assert code(get("/v1/status", caller=STRANGER)) == "denied"


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (ROOT, True),
        (Caller(1, 500, frozenset()), True),
        (Caller(1, 7, frozenset({600})), True),
        (STRANGER, False),
        (Caller(1, 65534, frozenset({600})), False),
    ],
)
def test_who_may_read(caller: Caller, allowed: bool) -> None:
    """Root, the agent's own uid, members of the group; never the uid that stands for nobody."""
    assert (response(get("/v1/-/flags", caller=caller)).status == 200) is allowed


def test_which_service() -> None:
    """`-` is the only one or the one called default."""
    two = view(STATE, replace(STATE, name="other"))
    assert code(get("/v1/-/flags", of=two)) == "bad_request"
    assert response(get("/v1/other/flags", of=two)).status == 200
    named = view(STATE, replace(STATE, name="default", generation=7))
    assert response(get("/v1/-/flags", of=named)).headers["Nexus-Generation"] == "7"
    assert code(get("/v1/nope/flags")) == "not_found"


def test_before_there_are_values() -> None:
    """Not ready, with the reason that is known."""
    waiting = State("shop", "", "", sync=SyncReport(Condition.FAILING, last_problem="Nexus answered 401"))
    for path in PATHS[:-1]:
        whole = response(get(f"/v1/-/{path}", of=view(waiting)))
        assert whole.status == 503
        assert b"Nexus answered 401" in whole.body
    assert get("/v1/-/changes", of=view(waiting)) == Follow("shop")


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (replace(STATE, sync=SyncReport(public_key=True)), "public_key_restricted"),
        (State("shop", "", "", sync=SyncReport(public_key=True)), "public_key_restricted"),
        (replace(STATE, snapshot=replace(SNAPSHOT, public=True)), "public_key_restricted"),
        (replace(STATE, snapshot=replace(SNAPSHOT, kind=ServiceKind.FRONTEND)), "service_kind_mismatch"),
    ],
)
def test_secrets_where_there_are_none(state: State, wanted: str) -> None:
    """Refused by us, before and whatever Nexus answers; configs go on."""
    for path in ("secrets", "secrets/db:password", "env"):
        assert code(get(f"/v1/-/{path}", of=view(state))) == wanted
    if state.snapshot is not None:
        assert response(get("/v1/-/configs", of=view(state))).status == 200


@given(
    st.text(max_size=6), st.text(max_size=12), st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=3)
)
def test_any_request_has_an_answer(method: str, path: str, query: list[tuple[str, str]]) -> None:
    """No text makes it raise, and an answer is never 500."""
    for target in (f"/{quote(path)}", f"/v1/-/secrets/{quote(path)}", f"/v1/{quote(path)}/env", "/v1/-/secrets/%ff"):
        given_answer = answer(Request(method, target, tuple(query)), ROOT, view())
        assert not isinstance(given_answer, Response) or given_answer.status != 500


def test_no_answer_prints_its_body() -> None:
    """A log line or a traceback may hold a response."""
    assert CANARY not in repr(get("/v1/-/secrets/db:password"))
