"""The wire: vectors through every route that can read them, every status, and what is sent."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent import wire
from nexus_agent.errors import BadAnswer
from nexus_agent.model import Config, Flag, Secret, SecretType, Sensitive, ServiceKind, Snapshot
from nexus_agent.outcomes import Outcome
from nexus_agent.upstream import StreamRefused, Upstream
from rig import recorded as rec
from rig.canary import CANARY
from rig.recorded import Recorded
from rig.vectors import Vector, load

WIRE = load("wire")
SSE = load("sse")
NOW = 1_780_000_000.0


def gives(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    """A snapshot as the vectors write it: texts by key."""
    return {
        "secrets": {key: secret.value.reveal() for key, secret in snapshot.secrets.items()},
        "configs": {key: config.text() for key, config in snapshot.configs.items()},
        "flags": {key: flag.text() for key, flag in snapshot.flags.items()},
    }


@pytest.mark.parametrize("vector", WIRE, ids=lambda vector: vector.name)
def test_snapshot_vectors_by_the_reader(vector: Vector) -> None:
    """The first route: bytes to a snapshot."""
    if vector.expect == "valid":
        assert gives(wire.read_snapshot(vector.body, public=False)) == vector.data("gives")
    else:
        with pytest.raises(BadAnswer) as caught:
            wire.read_snapshot(vector.body, public=False)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("vector", WIRE, ids=lambda vector: vector.name)
async def test_snapshot_vectors_by_the_client(vector: Vector, recorded: Recorded) -> None:
    """The second route: over HTTP."""
    recorded.script["/v1/sync"] = [rec.response(200, vector.body)]
    async with Upstream(f"http://127.0.0.1:{recorded.port}", lambda: Sensitive("wxs_k")) as upstream:
        answer = await upstream.fetch()
    assert answer.verdict.outcome is (Outcome.FRESH if vector.expect == "valid" else Outcome.INVALID)
    if answer.snapshot is not None:
        assert gives(answer.snapshot) == vector.data("gives")


def read_events(chunks: list[bytes]) -> list[str]:
    """All names that a reader gives for these chunks."""
    reader = wire.EventReader()
    return [name for chunk in chunks for name in reader.feed(chunk)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("vector", SSE, ids=lambda vector: vector.name)
def test_stream_vectors_in_pieces(vector: Vector, size: int) -> None:
    """However the network cuts it, the events are the same."""
    chunks = [vector.body[start : start + size] for start in range(0, len(vector.body), size)]
    if vector.expect == "valid":
        assert read_events(chunks) == vector.data("events")
    else:
        with pytest.raises(BadAnswer, match="a line over"):
            read_events(chunks)


@given(st.data())
def test_stream_vectors_cut_anywhere(data: st.DataObject) -> None:
    """Any cut, also in the middle of CR LF and of a character, also empty pieces."""
    vector = data.draw(st.sampled_from([v for v in SSE if v.expect == "valid" and len(v.body) < 1000]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(vector.body)), max_size=10)))
    edges = [0, *cuts, len(vector.body)]
    chunks = [vector.body[a:b] for a, b in pairwise(edges)]
    assert read_events(chunks) == vector.data("events")


async def collect(upstream: Upstream, names: list[str]) -> None:
    """Follow the stream to its end."""
    async with asyncio.timeout(20):
        async for together in upstream.events(lambda: None):
            names.extend(together)


@pytest.mark.parametrize("vector", SSE, ids=lambda vector: vector.name)
async def test_stream_vectors_by_the_client(vector: Vector, recorded: Recorded) -> None:
    """Over HTTP, until the server ends the stream."""
    recorded.script["/v1/stream"] = [rec.stream(vector.body, stay=False)]
    names: list[str] = []
    async with Upstream(f"http://127.0.0.1:{recorded.port}", lambda: Sensitive("wxs_k")) as upstream:
        with pytest.raises(StreamRefused) as caught:
            await collect(upstream, names)
    if vector.expect == "valid":
        assert names == vector.data("events")
    assert ("a line over" in caught.value.answer.problem) == (vector.expect == "broken")


EXPECTED = {
    304: Outcome.UNCHANGED,
    401: Outcome.UNAUTHORIZED,
    402: Outcome.BILLING,
    403: Outcome.FORBIDDEN,
    404: Outcome.MISSING,
    408: Outcome.UNAVAILABLE,
    410: Outcome.GONE,
    429: Outcome.RATE_LIMITED,
}
BODIES = [b"", b'{"error":"x","message":"m"}', b"<html></html>", b'{"error":"x","mess']


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_with_every_body_has_its_outcome(status: int) -> None:
    """None, a JSON error, a page of something between, half an answer: one decision each."""
    for body in BODIES:
        answer = wire.read_answer(status, {}, body, public=False, etag='"1"', now=NOW)
        if status in EXPECTED:
            expected = EXPECTED[status]
        elif status < 300:
            expected = Outcome.INVALID
        elif status < 400:
            expected = Outcome.REDIRECTED
        else:
            expected = Outcome.REJECTED if status < 500 else Outcome.UNAVAILABLE
        assert answer.verdict.outcome is expected
        assert answer.snapshot is None
        is_json_error = body == BODIES[1] and 400 <= status < 500 and status != 429
        assert answer.verdict.final is is_json_error
        assert bool(answer.problem) is (status != 304)


def moment(seconds: float) -> str:
    """An HTTP date that far from now."""
    return format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("30", 30.0),
        (" 5 ", 5.0),
        (moment(90), 90.0),
        (moment(-90), -90.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("9" * 40, 999_999_999.0),
        ("1e3", None),
    ],
)
def test_retry_after(header: str, wait: float | None) -> None:
    """Seconds or a date; what is neither is nothing."""
    assert wire.read_answer(429, {"Retry-After": header}, b"", public=False, etag='"1"', now=NOW).verdict.wait == wait


def test_unchanged_is_no_answer_to_a_question_without_a_tag() -> None:
    """It would count as health while there is nothing."""
    assert wire.read_answer(304, {}, b"", public=False, etag="", now=NOW).verdict.outcome is Outcome.INVALID
    assert wire.read_answer(304, {}, b"", public=False, etag='"1"', now=NOW).verdict.outcome is Outcome.UNCHANGED


@pytest.mark.parametrize(
    ("expires_at", "wait"),
    [
        ('"2026-05-28T20:27:40Z"', 60.0),
        ('"2026-05-28T22:27:40+02:00"', 60.0),
        ('"2026-05-28T20:27:40"', None),
        ('"tomorrow"', None),
        ("5", None),
        ("null", None),
    ],
)
def test_a_quarantine_says_until_when(expires_at: str, wait: float | None) -> None:
    """RFC 3339 with any offset; what cannot be read is nothing."""
    body = f'{{"error":"quarantined","reason":"r","expires_at":{expires_at}}}'.encode()
    verdict = wire.read_answer(429, {}, body, public=False, etag='"1"', now=NOW).verdict
    assert (verdict.outcome, verdict.wait) == (Outcome.QUARANTINED, wait)


def test_a_body_is_never_quoted() -> None:
    """Not even when it is what was wrong."""
    for status in (200, 401, 500):
        assert CANARY not in wire.read_answer(status, {}, CANARY.encode(), public=False, etag='"1"', now=NOW).problem


def test_limits() -> None:
    """8 MiB, 10 000 keys, 1 MiB a value."""
    with pytest.raises(BadAnswer, match="over 8388608 bytes"):
        wire.read_snapshot(b" " * (wire.BODY_MAX_BYTES + 1), False)
    many = rec.snapshot(flags={f"k{number}": True for number in range(10_001)})
    with pytest.raises(BadAnswer, match="more than 10000 keys"):
        wire.read_snapshot(many, False)
    assert (
        len(wire.read_snapshot(rec.snapshot(flags={f"k{number}": True for number in range(10_000)}), False)) == 10_000
    )
    with pytest.raises(BadAnswer, match="secret k is over"):
        wire.read_snapshot(rec.snapshot(secrets={"k": "x" * 1_048_577}), False)
    assert wire.read_snapshot(rec.snapshot(secrets={"k": "x" * 1_048_576}), False).secrets


@pytest.mark.parametrize("how", ["prefix", "server", "frontend"])
def test_secrets_are_left_out_where_there_can_be_none(how: str) -> None:
    """A public key by prefix or by the server's word, and a frontend service: whatever was sent along."""
    key_type, kind = "pk" if how == "server" else "sk", "frontend" if how == "frontend" else "backend"
    body = rec.snapshot(secrets={"k": CANARY}, flags={"f": True}, key_type=key_type, service_kind=kind)
    snapshot = wire.read_snapshot(body, public=how == "prefix")
    assert (dict(snapshot.secrets), list(snapshot.flags)) == ({}, ["f"])


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True),
        st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    ),
    st.booleans(),
)
def test_what_is_written_reads_back(values: dict[str, str], public: bool) -> None:
    """The embedded Nexus writes what the agent reads."""
    snapshot = Snapshot(
        secrets={} if public else {k: Secret(Sensitive(v), 7, SecretType.FILE) for k, v in values.items()},
        configs={k: Config(Sensitive("[1.50]")) for k in values},
        flags={k: Flag(True) for k in values},
        public=public,
        kind=ServiceKind.BACKEND,
    )
    body = wire.write_snapshot(snapshot, "2026-01-01T00:00:00Z")
    assert wire.read_snapshot(body, public=False) == snapshot
    assert (b'"secrets"' in body) is not public


def test_synced_at_is_no_content() -> None:
    """It differs with every answer, and a new generation is decided without it."""
    one, two = (wire.read_snapshot(rec.snapshot({"k": "v"}, synced_at=at), False) for at in ("a", "b"))
    assert one == two


@pytest.mark.parametrize(
    ("key", "public", "known"),
    [
        ("wxs_a", False, True),
        ("wxm_a", False, True),
        ("sk_live_a", False, True),
        ("wxp_a", True, True),
        ("pk_live_a", True, True),
        ("pk_a", True, True),
        ("other", False, False),
    ],
)
def test_key_prefixes(key: str, public: bool, known: bool) -> None:
    """Both families that are documented."""
    assert (wire.is_public_key(key), wire.is_known_key(key)) == (public, known)


def test_events_are_written_as_an_sdk_wants_them() -> None:
    """The name first, one data line."""
    assert (
        wire.write_event("secret.updated", "db:password") == b'event: secret.updated\ndata: {"key":"db:password"}\n\n'
    )
    assert read_events([wire.write_event("resync"), wire.PING, wire.write_event("a", "b")]) == ["resync", "a"]
