"""Measures and prints: `tests/run --benchmarks`. Nothing here passes or fails; bounds are what we hold ourselves to.

The two sides of a ratio take turns, so that a machine whose speed drifts changes both; what is told is the median of
the ratios of neighbours.
"""

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nexus_agent.cadence import EVENT_SPACING
from rig.processes import (
    Installation,
    Local,
    environment,
    install,
    private_file,
    settings_file,
    start_agent,
    start_local,
)

ROOT = Path(__file__).parents[2]
STARTS = 100
REQUESTS = 300
ROUNDS = 20
CHANGES = 20

BARE = """
import asyncio, sys
from aiohttp import web
async def answer(raw):
    return web.Response(body=b'{"key":"db:password","type":"text","version":1,"source":"service","value":"x"}')
async def main():
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.UnixSite(runner, sys.argv[1]).start()
    print("listening", flush=True)
    await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


def compare(label: str, ours: Callable[[], float], reference: Callable[[], float], rounds: int, bound: str) -> None:
    """Both in turn, in seconds, and one line about them."""
    ours(), reference()
    pairs = [(ours(), reference()) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    print(f"{label:<62} {ratio:6.2f} x   {a:9.3f} ms against {b:9.3f} ms   {bound}", flush=True)


def process(*words: str) -> Callable[[], float]:
    """Starts a program and waits for its end."""

    def once() -> float:
        begin = time.perf_counter()
        pid = os.posix_spawn(words[0], words, environment(PATH=os.path.dirname(words[0]) + ":/usr/bin:/bin"))
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - begin
        if status:
            raise SystemExit(f"{' '.join(words)} ended with {status}")
        return took

    return once


def requests(path: Path, target: str) -> Callable[[], float]:
    """Many requests on one connection; the time of one."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    question = f"GET {target} HTTP/1.1\r\nHost: agent\r\n\r\n".encode()

    def many() -> float:
        begin = time.perf_counter()
        for _ in range(REQUESTS):
            connection.sendall(question)
            answer = connection.recv(65536)
            if not answer.endswith(b"}"):
                raise SystemExit("half an answer")
        return (time.perf_counter() - begin) / REQUESTS

    return many


def starts(commands: Installation, run: Path) -> None:
    """What is paid before a program begins."""
    python = str(commands.bin / "python3")
    wrapped = process(str(commands.bin / "nexus-run"), "--socket", str(run / "agent.sock"), "--", "true")
    compare(
        "nexus-run -- true  /  python3 -I -S -c pass",
        wrapped,
        process(python, "-I", "-S", "-c", "pass"),
        STARTS,
        "(at most 1.25)",
    )
    helped = process("/bin/sh", "-c", f"exec {commands.bin}/nexus-agent --help >/dev/null")
    compare("nexus-agent --help  /  python3 -c pass", helped, process(python, "-c", "pass"), STARTS, "(at most 6)")


def reading(commands: Installation, run: Path) -> None:
    """What the agent adds to its HTTP library."""
    bare = run.parent / "bare.sock"
    running = commands.start("python3", "-c", BARE, str(bare))
    running.await_line(lambda line: line == "listening", "out")
    ours = requests(run / "agent.sock", "/v1/-/secrets/db:password")
    compare("GET of one secret  /  a bare aiohttp handler", ours, requests(bare, "/"), ROUNDS, "")
    running.stop()


def following(local: Local, run: Path) -> None:
    """From a change in Nexus to the agent's own word of it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(run / "agent.sock"))
    connection.sendall(b"GET /v1/-/changes HTTP/1.1\r\nHost: agent\r\n\r\n")
    file = connection.makefile("rb")
    events = (line for line in file if line.startswith(b"data: "))
    next(events)
    whole, after = [], []
    for number in range(CHANGES):
        time.sleep(EVENT_SPACING + 0.1)  # one change by itself; those of a storm are told once a second
        begin = time.perf_counter()
        local.admin("secret", "set", "shop", "rotating", stdin=str(number).encode())
        written = time.perf_counter()
        next(events)
        end = time.perf_counter()
        whole.append((end - begin) * 1000)
        after.append((end - written) * 1000)
    told = f"{statistics.median(after):.1f} ms after the command has ended, {max(after):.1f} ms at most"
    label = f"nexus-local secret set -> GET /changes, median of {CHANGES}"
    print(f"{label:<62} {statistics.median(whole):6.1f} ms of which {told}   (at most 200 ms)", flush=True)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory in memory that goes away again."""
    directory = Path(tempfile.mkdtemp(prefix="nexus-bench-", dir="/dev/shm"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def main() -> None:
    """Everything, one line each."""
    with place() as directory:
        commands = install(directory / "installed", ROOT)
        try:
            local = start_local(commands, directory / "nexus")
            local.admin("secret", "set", "shop", "db:password", stdin=b"x")
            key = private_file(directory / "key", local.keys["primary"])
            run = directory / "run"
            text = f'[[service]]\nname = "shop"\nendpoint = "{local.endpoint}"\ncredential = "file:{key}"\n'
            config = settings_file(directory, f'{text}[runtime]\ndirectory = "{run}"\n')
            start_agent(commands, config).await_line(lambda line: '"published"' in line)
            version = subprocess.run([commands.bin / "python3", "-VV"], capture_output=True, check=True).stdout.decode()
            print(f"{version.strip()}, {os.cpu_count()} processors; medians, both sides in turn", flush=True)
            starts(commands, run)
            reading(commands, run)
            following(local, run)
        finally:
            commands.stop_all()


if __name__ == "__main__":
    main()
