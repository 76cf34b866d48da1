"""When Nexus is asked: the pure table, driven by hand and by arbitrary sequences."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_agent import cadence
from nexus_agent.cadence import Cause, Condition, Pace, State
from nexus_agent.outcomes import RULES, Delay, Outcome, Serving, Verdict, settle

PACE = Pace()
FAILURES = [outcome for outcome in Outcome if RULES[outcome].serving is Serving.KEEP]


def after(state: State, outcome: Outcome, now: float, chance: float = 0.0, **more: object) -> State:
    """A sync sent and answered at once."""
    verdict = Verdict(outcome, **more)  # type: ignore[arg-type]  # wait and final, by name
    return cadence.answered(cadence.sent(state, now, Cause.OWN), verdict, now, chance, PACE)


def healthy(now: float = 0.0) -> State:
    """A service after its first good answer."""
    return after(cadence.begin(now), Outcome.FRESH, now)


def test_every_outcome_has_a_row() -> None:
    """Nothing is decided elsewhere."""
    assert set(RULES) == set(Outcome)
    assert {o for o in Outcome if RULES[o].serving is Serving.PUBLISH} == {Outcome.FRESH}
    assert {o for o in Outcome if RULES[o].serving is Serving.RENEW} == {Outcome.UNCHANGED}


def test_the_first_request_is_due_at_once_and_no_stream_before_it() -> None:
    """Whoever has no key that works is not to knock at two doors."""
    state = cadence.begin(7.0)
    assert cadence.next_fetch(state, 7.0) == (7.0, Cause.OWN)
    assert cadence.next_connect(state, 7.0) is None
    assert cadence.next_connect(healthy(7.0), 7.0) == 7.0


@pytest.mark.parametrize("outcome", [Outcome.FRESH, Outcome.UNCHANGED])
def test_the_poll_is_slow_with_a_stream_and_quicker_without(outcome: Outcome) -> None:
    """60 s alone, 5 min beside a stream, up to a tenth longer by chance."""
    alone = after(cadence.begin(0.0), outcome, 0.0)
    assert cadence.next_fetch(alone, 0.0) == (60.0, Cause.OWN)
    assert cadence.next_fetch(after(cadence.begin(0.0), outcome, 0.0, 0.5), 0.0)[0] == pytest.approx(63.0)
    up = after(cadence.stream_opened(alone, 1.0, 0.0, PACE), outcome, 2.0)
    assert cadence.next_fetch(up, 2.0) == (302.0, Cause.OWN)
    lost = cadence.stream_lost(up, Verdict(Outcome.UNAVAILABLE), 10.0, 0.0, PACE)
    assert cadence.next_fetch(lost, 10.0) == (70.0, Cause.OWN)


def test_the_settings_change_the_poll() -> None:
    """Both intervals are read."""
    pace = Pace(poll=10.0, poll_without_stream=5.0)
    state = cadence.answered(cadence.begin(0.0), Verdict(Outcome.FRESH), 0.0, 0.0, pace)
    assert state.due == 5.0
    assert cadence.stream_opened(state, 0.0, 0.0, pace).due == 10.0


def test_backoff_doubles_to_a_minute_with_full_jitter_and_forgets_after_a_minute_of_health() -> None:
    """From nothing to a bound of 1, 2, 4 ... 60 s."""
    bounds = []
    state, now = cadence.begin(0.0), 0.0
    for _ in range(8):
        state = after(state, Outcome.UNAVAILABLE, now, 0.999999)
        bounds.append(round(state.due - now))
        assert after(state, Outcome.UNAVAILABLE, now, 0.0).due == now
        now += 100.0
    assert bounds == [1, 2, 4, 8, 16, 32, 60, 60]
    flapping = after(after(state, Outcome.FRESH, now), Outcome.UNAVAILABLE, now + 59.0, 0.999999)
    assert flapping.due - now == pytest.approx(59.0 + 60.0, abs=0.1)
    recovered = after(after(state, Outcome.FRESH, now), Outcome.UNAVAILABLE, now + 60.0, 0.999999)
    assert recovered.due - now == pytest.approx(60.0 + 1.0, abs=0.1)


@pytest.mark.parametrize("outcome", [o for o in Outcome if RULES[o].delay is Delay.LONG_BACKOFF])
def test_a_refusal_backs_off_to_five_minutes_and_closes_the_stream(outcome: Outcome) -> None:
    """The stream comes back with the next good sync."""
    state, now = healthy(), 0.0
    for _ in range(12):
        now += 400.0
        state = after(state, outcome, now, 0.999999)
    assert state.due - now == pytest.approx(300.0, abs=0.1)
    assert cadence.next_connect(state, now) is None
    assert cadence.next_connect(after(state, Outcome.UNCHANGED, now), now) == now


def test_billing_waits_five_minutes_and_any_success_ends_it() -> None:
    """402: frozen."""
    frozen = after(healthy(), Outcome.BILLING, 10.0)
    assert (frozen.condition, frozen.due) == (Condition.FROZEN, 310.0)
    assert after(frozen, Outcome.UNCHANGED, 310.0).condition is Condition.HEALTHY


@pytest.mark.parametrize(("wait", "seconds"), [(None, 600.0), (100.0, 100.0), (1e9, 86_400.0)], ids=str)
def test_a_quarantine_closes_everything_until_it_is_over(wait: float | None, seconds: float) -> None:
    """No sync, no stream, no wish and no event gets through."""
    state = after(healthy(), Outcome.QUARANTINED, 10.0, wait=wait)
    state = cadence.hinted(cadence.asked(state, 11.0), 11.0)
    assert state.condition is Condition.QUARANTINED
    assert cadence.next_fetch(state, 11.0)[0] == max(11.0, 10.0 + seconds)
    lost = cadence.stream_lost(state, Verdict(Outcome.UNAVAILABLE), 11.0, 0.0, PACE)
    connect = cadence.next_connect(lost, 11.0)
    assert connect is not None
    assert connect >= 10.0 + seconds
    told_by_stream = cadence.stream_lost(healthy(), Verdict(Outcome.QUARANTINED, wait), 10.0, 0.0, PACE)
    assert cadence.next_fetch(told_by_stream, 10.0)[0] == 10.0 + seconds


@pytest.mark.parametrize("wait", [None, 0.0, -5.0, -1e9])
def test_a_quarantine_that_says_nothing_usable_is_ten_minutes(wait: float | None) -> None:
    """Missing, or over already by a clock that must be wrong."""
    state = cadence.answered(cadence.begin(0.0), Verdict(Outcome.QUARANTINED, wait), 0.0, 0.0, PACE)
    assert cadence.next_fetch(state, 0.0)[0] == 600.0


def test_a_quarantine_told_to_the_stream_outlives_a_sync_that_was_sent_before_it() -> None:
    """The answer that comes later was asked for earlier."""
    state = cadence.sent(cadence.begin(0.0), 0.0, Cause.OWN)
    state = cadence.stream_lost(state, Verdict(Outcome.QUARANTINED, 3600.0), 1.0, 0.0, PACE)
    state = cadence.answered(state, Verdict(Outcome.FRESH), 2.0, 0.0, PACE)
    assert cadence.next_fetch(state, 2.0)[0] == 3601.0
    assert cadence.next_connect(state, 2.0) == 3601.0
    assert state.condition is Condition.QUARANTINED


def test_patience_is_not_shortened_by_a_stream_that_is_cut() -> None:
    """After 402 Nexus is left alone for five minutes, stream or not."""
    state = cadence.answered(cadence.begin(0.0), Verdict(Outcome.BILLING), 0.0, 0.0, PACE)
    state = cadence.stream_lost(state, Verdict(Outcome.UNAVAILABLE), 1.0, 0.0, PACE)
    assert cadence.next_fetch(state, 1.0)[0] == 300.0


@pytest.mark.parametrize(("wait", "seconds"), [(None, 60.0), (0.0, 1.0), (30.0, 30.0), (1e6, 900.0)], ids=str)
def test_a_rate_limit_is_obeyed_within_reason(wait: float | None, seconds: float) -> None:
    """`Retry-After` between a second and a quarter of an hour; local wishes wait as well."""
    state = cadence.asked(after(healthy(), Outcome.RATE_LIMITED, 10.0, wait=wait), 10.0)
    assert cadence.next_fetch(state, 10.0)[0] == 10.0 + seconds


@pytest.mark.parametrize("outcome", [Outcome.UNAUTHORIZED, Outcome.FORBIDDEN, Outcome.MISSING])
def test_three_refusals_of_nexus_itself_over_a_minute_are_a_denial(outcome: Outcome) -> None:
    """Fewer, sooner, or from something between are not."""
    state = healthy()
    for now in (100.0, 130.0, 159.0):
        state = after(state, outcome, now, final=True)
    assert state.condition is Condition.FAILING
    assert after(state, outcome, 160.0, final=True).condition is Condition.DENIED
    assert after(state, outcome, 160.0, final=False).condition is Condition.FAILING
    assert after(state, Outcome.UNAVAILABLE, 160.0).condition is Condition.FAILING
    twice = after(after(healthy(), outcome, 100.0, final=True), outcome, 200.0, final=True)
    assert twice.condition is Condition.FAILING


def test_gone_is_a_denial_at_once() -> None:
    """410, if Nexus itself said it."""
    assert after(healthy(), Outcome.GONE, 1.0, final=True).condition is Condition.DENIED
    assert after(healthy(), Outcome.GONE, 1.0).condition is Condition.FAILING


def test_a_storm_of_events_is_one_fetch_at_once_and_then_one_a_second() -> None:
    """The first at once."""
    state = cadence.hinted(healthy(), 10.0)
    assert cadence.next_fetch(state, 10.0) == (10.0, Cause.EVENT)
    state = cadence.sent(state, 10.0, Cause.EVENT)
    state = cadence.hinted(cadence.hinted(state, 10.1), 10.2)
    state = cadence.answered(state, Verdict(Outcome.FRESH), 10.3, 0.0, PACE)
    assert cadence.next_fetch(state, 10.3) == (11.0, Cause.EVENT)


def test_a_connection_is_one_fetch_with_or_without_a_resync() -> None:
    """The resync of Nexus triggers it at once; without one it comes two seconds later."""
    opened = cadence.stream_opened(healthy(), 1.0, 0.0, PACE)
    assert cadence.next_fetch(opened, 1.0) == (3.0, Cause.OWN)
    resynced = cadence.hinted(opened, 1.1)
    assert cadence.next_fetch(resynced, 1.1) == (1.1, Cause.EVENT)
    assert cadence.next_fetch(cadence.sent(resynced, 1.1, Cause.EVENT), 1.2)[0] > 60.0


def test_a_wish_is_for_now_and_within_the_budget() -> None:
    """The thirteenth request of a minute waits until the first is a minute old."""
    state = cadence.begin(0.0)
    for number in range(cadence.OWN_PER_MINUTE):
        state = after(cadence.asked(state, float(number)), Outcome.UNCHANGED, float(number))
    assert cadence.next_fetch(cadence.asked(state, 12.0), 12.0) == (61.0, Cause.OWN)


def test_a_stream_that_never_holds_is_tried_ever_more_slowly() -> None:
    """Full jitter to a minute, and after ten bad minutes to five."""
    state, now = healthy(), 0.0
    delays = []
    for _ in range(40):
        state = cadence.stream_opened(state, now, 0.0, PACE)
        state = cadence.stream_lost(state, Verdict(Outcome.UNAVAILABLE), now, 0.999999, PACE)
        connect = cadence.next_connect(state, now)
        assert connect is not None
        delays.append(round(connect - now))
        now = connect
    assert delays[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert delays[-1] == 300
    held = cadence.stream_opened(state, now, 0.0, PACE)
    again = cadence.stream_lost(held, Verdict(Outcome.UNAVAILABLE), now + 61.0, 0.999999, PACE)
    assert again.stream_due == pytest.approx(now + 62.0, abs=0.1)


def test_an_empty_snapshot_after_values_is_held_back_unless_it_is_allowed() -> None:
    """A service that suddenly has nothing is more likely a mistake."""
    assert settle(Outcome.FRESH, 3, 0, False) is Outcome.EMPTIED
    assert settle(Outcome.FRESH, 3, 0, True) is Outcome.FRESH
    assert settle(Outcome.FRESH, 0, 0, False) is Outcome.FRESH
    assert settle(Outcome.FRESH, 3, 1, False) is Outcome.FRESH


def test_values_become_stale_after_an_hour() -> None:
    """Marked, not withheld."""
    assert not cadence.is_stale(0.0, 3600.0)
    assert cadence.is_stale(0.0, 3600.1)


@dataclass
class World:
    """A service driven by arbitrary happenings; counts what it would have sent."""

    state: State = field(default_factory=lambda: cadence.begin(0.0))
    now: float = 0.0
    own: list[float] = field(default_factory=list)
    everything: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    hints: int = 0

    def send_what_is_due(self, verdict: Verdict, chance: float) -> None:
        """As the engine does: one request at a time, at the moment that the table gives."""
        moment, cause = cadence.next_fetch(self.state, self.now)
        if moment <= self.now:
            self._count(cause)
            self.state = cadence.answered(cadence.sent(self.state, self.now, cause), verdict, self.now, chance, PACE)
        connect = cadence.next_connect(self.state, self.now)
        if connect is not None and connect <= self.now:
            self._count(Cause.OWN)
            self.state = cadence.sent(self.state, self.now, Cause.OWN, sync=False)
            if verdict.outcome in (Outcome.FRESH, Outcome.UNCHANGED):
                self.state = cadence.stream_opened(self.state, self.now, chance, PACE)
            else:
                self.state = cadence.stream_lost(self.state, verdict, self.now, chance, PACE)

    def _count(self, cause: Cause) -> None:
        self.everything.append(self.now)
        (self.own if cause is Cause.OWN else self.events).append(self.now)


def most_in_a_minute(times: list[float]) -> int:
    """The largest number of requests in any window of one minute."""
    return max((sum(1 for other in times if start <= other < start + 60.0) for start in times), default=0)


STEPS = st.tuples(
    st.floats(0.0, 90.0),
    st.sampled_from(["hint", "ask", "lose", "nothing"]),
    st.builds(Verdict, st.sampled_from(list(Outcome)), st.none() | st.floats(-10.0, 1e6), st.booleans()),
    st.floats(0.0, 0.999),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=150), st.floats(0.01, 5.0))
def test_the_budget_holds_whatever_happens(steps: list[tuple[float, str, Verdict, float]], tick: float) -> None:
    """Twelve requests a minute of our own, sixty in all, events a second apart; whatever Nexus answers."""
    world = World()
    happenings: dict[str, Callable[[Verdict, float], State]] = {
        "hint": lambda verdict, chance: cadence.hinted(world.state, world.now),
        "ask": lambda verdict, chance: cadence.asked(world.state, world.now),
        "lose": lambda verdict, chance: (
            cadence.stream_lost(world.state, verdict, world.now, chance, PACE) if world.state.stream_up else world.state
        ),
        "nothing": lambda verdict, chance: world.state,
    }
    for pause, happening, verdict, chance in steps:
        world.now += min(pause, tick)
        world.hints += happening == "hint"
        world.state = happenings[happening](verdict, chance)
        world.send_what_is_due(verdict, chance)
    assert most_in_a_minute(world.own) <= cadence.OWN_PER_MINUTE
    assert most_in_a_minute(world.everything) <= cadence.ALL_PER_MINUTE
    assert all(b - a >= cadence.EVENT_SPACING - 1e-6 for a, b in pairwise(world.events))
    assert len(world.events) <= world.hints  # nothing else is counted as an event


def test_the_control_without_the_budget_it_would_be_exceeded() -> None:
    """The property above can fail: a service that forgets its requests sends one for each wish."""
    world = World()
    for number in range(30):
        world.now = float(number)
        world.state = replace(cadence.asked(world.state, world.now), own=(), events=())
        world.send_what_is_due(Verdict(Outcome.UNCHANGED), 0.0)
    assert most_in_a_minute(world.own) > cadence.OWN_PER_MINUTE


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_a_quiet_hour_costs_at_most_fifteen_requests(chance: float) -> None:
    """With a healthy stream: the first sync, the stream, its resync, and the polls."""
    world = World()
    while world.now < 3600.0:
        world.send_what_is_due(Verdict(Outcome.UNCHANGED), chance)
        connect = cadence.next_connect(world.state, world.now)
        upcoming = [cadence.next_fetch(world.state, world.now)[0], *([connect] if connect is not None else [])]
        world.now = max(min(upcoming), world.now)
    assert 5 < len(world.everything) <= 15
