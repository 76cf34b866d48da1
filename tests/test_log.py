"""The log: what it may not print, and that nobody ends because it cannot be written."""

import json
import os
import subprocess
import sys

import pytest

from rig.canary import CANARY

PROGRAM = """
from nexus_agent import errors, log, model
log.configure()
journal = log.get("t")
for _ in range(2000):
    journal.warning("x", value=model.Sensitive(CANARY), raw=CANARY.encode(), error=errors.NotFound("none", "look"))
import os
os.write(1, b"alive")
"""


def run(**more: object) -> subprocess.CompletedProcess[bytes]:
    """A program that logs."""
    program = f"CANARY = {CANARY!r}\n{PROGRAM}"
    return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=60, **more)  # type: ignore[call-overload,no-any-return]  # by name


def test_one_json_object_a_line_without_values() -> None:
    """Where nobody sits at a terminal."""
    done = run(stderr=subprocess.PIPE)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2000
    entry = json.loads(lines[0])
    assert (entry["event"], entry["level"], entry["part"]) == ("x", "warning", "t")
    assert (entry["value"], entry["raw"], entry["error"]) == ("…", "…", "not_found: none: look")
    assert CANARY.encode() not in done.stderr


@pytest.mark.parametrize("where", ["a full disk", "a pipe without a reader", "closed"])
def test_a_log_that_cannot_be_written_ends_nobody(where: str) -> None:
    """Lines are lost, the program goes on and ends well."""
    if where == "a full disk":
        with open("/dev/full", "wb") as full:
            done = run(stderr=full)
    elif where == "a pipe without a reader":
        read, write = os.pipe()
        os.close(read)
        done = run(stderr=write)
        os.close(write)
    else:
        done = subprocess.run(
            ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, f"CANARY = {CANARY!r}\n{PROGRAM}"],
            stdout=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, b"alive")
