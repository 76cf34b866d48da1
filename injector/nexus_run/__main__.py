"""`nexus-run` in full: whatever the start script does not do itself, done from the beginning, and explained.

The script hands over, as words: where it lies, a line for the case that this package is missing, the number of a
descriptor that holds the strings of its environment exactly as it inherited them, and its own words.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from nexus_run import VERSION, launch, options, source
from nexus_run.failure import Failed

_HANDED_OVER = 4  # "-c", and what stands above


def main() -> None:
    """Start the command, or say in one line why not and end with the status for it."""
    try:
        _start(_words(), _inherited(int(sys.argv[3])))
    except Failed as failed:
        _end(failed)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception as error:  # the last line: its text may hold data
        _end(Failed("internal", f"{type(error).__name__}", "please report this"))


def _end(failed: Failed) -> None:
    with contextlib.suppress(OSError):  # whoever closed stderr wants to hear nothing
        os.write(2, f"{failed}\n".encode())
    os._exit(failed.status)


def _words() -> "list[bytes]":
    """The script's words in bytes: what Python decoded by some locale does not always go back."""
    try:
        everything = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        raise Failed("no_proc", "/proc/self cannot be read", "mount /proc") from None
    return everything[len(everything) - len(sys.argv) + _HANDED_OVER :]


def _inherited(descriptor: int) -> "list[bytes]":
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read().split(b"\0")[:-1]


def _start(words: "list[bytes]", inherited: "list[bytes]") -> None:
    first: dict[bytes, bytes] = {}
    for string in inherited:
        name, _, value = string.partition(b"=")
        first.setdefault(name, value)
    asked = options.parse(words, first)
    if asked.asks:
        print(options.HELP if asked.asks == "help" else f"nexus-run {VERSION}")
        return
    launch.become(asked.command, launch.environment(inherited, source.strings(asked, first)))
