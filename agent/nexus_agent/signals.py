"""The signals that end a program: as an event that a server waits for, or as an exit that cleans up on its way."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

TO_STOP = (signal.SIGTERM, signal.SIGINT)
# A closed terminal and Ctrl-\\, which a server leaves alone.
OF_A_TERMINAL = (signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def stop_event(numbers: tuple[signal.Signals, ...] = TO_STOP) -> Iterator[asyncio.Event]:
    """An event of the running loop that is set by any of these signals; afterwards they are as they were."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def exit_on(numbers: tuple[signal.Signals, ...]) -> None:
    """End by `SystemExit`, with 128 and the signal's number, wherever the program is: what it opened is cleaned up."""

    def end(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, end)
