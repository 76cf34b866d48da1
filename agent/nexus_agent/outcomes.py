"""What an answer of Nexus means: the table that the engine, the wire and their tests read. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final


class Outcome(StrEnum):
    """What one request to Nexus came to."""

    FRESH = "fresh"
    UNCHANGED = "unchanged"
    INVALID = "invalid"
    EMPTIED = "emptied"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MISSING = "missing"
    GONE = "gone"
    BILLING = "billing"
    QUARANTINED = "quarantined"
    RATE_LIMITED = "rate_limited"
    REJECTED = "rejected"
    REDIRECTED = "redirected"
    UNAVAILABLE = "unavailable"
    TLS_FAILED = "tls_failed"


class Serving(Enum):
    """What happens to the values that are being served."""

    PUBLISH = "a new generation, if the content differs"
    RENEW = "the same generation, validated now"
    KEEP = "go on with what we have"


class Delay(Enum):
    """How the time of the next request is found."""

    POLL = "the poll interval"
    BACKOFF = "full jitter, 1 s doubling to 60 s"
    LONG_BACKOFF = "full jitter, 1 s doubling to 5 min"
    PATIENCE = "5 min"
    TOLD = "as Nexus said; nothing at all is sent before"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what an outcome does to serving and pace, and whether it may add up to a denial."""

    serving: Serving
    delay: Delay
    counts_as_denial: bool = False


RULES: Final[Mapping[Outcome, Rule]] = MappingProxyType(
    {
        Outcome.FRESH: Rule(Serving.PUBLISH, Delay.POLL),
        Outcome.UNCHANGED: Rule(Serving.RENEW, Delay.POLL),
        Outcome.INVALID: Rule(Serving.KEEP, Delay.BACKOFF),
        Outcome.EMPTIED: Rule(Serving.KEEP, Delay.BACKOFF),
        Outcome.UNAUTHORIZED: Rule(Serving.KEEP, Delay.LONG_BACKOFF, counts_as_denial=True),
        Outcome.FORBIDDEN: Rule(Serving.KEEP, Delay.LONG_BACKOFF, counts_as_denial=True),
        Outcome.MISSING: Rule(Serving.KEEP, Delay.LONG_BACKOFF, counts_as_denial=True),
        Outcome.GONE: Rule(Serving.KEEP, Delay.PATIENCE, counts_as_denial=True),
        Outcome.BILLING: Rule(Serving.KEEP, Delay.PATIENCE),
        Outcome.QUARANTINED: Rule(Serving.KEEP, Delay.TOLD),
        Outcome.RATE_LIMITED: Rule(Serving.KEEP, Delay.TOLD),
        Outcome.REJECTED: Rule(Serving.KEEP, Delay.LONG_BACKOFF),
        Outcome.REDIRECTED: Rule(Serving.KEEP, Delay.BACKOFF),
        Outcome.UNAVAILABLE: Rule(Serving.KEEP, Delay.BACKOFF),
        Outcome.TLS_FAILED: Rule(Serving.KEEP, Delay.BACKOFF),
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome with what Nexus said about time: seconds from now, or nothing."""

    outcome: Outcome
    wait: float | None = None
    final: bool = False
    """Whether a refusal came from Nexus itself (a JSON body, a verified connection) and not from something between."""


def settle(outcome: Outcome, before: int, after: int, allow_empty: bool) -> Outcome:
    """A valid answer without any value, where there were some, is held back unless the settings allow it."""
    if outcome is Outcome.FRESH and before > 0 and after == 0 and not allow_empty:
        return Outcome.EMPTIED
    return outcome
