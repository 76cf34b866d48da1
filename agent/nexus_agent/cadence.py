"""When to ask Nexus: pure functions over one immutable state.

No I/O, no clock and no randomness of its own: `now` is seconds of a clock that never goes back, `chance` a number from
0 to 1 (1 excluded), both handed in. What an answer means is data in `outcomes`; `State` is what
one service remembers between two answers.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

from nexus_agent.outcomes import RULES, Delay, Outcome, Rule, Verdict

STALE_AFTER: Final = 3600.0
# The budget of one service: requests in any minute for reasons of our own, and in all. A second more than a minute, as
# one request may take less time to get to Nexus than the one before.
BUDGET_WINDOW: Final = 61.0
OWN_PER_MINUTE: Final = 12
ALL_PER_MINUTE: Final = 60
EVENT_SPACING: Final = 1.0
# Nexus sends `resync` right after it accepts a stream. Without it, the connection itself is a reason to ask.
RESYNC_GRACE: Final = 2.0
BACKOFF_FIRST: Final = 1.0
BACKOFF_CAP: Final = 60.0
PATIENCE: Final = 300.0
HEALTH_RESETS: Final = 60.0
QUARANTINE_UNREADABLE: Final = 600.0
QUARANTINE_MAX: Final = 86_400.0
RETRY_AFTER_MIN: Final = 1.0
RETRY_AFTER_MAX: Final = 900.0
STREAM_BAD_FOR_LONG: Final = 600.0
STREAM_SILENCE: Final = 90.0
DENIALS: Final = 3
DENIAL_SPAN: Final = 60.0
# Timers of a fleet drift apart by this share of a delay. It only ever lengthens, so that a quiet hour stays in budget.
SPREAD: Final = 0.1


class Cause(Enum):
    """Why a request is sent: for a reason of ours, or because the stream hinted at a change."""

    OWN = "own"
    EVENT = "event"


class Condition(StrEnum):
    """One word for `status` about how a service and Nexus get on."""

    STARTING = "starting"
    HEALTHY = "healthy"
    FAILING = "failing"
    DENIED = "denied"
    FROZEN = "frozen"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Pace:
    """The settings that this table reads, in seconds."""

    poll: float = 300.0
    poll_without_stream: float = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """What one service remembers. All times are readings of the monotonic clock; `None` means never, or not planned."""

    due: float
    wish_due: float | None = None
    hint_due: float | None = None
    closed_until: float = 0.0
    stream_due: float | None = None
    stream_up: bool = False
    resync_due: float | None = None
    failures: int = 0
    stream_failures: int = 0
    healthy_since: float | None = None
    stream_since: float | None = None
    stream_bad_since: float | None = None
    last_event: float | None = None
    denials: int = 0
    first_denial: float | None = None
    condition: Condition = Condition.STARTING
    own: tuple[float, ...] = ()
    events: tuple[float, ...] = ()


def begin(now: float) -> State:
    """A service that has never asked."""
    return State(due=now)


def next_fetch(state: State, now: float) -> tuple[float, Cause]:
    """The earliest moment at which the next sync may be sent, and the reason it is counted under."""
    due = min(moment for moment in (state.due, state.wish_due, state.resync_due) if moment is not None)
    own = _permitted(state, max(due, state.closed_until, now), Cause.OWN)
    if state.hint_due is None:
        return own, Cause.OWN
    hinted = _permitted(state, max(state.hint_due, state.closed_until, now), Cause.EVENT)
    return (hinted, Cause.EVENT) if hinted <= own else (own, Cause.OWN)


def next_connect(state: State, now: float) -> float | None:
    """The earliest moment at which a stream may be opened, or `None` while there is one or none is wanted."""
    if state.stream_up or state.stream_due is None:
        return None
    return _permitted(state, max(state.stream_due, state.closed_until, now), Cause.OWN)


def sent(state: State, now: float, cause: Cause, sync: bool = True) -> State:
    """Count a request. A sync also answers every hint and every wish that came before it."""
    counted = state
    if cause is Cause.OWN:
        counted = replace(state, own=(*_recent(state.own, now), now))
    else:
        counted = replace(state, events=(*_recent(state.events, now), now))
    if not sync:
        return counted
    last_event = now if cause is Cause.EVENT else state.last_event
    due = now + BACKOFF_CAP
    return replace(counted, hint_due=None, wish_due=None, resync_due=None, due=due, last_event=last_event)


def answered(state: State, verdict: Verdict, now: float, chance: float, pace: Pace) -> State:
    """The state after a sync's answer: condition, backoff and the time of the next request."""
    rule = RULES[verdict.outcome]
    if rule.delay is Delay.POLL:
        return _succeeded(state, now, chance, pace)
    failures = _failures(state.failures, state.healthy_since, now) + 1
    failed = _counted_denial(replace(state, failures=failures, healthy_since=None), verdict, rule, now)
    failed = replace(failed, condition=_condition(failed, verdict, now))
    if rule.delay is Delay.TOLD:
        until = now + spread(_told(verdict), chance)
        return replace(failed, due=until, closed_until=until, hint_due=None)
    if rule.delay in (Delay.PATIENCE, Delay.LONG_BACKOFF):
        # Whoever is refused is not to knock at two doors: the stream waits for the next good sync.
        failed = replace(failed, stream_due=None)
    if rule.delay is Delay.PATIENCE:
        return replace(failed, due=now + spread(PATIENCE, chance), hint_due=None)
    cap = PATIENCE if rule.delay is Delay.LONG_BACKOFF else BACKOFF_CAP
    return replace(failed, due=now + backoff(failures, chance, cap))


def asked(state: State, now: float) -> State:
    """A local client wants Nexus asked now; the budget and a quarantine still hold."""
    return replace(state, wish_due=now)


def hinted(state: State, now: float) -> State:
    """The stream said that something changed: fetch at once, and in a storm once a second."""
    earliest = now if state.last_event is None else max(now, state.last_event + EVENT_SPACING)
    if state.hint_due is not None:
        earliest = min(state.hint_due, earliest)
    return replace(state, hint_due=earliest, resync_due=None)


def stream_opened(state: State, now: float, chance: float, pace: Pace) -> State:
    """The stream is up: poll at the slow pace, and fetch once for what happened while there was none."""
    due = max(state.due, now + spread(pace.poll, chance)) if state.condition is Condition.HEALTHY else state.due
    return replace(
        state,
        stream_up=True,
        stream_due=None,
        stream_since=now,
        due=due,
        resync_due=now + RESYNC_GRACE,
    )


def stream_lost(state: State, verdict: Verdict, now: float, chance: float, pace: Pace) -> State:
    """The stream ended, or could not be opened: poll faster, and come back with full jitter."""
    lasted = state.stream_since is not None and now - state.stream_since >= HEALTH_RESETS
    failures = 1 if lasted else state.stream_failures + 1
    bad_since = now if lasted or state.stream_bad_since is None else state.stream_bad_since
    cap = PATIENCE if now - bad_since >= STREAM_BAD_FOR_LONG else BACKOFF_CAP
    is_healthy = state.condition is Condition.HEALTHY  # else there is a reason not to ask sooner
    lost = replace(
        state,
        stream_up=False,
        resync_due=None,
        stream_since=None,
        stream_failures=failures,
        stream_bad_since=bad_since,
        due=min(state.due, now + spread(pace.poll_without_stream, chance)) if is_healthy else state.due,
    )
    rule = RULES[verdict.outcome]
    if rule.delay is Delay.TOLD:
        until = now + spread(_told(verdict), chance)
        told = replace(lost, condition=_condition(lost, verdict, now), hint_due=None)
        return replace(told, closed_until=until, due=until, stream_due=until)
    if rule.delay in (Delay.LONG_BACKOFF, Delay.PATIENCE):
        return replace(lost, stream_due=None)
    return replace(lost, stream_due=now + backoff(failures, chance, cap))


def is_stale(validated_at: float, now: float) -> bool:
    """Whether values last confirmed at `validated_at` are old enough to be called stale (both in Unix seconds)."""
    return now - validated_at > STALE_AFTER


def backoff(failures: int, chance: float, cap: float) -> float:
    """Full jitter: anywhere between nothing and a bound that doubles from 1 s to `cap`, in seconds."""
    bound = min(cap, BACKOFF_FIRST * 2.0 ** min(failures - 1, 16))
    return chance * bound


def spread(delay: float, chance: float) -> float:
    """`delay` lengthened by up to a tenth, in seconds."""
    return delay * (1 + SPREAD * chance)


def _succeeded(state: State, now: float, chance: float, pace: Pace) -> State:
    interval = pace.poll if state.stream_up else pace.poll_without_stream
    due = now + spread(interval, chance)
    wants_stream = state.stream_due if state.stream_up or state.stream_due is not None else now
    return replace(
        state,
        # A quarantine that was told to the stream meanwhile stays: this request was sent before it.
        condition=state.condition if state.closed_until > now else Condition.HEALTHY,
        healthy_since=now if state.healthy_since is None else state.healthy_since,
        denials=0,
        first_denial=None,
        stream_due=wants_stream,
        due=due,
    )


def _failures(failures: int, healthy_since: float | None, now: float) -> int:
    healthy_long = healthy_since is not None and now - healthy_since >= HEALTH_RESETS
    return 0 if healthy_long else failures


def _counted_denial(state: State, verdict: Verdict, rule: Rule, now: float) -> State:
    if not (rule.counts_as_denial and verdict.final):
        return replace(state, denials=0, first_denial=None)
    first = now if state.first_denial is None else state.first_denial
    return replace(state, denials=state.denials + 1, first_denial=first)


def _condition(state: State, verdict: Verdict, now: float) -> Condition:
    if verdict.outcome is Outcome.QUARANTINED:
        return Condition.QUARANTINED
    if verdict.outcome is Outcome.BILLING:
        return Condition.FROZEN
    if verdict.outcome is Outcome.GONE and verdict.final:
        return Condition.DENIED
    long_enough = state.first_denial is not None and now - state.first_denial >= DENIAL_SPAN
    return Condition.DENIED if state.denials >= DENIALS and long_enough else Condition.FAILING


def _told(verdict: Verdict) -> float:
    if verdict.outcome is Outcome.QUARANTINED:
        # One that is over already was measured by a clock that is wrong, here or there.
        if verdict.wait is None or verdict.wait <= 0:
            return QUARANTINE_UNREADABLE
        return min(verdict.wait, QUARANTINE_MAX)
    wait = BACKOFF_CAP if verdict.wait is None else verdict.wait
    return min(max(wait, RETRY_AFTER_MIN), RETRY_AFTER_MAX)


def _recent(times: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(time for time in times if now - time < BUDGET_WINDOW)


def _permitted(state: State, moment: float, cause: Cause) -> float:
    """`moment`, or the first one after it at which a request of this cause fits into the budget of every minute."""
    everything = sorted(state.own + state.events)
    if cause is Cause.OWN and len(state.own) >= OWN_PER_MINUTE:
        moment = max(moment, state.own[-OWN_PER_MINUTE] + BUDGET_WINDOW)
    if len(everything) >= ALL_PER_MINUTE:
        moment = max(moment, everything[-ALL_PER_MINUTE] + BUDGET_WINDOW)
    return moment
