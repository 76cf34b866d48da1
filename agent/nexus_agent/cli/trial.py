"""`nexus-agent dev`: a Nexus, an agent and a program with its secrets, in one private directory that goes away again.

Everything on the way is real: the wire, the socket, the settings file, `nexus-run`. Only here does the agent import the
embedded Nexus.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

import nexus_local.server
from nexus_agent import daemon, log, settings, signals
from nexus_agent.cli import seed
from nexus_agent.errors import BadSettings, NexusError
from nexus_agent.generation import is_tmpfs
from nexus_local.store import Store

_SERVICE = "demo"
_READY_SECONDS = 20.0


def run(source: Path | None, command: tuple[str, ...]) -> int:
    """Start all parts, run `command` or wait for Ctrl-C; the exit status is the command's."""
    log.configure(quiet=True)
    signals.exit_on((signal.SIGTERM, *signals.OF_A_TERMINAL))
    values = seed.from_file(source) if source else seed.invented()
    umask = os.umask(0o077)
    with _private_directory() as directory:
        key = _prepare(directory, values)
        config = _write_settings(directory, key)
        return asyncio.run(_together(directory, config, command, umask))


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """A directory of ours alone, in memory where the machine has such a place."""
    candidates = [Path(path) for path in (settings.user_runtime_directory(), "/dev/shm") if path]  # noqa: S108  # looked at, made private
    base = next((path for path in candidates if os.access(path, os.W_OK | os.X_OK) and is_tmpfs(path)), None)
    directory = Path(tempfile.mkdtemp(prefix="nexus-dev-", dir=base))
    if base is None:
        click.echo(f"nexus-agent: no tmpfs to write to, so the values made up here go to {directory} on disk", err=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _prepare(directory: Path, values: seed.Seed) -> str:
    store = Store(directory / "nexus")
    try:
        service, keys = store.services.create(_SERVICE, "backend", "develop", "dev")
        values.write(store, service)
        return keys.primary.reveal()
    finally:
        store.close()


def _write_settings(directory: Path, key: str) -> Path:
    secret = directory / "key"
    secret.write_text(key)
    config = directory / "agent.toml"
    config.write_text(
        f"""[[service]]
name = "{_SERVICE}"
environment = "develop"
endpoint = "unix:{directory}/nexus.sock"
credential = "file:{secret}"

[runtime]
directory = "{directory}/run"
allow_disk = true
"""
    )
    for path in (secret, config):
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return config


async def _together(directory: Path, config: Path, command: tuple[str, ...], umask: int) -> int:
    with signals.stop_event((*signals.TO_STOP, *signals.OF_A_TERMINAL)) as asked_to_stop:
        stop, serving, agent_ready = asyncio.Event(), asyncio.Event(), asyncio.Event()
        where = nexus_local.server.Address(path=directory / "nexus.sock")
        nexus = asyncio.create_task(nexus_local.server.serve(directory / "nexus", where, stop, lambda _: serving.set()))
        await _first(serving, nexus)
        loaded = settings.load(config)
        agent = asyncio.create_task(daemon.run(loaded, stop, agent_ready.set))
        await _first(agent_ready, agent)
        try:
            if command:
                return await _child(loaded.socket.path, command, umask)
            _explain(directory, config, loaded.socket.path)
            await asked_to_stop.wait()
            return 0
        finally:
            stop.set()
            await asyncio.gather(nexus, agent)


async def _first(ready: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait until a part says that it is ready; raises what it ended with if it ends instead."""
    waiting = asyncio.create_task(ready.wait())
    done, _ = await asyncio.wait((waiting, task), timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task in done:
        await task
    if not done:
        raise NexusError(f"not ready after {_READY_SECONDS:.0f} s", "please report this")


async def _child(socket: Path, command: tuple[str, ...], umask: int) -> int:
    words = [*_nexus_run(), "--socket", str(socket), "--configs", "--flags", "--", *command]
    child = await asyncio.create_subprocess_exec(*words, umask=umask, env=settings.environment_of_a_child())

    def pass_on(number: int) -> None:
        # Not by the child's own methods: those may learn of its end before asyncio does, which then knows no status.
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, pass_on, number)
    for number in (signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, lambda: None)  # the terminal has sent it to the child as well
    status = await child.wait()
    return status if status >= 0 else 128 - status


def _nexus_run() -> list[str]:
    """The words that start `nexus-run` with this very Python: the one on PATH may be of another installation."""
    installed = Path(sysconfig.get_path("scripts"), "nexus-run")
    checkout = Path(__file__).parents[3] / "injector" / "nexus-run"
    script = next((path for path in (installed, checkout) if path.is_file()), None)
    if script is None:
        raise BadSettings("nexus-run is not installed beside nexus-agent", "install nexus-agent again")
    return [sys.executable, "-I", "-S", str(script)]


def _explain(directory: Path, config: Path, socket: Path) -> None:
    quoted = {name: shlex.quote(str(path)) for name, path in (("d", directory), ("c", config), ("s", socket))}
    click.echo(
        f"""A Nexus and an agent run here until Ctrl-C. In another terminal:

  nexus-run --socket {quoted["s"]} --configs -- env
  nexus-agent get db:password --config {quoted["c"]}
  nexus-agent status --config {quoted["c"]}
  curl --unix-socket {quoted["s"]} http://agent/v1/-/configs
  printf %s new | nexus-local secret set {_SERVICE} db:password --data {quoted["d"]}/nexus
"""
    )
