"""The meeting point: generations that only grow, and a signal by level."""

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nexus_agent.model import Flag, Snapshot
from nexus_agent.store import Delivered, State, Store, SyncReport

ONE, TWO = Snapshot(flags={"f": Flag(True)}), Snapshot(flags={"f": Flag(False)})


def store() -> Store:
    """An empty one."""
    return Store(State("shop", "", ""))


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.floats(0, 2e9)), max_size=20))
def test_generations_only_grow(steps: list[tuple[Snapshot, float]]) -> None:
    """Whatever the clock does; and only with other content."""
    meeting = store()
    last, seen = 0, None
    for snapshot, now in steps:
        is_new = meeting.publish(snapshot, now)
        assert is_new is (snapshot != seen)
        assert (meeting.current().generation > last) is is_new
        last, seen = meeting.current().generation, snapshot
        assert meeting.current().validated_at == now


def test_generations_are_milliseconds_so_that_they_grow_across_runs() -> None:
    """Without anything kept on a disk."""
    meeting = store()
    meeting.publish(ONE, 1_780_000_000.0)
    assert meeting.current().generation == 1_780_000_000_000


async def test_changed_returns_at_once_when_there_is_something_newer() -> None:
    """By level: what was missed is not waited for."""
    meeting = store()
    old = meeting.current()
    meeting.publish(ONE, 1.0)
    meeting.publish(TWO, 2.0)
    assert (await meeting.changed(old)).snapshot is TWO


async def test_changed_wakes_everybody_who_waits() -> None:
    """For each kind of news; one who gives up harms nobody."""
    meeting = store()
    waiters = [asyncio.create_task(meeting.changed(meeting.current())) for _ in range(3)]
    await asyncio.sleep(0)
    waiters.pop().cancel()
    meeting.report(SyncReport(last_problem="p"))
    assert {state.sync.last_problem for state in await asyncio.gather(*waiters)} == {"p"}


def test_files_belong_to_a_generation() -> None:
    """They are there when they are of the present one."""
    meeting = store()
    meeting.publish(ONE, 1.0)
    assert not meeting.current().has_files
    meeting.delivered(Delivered(meeting.current().generation, Path("/d")))
    assert meeting.current().has_files
    meeting.publish(TWO, 2.0)
    assert not meeting.current().has_files
