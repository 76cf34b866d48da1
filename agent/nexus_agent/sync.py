"""The engine of one service: asks `cadence` when, asks `upstream` what, and publishes the answer to `store`.

Holds no number and no status code: what an answer means and when the next request goes out is decided in `cadence`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from nexus_agent import cadence
from nexus_agent.cadence import Cause, Pace
from nexus_agent.errors import NexusError, NotFresh, NotReady, Quarantined
from nexus_agent.outcomes import RULES, Outcome, Serving, Verdict, settle
from nexus_agent.store import Store, SyncReport
from nexus_agent.upstream import StreamRefused
from nexus_agent.wire import Answer


class Clock(Protocol):
    """Time and chance, handed in so that tests own them. `monotonic` and `wall` are in seconds."""

    def monotonic(self) -> float:
        """A time that never goes back."""
        ...

    def wall(self) -> float:
        """Unix time."""
        ...

    def chance(self) -> float:
        """A number from 0 to 1, 1 excluded."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Come back after that long."""
        ...


class Nexus(Protocol):
    """What the engine needs of `upstream.Upstream`."""

    def fetch(self, etag: str = "") -> Awaitable[Answer]:
        """One sync."""
        ...

    def events(self, opened: Callable[[], None]) -> AsyncIterator[list[str]]:
        """The stream's event names, until it raises `StreamRefused`."""
        ...


class Sync:
    """One service's engine. `run()` lives as long as the agent does; `refresh()` asks Nexus now."""

    def __init__(
        self, nexus: Nexus, store: Store, pace: Pace, allow_empty: bool, clock: Clock, log: FilteringBoundLogger
    ) -> None:
        self._nexus = nexus
        self._store = store
        self._pace = pace
        self._allow_empty = allow_empty
        self._clock = clock
        self._log = log
        self._state = cadence.begin(clock.monotonic())
        self._etag = ""
        self._news = asyncio.Event()
        self._wishes: list[asyncio.Future[None]] = []
        self._granting: list[asyncio.Future[None]] = []
        self._requests = 0
        self._last_attempt: float | None = None
        self._problem = ""
        self._public_key = store.current().sync.public_key

    async def run(self) -> None:
        """Fetch and follow the stream, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetching())
                group.create_task(self._streaming())
        finally:
            for wish in self._wishes + self._granting:
                if not wish.done():
                    wish.set_exception(NotReady("the agent is stopping", "ask again when it runs"))

    async def refresh(self) -> None:
        """Ask Nexus now and come back with the answer published; callers share one request.

        Raises `Quarantined` when nothing may be sent, and `NotFresh` when Nexus had no answer that helps.
        """
        if self._state.closed_until > self._clock.monotonic():
            raise Quarantined(
                f"Nexus wants no request for another {self._state.closed_until - self._clock.monotonic():.0f} s",
                "what was fetched before is still served",
            )
        wish: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wishes.append(wish)
        self._move(cadence.asked(self._state, self._clock.monotonic()))
        await wish

    async def _fetching(self) -> None:
        while True:
            moment, cause = cadence.next_fetch(self._state, self._clock.monotonic())
            if moment > self._clock.monotonic():
                await self._wait(moment)
                continue  # the time is asked for again: the stream may have used up what the budget had
            self._granting, self._wishes = self._wishes, []
            self._requests += 1
            self._last_attempt = self._clock.wall()
            self._move(cadence.sent(self._state, self._clock.monotonic(), cause))
            answer = await self._ask()
            served = self._take(answer)
            for wish in self._granting:
                self._grant(wish, served)

    async def _ask(self) -> Answer:
        try:
            answer = await self._nexus.fetch(self._etag if self._store.current().snapshot else "")
        except NexusError as error:  # there is no key to ask with
            return Answer(Verdict(Outcome.UNAUTHORIZED), problem=str(error))
        if answer.snapshot is None:
            return answer
        before = self._store.current().snapshot
        outcome = settle(answer.verdict.outcome, len(before) if before else 0, len(answer.snapshot), self._allow_empty)
        problem = "Nexus suddenly has no value at all" if outcome is Outcome.EMPTIED else answer.problem
        return replace(answer, verdict=replace(answer.verdict, outcome=outcome), problem=problem)

    def _take(self, answer: Answer) -> bool:
        """Publish what may be published and move on; returns whether the values served are now the present ones."""
        if answer.public_key is not None:
            self._public_key = answer.public_key
        serving = RULES[answer.verdict.outcome].serving
        if serving is Serving.PUBLISH and answer.snapshot is not None:
            self._etag = answer.etag
            if self._store.publish(answer.snapshot, self._clock.wall()):
                self._log.info("published", generation=self._store.current().generation)
        elif serving is Serving.RENEW:
            self._store.validated(self._clock.wall())
        self._tell(answer)
        self._move(
            cadence.answered(self._state, answer.verdict, self._clock.monotonic(), self._clock.chance(), self._pace)
        )
        return serving is not Serving.KEEP

    def _tell(self, answer: Answer) -> None:
        """Log a problem once, not at each try, and its end."""
        if answer.problem and answer.problem != self._problem:
            self._log.warning("nexus_refused", outcome=answer.verdict.outcome.value, problem=answer.problem)
        elif self._problem and not answer.problem:
            self._log.info("nexus_answers_again")
        self._problem = answer.problem

    def _grant(self, wish: asyncio.Future[None], served: bool) -> None:
        if wish.done():
            return
        if served:
            wish.set_result(None)
        else:
            hint = "what was fetched before is still served; 'nexus-agent status' has the next try"
            wish.set_exception(NotFresh(self._problem or "Nexus did not answer", hint))

    async def _streaming(self) -> None:
        while True:
            moment = cadence.next_connect(self._state, self._clock.monotonic())
            if moment is None:
                await self._news.wait()
                continue
            if moment > self._clock.monotonic():
                await self._wait(moment)
                continue
            self._move(cadence.sent(self._state, self._clock.monotonic(), Cause.OWN, sync=False))
            self._requests += 1
            try:
                async for names in self._nexus.events(self._opened):
                    self._log.debug("events", count=len(names), last=names[-1][:40])
                    self._move(cadence.hinted(self._state, self._clock.monotonic()))
            except StreamRefused as error:
                self._lost(error.answer)
            except NexusError as error:
                self._lost(Answer(Verdict(Outcome.UNAUTHORIZED), problem=str(error)))

    def _opened(self) -> None:
        self._log.debug("stream_opened")
        self._move(cadence.stream_opened(self._state, self._clock.monotonic(), self._clock.chance(), self._pace))

    def _lost(self, answer: Answer) -> None:
        self._log.debug("stream_lost", problem=answer.problem)
        self._move(
            cadence.stream_lost(self._state, answer.verdict, self._clock.monotonic(), self._clock.chance(), self._pace)
        )

    def _move(self, state: cadence.State) -> None:
        """Take over a new state, report it, and wake whoever waits for a time that may have changed."""
        self._state = state
        moment, _ = cadence.next_fetch(state, self._clock.monotonic())
        self._store.report(
            SyncReport(
                condition=state.condition,
                stream_up=state.stream_up,
                last_problem=self._problem,
                last_attempt=self._last_attempt,
                next_attempt=self._clock.wall() + moment - self._clock.monotonic(),
                requests=self._requests,
                public_key=self._public_key,
            )
        )
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _wait(self, moment: float) -> None:
        """Come back at `moment`, or as soon as the state changes."""
        # This very event: a task begins later, and by then the state may have changed and brought another one.
        news, left = self._news.wait(), moment - self._clock.monotonic()
        async with asyncio.TaskGroup() as group:
            waits = group.create_task(news), group.create_task(self._clock.sleep(left))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
