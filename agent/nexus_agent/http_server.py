"""What every HTTP face here has in common: a server that neither logs nor repeats what it was sent.

aiohttp's own answers and log records quote the bytes that it could not read, and a key or a value may be among them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from nexus_agent.errors import BadRequest, NexusError, TooLarge, place_of

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Refusal = Callable[[NexusError], web.Response]


def server(answer: Answer, refused: Refusal, log: FilteringBoundLogger, **options: Any) -> web.Server:
    """A server whose every error is a refusal in the form of its face. `options` are aiohttp's."""

    async def answered(raw: web.BaseRequest) -> web.StreamResponse:
        try:
            return await answer(raw)
        except NexusError as error:
            return refused(error)
        except (web.RequestPayloadError, UnicodeDecodeError):
            return refused(BadRequest("the request cannot be read", "check its length and its encoding"))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # the last line: a fault of ours must neither end the program nor print a value
            log.error("internal", kind=type(error).__name__, place=place_of(error))
            return refused(NexusError("this request found a fault", "the log of the program has its kind and place"))

    return _Server(answered, refused, access_log=None, **options)


async def body_of(raw: web.BaseRequest, most_bytes: int) -> bytes:
    """The whole body. Raises `TooLarge`. Whoever waits for permission to send it (RFC 9110, 10.1.1) gets that first."""
    if raw.headers.get("Expect", "").lower() == "100-continue":
        await raw.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw.writer.output_size = 0  # nothing of the answer is out yet
    body = bytearray()
    async for chunk in raw.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise TooLarge(f"the request is over {most_bytes} bytes")
    return bytes(body)


def has_tag(if_none_match: str, etag: str) -> bool:
    """Whether a caller has this version already (RFC 9110, 13.1.2: the comparison is weak)."""
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or known == ["*"]


class _Server(web.Server):
    def __init__(self, answer: Answer, refused: Refusal, **options: Any) -> None:
        super().__init__(answer, **options)
        self._options = options
        self.refused = refused

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)


class _Connection(web.RequestHandler):
    __slots__ = ("_refused",)

    def __init__(self, manager: _Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._refused = manager.refused

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What cannot even be handed to a handler: bytes that are no request, or an answer that broke off."""
        if request.writer.output_size > 0:
            raise ConnectionError
        response = self._refused(BadRequest("what was sent is no HTTP/1.1 request"))
        response.force_close()
        return response
