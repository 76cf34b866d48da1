"""The client of Nexus: `fetch` asks once, `events` follows the stream. Every error of the network becomes an `Answer`.

Redirects are never followed, as the key would go along. http to another machine was refused by the settings.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import aiohttp

from nexus_agent import wire
from nexus_agent.cadence import STREAM_SILENCE
from nexus_agent.errors import BadAnswer, BadSettings
from nexus_agent.model import Sensitive
from nexus_agent.outcomes import Outcome, Verdict
from nexus_agent.wire import Answer

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 30.0
WHOLE_SECONDS = 60.0


class StreamRefused(Exception):
    """The stream could not be opened, or ended; `answer` says how."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.problem)
        self.answer = answer


class _Once:
    """Lets a request out once. aiohttp would send one again whose connection broke, past the budget's count."""

    def __init__(self) -> None:
        self._sent = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self._sent:
            raise aiohttp.ClientConnectionError
        self._sent = True
        return await handler(request)


class Upstream:
    """One service's way to Nexus. Use it as an asynchronous context manager; it owns a connection pool.

    `endpoint` is `https://HOST`, `http://` on loopback, or `unix:/PATH`; `key` gives the credential as it is now.
    Raises `BadSettings` when `ca_file` cannot be used.
    """

    def __init__(
        self,
        endpoint: str,
        key: Callable[[], Sensitive[str]],
        ca_file: Path | None = None,
        proxy: str | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = endpoint.removeprefix("unix:") if endpoint.startswith("unix:") else None
        self._base = "http://localhost" if self._path else endpoint
        self._key = key
        self._proxy = proxy
        self._wall = wall
        self._tls = _trust(ca_file) if self._base.startswith("https:") else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A connection for each request: an idle one may have been closed by the other side, which only a request finds.
        connector = (
            aiohttp.UnixConnector(self._path, force_close=True)
            if self._path
            else aiohttp.TCPConnector(ssl=self._tls or True, force_close=True)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            max_line_size=wire.HEADERS_MAX_BYTES,
            max_field_size=wire.HEADERS_MAX_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, etag: str = "") -> Answer:
        """Ask for the snapshot once. Raises `BadSettings` when there is no key to ask with."""
        key = self._key().reveal()
        return replace(await self._fetch(key, etag), public_key=wire.is_public_key(key))

    async def _fetch(self, key: str, etag: str) -> Answer:
        timeout = aiohttp.ClientTimeout(total=WHOLE_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=IDLE_SECONDS)
        try:
            async with self._get(wire.SYNC_PATH, wire.request_headers(key, etag), timeout) as response:
                limit = wire.BODY_MAX_BYTES if response.status == 200 else wire.ERROR_BODY_MAX_BYTES
                body = await _bounded(response, limit)
                return wire.read_answer(
                    response.status,
                    response.headers,
                    body,
                    public=wire.is_public_key(key),
                    etag=etag,
                    now=self._wall(),
                )
        except BadAnswer as error:
            return Answer(Verdict(Outcome.INVALID), problem=error.detail)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _failed(error)

    async def events(self, opened: Callable[[], None]) -> AsyncIterator[list[str]]:
        """The names of the stream's events, those that come together together; calls `opened` once Nexus has accepted.

        Never ends by itself: raises `StreamRefused` when the stream is refused, cut, broken, or silent for 90 s.
        """
        key = self._key().reveal()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STREAM_SILENCE)
        try:
            async with self._get(wire.STREAM_PATH, wire.stream_headers(key), timeout) as response:
                await self._check_stream(response)
                opened()
                reader = wire.EventReader()
                async for chunk in response.content.iter_any():
                    if names := list(reader.feed(chunk)):
                        yield names
        except BadAnswer as error:
            raise StreamRefused(Answer(Verdict(Outcome.UNAVAILABLE), problem=error.detail)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise StreamRefused(_failed(error)) from None
        raise StreamRefused(Answer(Verdict(Outcome.UNAVAILABLE), problem="the stream ended"))

    @asynccontextmanager
    async def _get(
        self, path: str, headers: dict[str, str], limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("used before it was entered")
        async with self._session.get(
            self._base + path,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            proxy=self._proxy,
            middlewares=(_Once(),),
        ) as response:
            yield response

    async def _check_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            body = await _bounded(response, wire.ERROR_BODY_MAX_BYTES)
            raise StreamRefused(wire.refused(response.status, response.headers, body, self._wall()))
        if response.content_type != wire.STREAM_TYPE or "Content-Encoding" in response.headers:
            raise BadAnswer("what Nexus calls its stream is no plain text/event-stream")


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """A whole body of at most `limit` bytes; an error's body is cut there instead, as nobody reads it."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            if response.status != 200:
                break
            raise BadAnswer(f"the snapshot is over {limit} bytes")
    if response.status == 200 and "Content-Encoding" in response.headers:
        raise BadAnswer("the snapshot is compressed, though that was refused")
    return bytes(body)


def _failed(error: Exception) -> Answer:
    """One of ours for what the network raised: by kind, as the text of an error may hold what was received."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        reason = "Nexus' certificate is not trusted"
        return Answer(Verdict(Outcome.TLS_FAILED), problem=f"{reason} (set ca_file for a CA of your own)")
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Answer(
            Verdict(Outcome.TLS_FAILED),
            problem="TLS could not be agreed with Nexus; check that the endpoint speaks https",
        )
    if isinstance(error, asyncio.TimeoutError):
        return Answer(Verdict(Outcome.UNAVAILABLE), problem="Nexus did not answer in time")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return Answer(Verdict(Outcome.UNAVAILABLE), problem="the proxy cannot be reached")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Answer(Verdict(Outcome.UNAVAILABLE), problem=f"the proxy refused with {error.status}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Answer(
            Verdict(Outcome.UNAVAILABLE), problem="Nexus' host name cannot be resolved; check the endpoint and DNS"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return Answer(Verdict(Outcome.UNAVAILABLE), problem=f"Nexus cannot be reached: {error.strerror}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Answer(Verdict(Outcome.INVALID), problem="Nexus' answer was cut short")
    return Answer(Verdict(Outcome.UNAVAILABLE), problem="the connection to Nexus failed")


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError):
        raise BadSettings(f"ca_file {ca_file}: no readable CA certificates in PEM", "correct the path") from None
