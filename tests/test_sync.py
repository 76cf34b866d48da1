"""The engine of one service, with a clock that stands still and a Nexus that says what the test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Self

import pytest

from nexus_agent import log
from nexus_agent.cadence import Condition, Pace
from nexus_agent.errors import BadSettings, NotFresh, NotReady, Quarantined
from nexus_agent.model import Secret, Sensitive, Snapshot
from nexus_agent.outcomes import Outcome, Verdict
from nexus_agent.store import State, Store
from nexus_agent.sync import Sync
from nexus_agent.upstream import StreamRefused
from nexus_agent.wire import Answer
from rig.clock import Clock

UNAVAILABLE = Answer(Verdict(Outcome.UNAVAILABLE), problem="Nexus answered 503")


def fresh(value: str = "v", etag: str = '"1"') -> Answer:
    """A good answer with one secret."""
    return Answer(Verdict(Outcome.FRESH), Snapshot({"k": Secret(Sensitive(value), 1)}), etag)


class Nexus:
    """Answers from a script, whose last entry stays; its stream says what is put into it."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.etags: list[str] = []
        self.streams = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.gate: asyncio.Event | None = None
        self.stream_refused: Answer | None = None
        self.stream_ends: Answer | None = None
        self.on_request: Callable[[], None] = lambda: None
        self.stream: asyncio.Queue[str | Answer] = asyncio.Queue()

    async def fetch(self, etag: str = "") -> Answer:
        """One sync."""
        self.on_request()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.etags.append(etag)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.in_flight -= 1

    async def events(self, opened: Callable[[], None]) -> AsyncIterator[list[str]]:
        """The stream."""
        self.on_request()
        self.streams += 1
        if self.stream_refused is not None:
            raise StreamRefused(self.stream_refused)
        opened()
        if self.stream_ends is not None:
            raise StreamRefused(self.stream_ends)
        while True:
            item = await self.stream.get()
            if isinstance(item, Answer):
                raise StreamRefused(item)
            yield [item]


class Running:
    """An engine that runs, and everything around it."""

    def __init__(self, clock: Clock, nexus: Nexus, allow_empty: bool = False) -> None:
        self.clock = clock
        self.nexus = nexus
        self.store = Store(State("shop", "test", "https://h"))
        self.sync = Sync(nexus, self.store, Pace(), allow_empty, clock, log.get("sync"))
        self.task = asyncio.create_task(self.sync.run())
        self.wishes: list[asyncio.Task[None]] = []

    def wish(self) -> None:
        """A local client asks for a refresh, and whatever comes of it."""
        self.wishes.append(asyncio.create_task(self.sync.refresh()))

    async def __aenter__(self) -> Self:
        await self.clock.asleep()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self.task, *self.wishes):
            task.cancel()
        await asyncio.gather(self.task, *self.wishes, return_exceptions=True)


async def test_the_first_answer_is_published_and_the_stream_opened(clock: Clock) -> None:
    """At once, without any time passing."""
    nexus = Nexus(fresh())
    async with Running(clock, nexus) as running:
        state = running.store.current()
        assert state.snapshot is not None
        assert state.generation == int(clock.wall() * 1000)
        assert (state.sync.condition, state.sync.stream_up) == (Condition.HEALTHY, True)
        assert nexus.streams == 1


async def test_only_other_content_is_a_new_generation(clock: Clock) -> None:
    """The same again only confirms; the tag is sent along."""
    nexus = Nexus(fresh(), fresh(), Answer(Verdict(Outcome.UNCHANGED)), fresh("w", '"2"'), fresh("w", '"2"'))
    async with Running(clock, nexus) as running:
        first = running.store.current()
        await nexus.stream.put("resync")
        await clock.advance(2.0)
        assert running.store.current().generation == first.generation
        assert running.store.current().validated_at == clock.wall() - 2.0
        await clock.advance(330.0)
        assert running.store.current().generation == first.generation
        await clock.advance(330.0)
        assert running.store.current().generation > first.generation
        assert nexus.etags == ["", '"1"', '"1"', '"1"']


async def test_an_event_brings_a_fetch_at_once(clock: Clock) -> None:
    """The first without a delay, those behind it together a second later."""
    nexus = Nexus(fresh())
    async with Running(clock, nexus) as running:
        await clock.advance(10.0)
        nexus.answers = [fresh("new", '"2"')]
        before = len(nexus.etags)
        await nexus.stream.put("secret.updated")
        await clock.asleep()
        assert len(nexus.etags) == before + 1
        snapshot = running.store.current().snapshot
        assert snapshot is not None
        assert snapshot.secrets["k"].value.reveal() == "new"
        for _ in range(5):
            await nexus.stream.put("something.we.do.not.know")
        await clock.asleep()
        assert len(nexus.etags) == before + 1
        await clock.advance(1.0)
        assert len(nexus.etags) == before + 2


async def test_a_failure_keeps_what_there_is_and_comes_back(clock: Clock) -> None:
    """Served on, shown in the report, tried again."""
    nexus = Nexus(fresh(), UNAVAILABLE, UNAVAILABLE, fresh("after", '"2"'))
    async with Running(clock, nexus) as running:
        await clock.advance(2.0)
        state = running.store.current()
        assert state.snapshot is not None
        assert (state.sync.condition, state.sync.last_problem) == (Condition.FAILING, "Nexus answered 503")
        assert state.sync.next_attempt is not None
        assert state.sync.next_attempt > clock.wall()
        await clock.advance(5.0)
        assert running.store.current().sync.condition is Condition.HEALTHY
        assert running.store.current().sync.last_problem == ""


async def test_a_lost_stream_comes_back_with_a_fetch(clock: Clock) -> None:
    """What happened in between is found by asking."""
    nexus = Nexus(fresh())
    async with Running(clock, nexus) as running:
        await clock.advance(10.0)
        before = len(nexus.etags)
        await nexus.stream.put(UNAVAILABLE)
        await clock.asleep()
        assert not running.store.current().sync.stream_up
        await clock.advance(1.0)
        assert nexus.streams == 2
        await nexus.stream.put("resync")
        await clock.asleep()
        assert len(nexus.etags) == before + 1


@pytest.mark.parametrize("allow_empty", [False, True])
async def test_a_service_that_is_suddenly_empty(clock: Clock, allow_empty: bool) -> None:
    """Held back and reported, unless the settings allow it."""
    nexus = Nexus(fresh(), Answer(Verdict(Outcome.FRESH), Snapshot()))
    async with Running(clock, nexus, allow_empty) as running:
        await clock.advance(2.0)
        state = running.store.current()
        assert state.snapshot is not None
        assert len(state.snapshot) == (0 if allow_empty else 1)
        assert bool(state.sync.last_problem) is not allow_empty


async def test_refresh_waits_for_an_answer_that_was_asked_for_after_it(clock: Clock) -> None:
    """Those who ask while a request is out get the next one, together."""
    nexus = Nexus(fresh())
    async with Running(clock, nexus) as running:
        await clock.advance(10.0)
        before = len(nexus.etags)
        nexus.gate = asyncio.Event()
        first = asyncio.create_task(running.sync.refresh())
        await clock.settle()
        later = [asyncio.create_task(running.sync.refresh()) for _ in range(5)]
        await clock.settle()
        assert len(nexus.etags) == before + 1
        nexus.gate.set()
        await asyncio.gather(first, *later)
        assert len(nexus.etags) == before + 2
        assert nexus.most_in_flight == 1


async def test_a_stop_ends_whoever_waits_for_a_refresh(clock: Clock) -> None:
    """Both those whose request is out and those who come after it."""
    nexus = Nexus(fresh())
    running = Running(clock, nexus)
    async with running:
        nexus.gate = asyncio.Event()
        running.wish()
        await clock.settle()
        running.wish()
        await clock.settle()
        running.task.cancel()
        ended = await asyncio.gather(*running.wishes, return_exceptions=True)
        assert [type(error) for error in ended] == [NotReady, NotReady]


async def test_refresh_says_when_it_did_not_help(clock: Clock) -> None:
    """The problem is in the error, and what is served stays."""
    nexus = Nexus(fresh(), fresh(), UNAVAILABLE)
    async with Running(clock, nexus) as running:
        await clock.advance(2.0)
        with pytest.raises(NotFresh, match="503"):
            await running.sync.refresh()
        assert running.store.current().snapshot is not None


@pytest.mark.parametrize("chance", [0.0, 0.05, 0.1, 0.3])
async def test_a_stream_that_ends_at_once_stays_within_the_budget(clock: Clock, chance: float) -> None:
    """Each connection is a request of our own, and so is the fetch after it: nobody hinted at anything."""
    clock.fixed_chance = chance
    nexus = Nexus(fresh())
    sent: list[float] = []
    nexus.on_request = lambda: sent.append(clock.now)
    nexus.stream_ends = UNAVAILABLE
    async with Running(clock, nexus):
        for _ in range(600):
            await clock.advance(0.5)
    assert len(sent) > 12  # the control: it did come back again and again
    assert max(sum(1 for other in sent if at <= other < at + 60) for at in sent) <= 12


async def test_requests_that_cross_share_one_budget(clock: Clock) -> None:
    """A fetch that goes out, and has no answer yet, while the stream waits for its turn: it moves that turn."""
    clock.fixed_chance = 0.99
    nexus = Nexus(fresh())
    sent: list[float] = []
    nexus.on_request = lambda: sent.append(clock.now)
    nexus.stream_refused = UNAVAILABLE
    start = clock.now
    async with Running(clock, nexus) as running:
        await clock.advance(16)  # a sync, and the stream at 0, 1, 3, 7 and 15 seconds; its next turn is at 31
        for number in range(5):
            nexus.answers = [fresh() if number < 4 else UNAVAILABLE]
            running.wish()
            await clock.advance(0.1)
        assert len(sent) == 11  # the control: one more is allowed in this minute, and is due in a second
        nexus.gate = asyncio.Event()
        await clock.advance(40)
        assert len(sent) == 12
        assert nexus.streams == 5
        await clock.advance(start + 62 - clock.now)
        assert nexus.streams == 6


async def test_the_kind_of_the_key_is_that_of_the_last_one_used(clock: Clock) -> None:
    """A public key that is replaced by a secret one needs no restart."""
    nexus = Nexus(replace(fresh(), public_key=True), replace(fresh(), public_key=False))
    async with Running(clock, nexus) as running:
        assert running.store.current().sync.public_key
        await clock.advance(400)
        assert not running.store.current().sync.public_key


async def test_in_a_quarantine_nothing_is_sent(clock: Clock) -> None:
    """Neither by a wish nor by time, until it is over."""
    nexus = Nexus(fresh(), fresh(), Answer(Verdict(Outcome.QUARANTINED, 100.0), problem="quarantined"), fresh())
    async with Running(clock, nexus) as running:
        await clock.advance(2.0)
        with pytest.raises(NotFresh):
            await running.sync.refresh()
        before = len(nexus.etags)
        with pytest.raises(Quarantined):
            await running.sync.refresh()
        await nexus.stream.put("secret.updated")
        await clock.advance(99.0)
        assert len(nexus.etags) == before
        await clock.advance(10.0)
        assert len(nexus.etags) > before  # the control: it goes on afterwards


async def test_a_credential_that_cannot_be_read_is_a_problem_and_not_the_end(clock: Clock) -> None:
    """The file may come back."""
    nexus = Nexus(BadSettings("credential file:/k: there is no such file"), fresh())
    async with Running(clock, nexus) as running:
        assert "no such file" in running.store.current().sync.last_problem
        await clock.advance(2.0)
        assert running.store.current().snapshot is not None


async def test_a_stream_that_is_refused_is_tried_again(clock: Clock) -> None:
    """And polling is quicker meanwhile."""
    nexus = Nexus(fresh())
    nexus.stream_refused = UNAVAILABLE
    async with Running(clock, nexus) as running:
        await clock.advance(63.0)
        assert nexus.streams > 2
        assert len(nexus.etags) >= 2
        assert running.store.current().sync.requests == nexus.streams + len(nexus.etags)
