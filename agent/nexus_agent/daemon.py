"""The composition root: builds the parts of a run from its settings, starts them together and stops them together."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from nexus_agent import __version__, log
from nexus_agent.deliver.face import Face
from nexus_agent.deliver.outputs import FileSecrets
from nexus_agent.generation import Access, Files, require_tmpfs
from nexus_agent.identity import Credential
from nexus_agent.listener import Lock, listen
from nexus_agent.policy import Policy
from nexus_agent.settings import Service, Settings
from nexus_agent.store import State, Store, SyncReport
from nexus_agent.sync import Sync
from nexus_agent.upstream import Upstream


class SystemClock:
    """The machine's own time, and chance from the kernel."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC, in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Unix time, in seconds."""
        return time.time()

    def chance(self) -> float:
        """A number from 0 to 1, 1 excluded."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Come back after that long."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The parts that keep one service."""

    store: Store
    sync: Sync
    files: FileSecrets


async def run(settings: Settings, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Keep every service of `settings` until `stop` is set; `ready` is called once the socket accepts.

    Raises `BadSettings` and `AlreadyRunning` before anything is started.
    """
    async with AsyncExitStack() as stack:
        credentials = {service.name: Credential(service.credential, service.name) for service in settings.services}
        public = {name: credential.public for name, credential in credentials.items()}
        require_tmpfs(settings.runtime_directory, settings.allow_disk)
        lock = Lock(settings.runtime_directory / "runtime.lock", f"the directory {settings.runtime_directory}")
        stack.callback(lock.release)
        listener = stack.enter_context(listen(settings.socket.path, settings.socket.mode, settings.socket.group))
        clock = SystemClock()
        kept = {}
        for service in settings.services:
            upstream = Upstream(
                service.endpoint, credentials[service.name].read, service.ca_file, service.proxy, clock.wall
            )
            await stack.enter_async_context(upstream)
            kept[service.name] = _keep(service, public[service.name], upstream, settings, clock)
        face = Face(
            stores={name: parts.store for name, parts in kept.items()},
            policy=Policy(os.geteuid(), settings.socket.group),
            refresh={name: parts.sync.refresh for name, parts in kept.items()},
            wall=clock.wall,
            log=log.get("api"),
            version=__version__,
        )
        journal = log.get("agent")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(face.run(listener.socket))]
            for parts in kept.values():
                tasks += [group.create_task(parts.sync.run()), group.create_task(parts.files.run())]
            journal.info("listening", socket=str(listener.path), services=list(kept), version=__version__)
            ready()
            await stop.wait()
            journal.info("stopping")
            for task in tasks:
                task.cancel()
    journal.info("stopped")


def _keep(service: Service, public: bool, upstream: Upstream, settings: Settings, clock: SystemClock) -> _Kept:
    store = Store(State(service.name, service.environment, service.endpoint, sync=SyncReport(public_key=public)))
    group = settings.socket.group
    access = Access() if group is None else Access(0o440, group)
    files = Files(settings.runtime_directory / service.name / "files", access)
    service_log = log.get("sync").bind(service=service.name)
    return _Kept(
        store,
        Sync(upstream, store, service.pace, service.allow_empty, clock, service_log),
        FileSecrets(store, files, log.get("outputs").bind(service=service.name)),
    )
