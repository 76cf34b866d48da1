"""Whole answers of the socket API: status, headers and body, with freshness, tags and problems."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nexus_agent import exactjson
from nexus_agent.cadence import is_stale
from nexus_agent.deliver.documents import Body
from nexus_agent.errors import MethodNotAllowed, NexusError
from nexus_agent.http_server import has_tag
from nexus_agent.store import State

PROBLEM_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. The body is kept out of every repr."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


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


def fresh(body: Body, state: State, now: float, if_none_match: str, more: Mapping[str, str] | None = None) -> Response:
    """An answer out of one generation, with its freshness and its tag; 304 when the caller has that one already."""
    response = of_state(body, state, now)
    headers = {**response.headers, **(more or {}), "ETag": f'"{state.generation}-{body.form}"', "Vary": "Accept"}
    return _conditional(Response(200, response.body, response.content_type, headers), if_none_match)


def of_state(body: Body, state: State, now: float) -> Response:
    """An answer with the freshness of a service's values (RFC 9111 for `Age`)."""
    headers = {
        "Nexus-Generation": str(state.generation),
        "Nexus-Source": "live",
        "Age": str(max(0, int(now - state.validated_at))),
        "Cache-Control": "no-store",
    }
    if is_stale(state.validated_at, now):
        headers["Nexus-Stale"] = "true"
    return Response(200, body.encoded(), body.content_type, headers)


def tagged(body: Body, if_none_match: str) -> Response:
    """An answer without values, tagged by its content."""
    headers = {"ETag": f'"{body.digest()}"', "Cache-Control": "no-store"}
    return _conditional(Response(200, body.encoded(), body.content_type, headers), if_none_match)


def _conditional(response: Response, if_none_match: str) -> Response:
    """Only safe methods come here."""
    if has_tag(if_none_match, response.headers["ETag"]):
        return Response(304, b"", response.content_type, response.headers)
    return response
