"""The one meeting point of a service: who fetches publishes here, who delivers reads here.

What lies here is one immutable `State`, swapped whole. Waiting is by level ("something newer than what I have exists,
read it"), so a reader that is slow misses nothing but what is outdated anyway.
"""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from nexus_agent.cadence import Condition
from nexus_agent.model import Snapshot


@dataclass(frozen=True, slots=True)
class Delivered:
    """File secrets on tmpfs: of which generation they are, where, and what went wrong last."""

    generation: int = 0
    directory: Path = Path()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What an operator wants to know about how a service and Nexus get on. Times are Unix seconds; `public_key` is
    about the key that was used last."""

    condition: Condition = Condition.STARTING
    stream_up: bool = False
    last_problem: str = ""
    last_attempt: float | None = None
    next_attempt: float | None = None
    requests: int = 0
    public_key: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """All that is known of one service at one moment. `snapshot` is `None` until there are values."""

    name: str
    environment: str
    endpoint: str
    snapshot: Snapshot | None = None
    generation: int = 0
    fetched_at: float = 0.0
    validated_at: float = 0.0
    files: Delivered = field(default_factory=Delivered)
    sync: SyncReport = field(default_factory=SyncReport)

    @property
    def has_files(self) -> bool:
        """Whether the files that belong to this generation are in place."""
        return self.files.generation == self.generation


class Store:
    """One service's state, and the signal that it is newer than before."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._news: asyncio.Future[None] | None = None

    def current(self) -> State:
        """The newest state."""
        return self._state

    def publish(self, snapshot: Snapshot, now: float) -> bool:
        """Serve `snapshot` from now on. Only other content makes a new generation; returns whether it did.

        Generations are Unix milliseconds, so that they also grow from one run of the agent to the next.
        """
        state = self._state
        if snapshot == state.snapshot:
            self.validated(now)
            return False
        generation = max(state.generation + 1, int(now * 1000))
        self._swap(replace(state, snapshot=snapshot, generation=generation, fetched_at=now, validated_at=now))
        return True

    def validated(self, now: float) -> None:
        """Nexus confirmed at `now` (Unix seconds) that the values are the present ones."""
        self._swap(replace(self._state, validated_at=now))

    def delivered(self, files: Delivered) -> None:
        """The file secrets of a generation are in place, or could not be."""
        self._swap(replace(self._state, files=files))

    def report(self, report: SyncReport) -> None:
        """How the last exchange with Nexus went."""
        self._swap(replace(self._state, sync=report))

    async def changed(self, seen: State) -> State:
        """The newest state, as soon as it is another one than `seen`."""
        while self._state is seen:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._news)
        return self._state

    def _swap(self, state: State) -> None:
        self._state = state
        if self._news is not None:
            self._news.set_result(None)
            self._news = None
