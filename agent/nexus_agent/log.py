"""Logging to stderr: for people on a terminal, one JSON object a line otherwise. Values stay out by their type."""

import contextlib
import io
import logging
import os
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from nexus_agent.errors import NexusError
from nexus_agent.model import Sensitive


def configure(debug: bool = False, quiet: bool = False) -> None:
    """Set up the process' logging once. `debug` adds the steps of the stream, `quiet` leaves only what is wrong."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=_inert)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    # Libraries may speak when something is wrong, in the same place and never with a traceback that holds data.
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr, format="%(name)s: %(message)s")


class _Stderr(io.TextIOBase):
    """Descriptor 2, whole lines at once. Where nobody reads any more, or a disk is full, a line is lost and no more:
    whoever keeps secrets ready must not end because its log cannot be written."""

    def write(self, text: str) -> int:
        """One line."""
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "replace"))
        return len(text)


def get(name: str) -> FilteringBoundLogger:
    """A logger of one part of the program."""
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def _plain(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Errors of ours become their words; bytes and `Sensitive` values never reach a renderer."""
    for key, item in list(event.items()):
        if isinstance(item, NexusError):
            event[key] = str(item)
        elif isinstance(item, Sensitive | bytes | bytearray):
            event[key] = "…"
    return event


def _inert(item: object) -> str:
    return type(item).__name__
