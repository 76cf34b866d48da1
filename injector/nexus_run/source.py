"""Where the values come from: the agent's socket, once it is certain that it is one that may be believed."""

import http.client
import json
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Mapping
from urllib.parse import quote_from_bytes

from nexus_run.failure import Failed, shown
from nexus_run.options import Options

SECONDS = 10
MOST_BYTES = 64 * 1024 * 1024
_OWN_PLACE = b"/nexus-agent/agent.sock"
_UID_DIGITS = 10


def strings(options: Options, inherited: Mapping[bytes, bytes]) -> "list[bytes]":
    """What the agent has for the child, as strings NAME=VALUE."""
    path = options.socket if options.socket is not None else _default(inherited)
    uid = None if options.agent_uid is None else _number_of_user(options.agent_uid)
    with _connected(path, uid) as connection:
        return _fetched(connection, options)


def _default(inherited: Mapping[bytes, bytes]) -> bytes:
    own = inherited.get(b"XDG_RUNTIME_DIR", b"/run") + _OWN_PLACE
    return own if os.path.exists(own) else b"/run" + _OWN_PLACE


def _number_of_user(name: bytes) -> int:
    if name.isdigit() and len(name) <= _UID_DIGITS:
        return int(name)
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid
    except (KeyError, ValueError):
        raise Failed("usage", f"--agent-uid: there is no user {shown(name)}", "give the number") from None


def _connected(path: bytes, agent_uid: "int | None") -> socket.socket:
    directory, name = os.path.split(os.path.join(os.getcwdb(), path))
    if not name:
        raise Failed("usage", f"--socket: {shown(path) or 'nothing'} is no path of a socket", "name the agent's socket")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The kernel's own limits, as only a connect that blocks waits for a place in the agent's queue.
    for limit in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", SECONDS, 0))
    try:
        # The directory is held open, so that what is checked is what is used; its path is short, however deep it lies.
        holder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection.connect(b"/proc/self/fd/%d/%s" % (holder, name))
        _check_trust(connection, agent_uid, holder, path, os.fsdecode(directory))
        os.close(holder)
    except OSError as error:
        connection.close()
        raise Failed(
            "agent_unreachable",
            f"no agent answers on {shown(path)}: {_reason(error)}",
            "start it with 'nexus-agent run', or name its socket with --socket",
        ) from None
    return connection


def _check_trust(connection: socket.socket, agent_uid: "int | None", holder: int, path: bytes, directory: str) -> None:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("iII", credentials)[1]
    if uid not in (0, os.geteuid(), agent_uid) and not _alone_may_serve(uid, holder, directory):
        raise Failed(
            "agent_not_trusted",
            f"{shown(path)} is served by uid {uid}",
            "if that is the agent's user, say so with --agent-uid",
        )


def _alone_may_serve(uid: int, holder: int, given: str) -> bool:
    """Whether the socket's directory is this user's, and none but root could have put it where it is, or a link to it
    where it was looked for."""
    status = os.fstat(holder)
    if uid != status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return all(map(_is_roots_alone, {*_above(given), *_above(os.readlink(f"/proc/self/fd/{holder}"))}))


def _above(path: str) -> "set[str]":
    found = set()
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        found.add(path)
    return found


def _is_roots_alone(directory: str) -> bool:
    status = os.stat(directory)
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _fetched(connection: socket.socket, options: Options) -> "list[bytes]":
    asked = http.client.HTTPConnection("nexus-agent")
    asked.sock = connection
    target = f"/v1/{quote_from_bytes(options.service, safe='')}/env"
    if options.wanted:
        target += "?" + "&".join(f"{name.decode()}=1" for name in options.wanted)
    try:
        asked.request("GET", target, headers={"Accept": "application/x-env0", "Connection": "close"})
        response = asked.getresponse()
        body = _body(response)
    except http.client.HTTPException:
        raise _no_agent() from None
    except OSError as error:
        raise Failed(
            "agent_unreachable",
            f"the agent did not answer: {_reason(error)}",
            "'nexus-agent status' says what it waits for",
        ) from None
    if response.status != 200:
        raise _problem(body)
    if response.getheader("Content-Type") != "application/x-env0":
        raise _no_agent()
    if response.getheader("Content-Length") != str(len(body)):
        raise Failed("bad_answer", "the agent's answer was cut short", "try again")
    found = body.split(b"\0") if body else []
    if not all(string.find(b"=") > 0 for string in found):
        raise _no_agent()
    return found


def _body(response: http.client.HTTPResponse) -> bytes:
    body = b""
    until = time.monotonic() + SECONDS
    while piece := response.read1(1 << 20):
        body += piece
        if time.monotonic() > until:
            raise TimeoutError
        if len(body) > MOST_BYTES:
            raise _no_agent()
    return body


def _problem(body: bytes) -> Failed:
    """The agent's problem (RFC 9457), in its own words."""
    try:
        problem = json.loads(body)
        return Failed(str(problem["code"]), str(problem["detail"]), str(problem.get("hint", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _no_agent()


def _no_agent() -> Failed:
    return Failed("bad_answer", "what answers is no nexus-agent", "name the agent's socket with --socket")


def _reason(error: OSError) -> str:
    """The kernel says EAGAIN when one of the limits above has passed."""
    if isinstance(error, (BlockingIOError, TimeoutError)):
        return f"nothing for {SECONDS} s"
    return error.strerror or str(error)
