"""Frozen values: what Nexus holds for one service at one moment, and what changed between two moments.

Values live in `Sensitive`, which prints, formats and pickles as nothing. A config may hold a resolved secret, so every
config counts as one.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

KEY_PATTERN = re.compile(r"[a-zA-Z]([a-zA-Z0-9_.:-]*[a-zA-Z0-9])?", re.ASCII)
KEY_MAX_BYTES = 255
KEYS_MAX = 10_000
VALUE_MAX_BYTES = 1024 * 1024


class Sensitive(Generic[T]):
    """A value that does not print itself: `reveal()` is the only way to it.

    Equality compares what is inside, so that two snapshots can be compared. It cannot be pickled, and it has no hash of
    its own, as a hash would end in places where values must not.
    """

    __hash__ = None  # type: ignore[assignment]  # the documented way to say "unhashable"
    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself. Whoever calls this owns what happens to it."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sensitive) and self._value == other._value

    def __repr__(self) -> str:
        return "Sensitive(…)"

    def __str__(self) -> str:
        return "…"

    def __format__(self, spec: str) -> str:
        return "…"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a sensitive value is not pickled")


class SecretType(StrEnum):
    """How a secret wants to be handed over: as text, or as a file whose path is given."""

    TEXT = "text"
    FILE = "file"


class ServiceKind(StrEnum):
    """What a service is in Nexus; `UNKNOWN` when an answer leaves it open."""

    BACKEND = "backend"
    FRONTEND = "frontend"
    UNKNOWN = ""


class Source(StrEnum):
    """Where a value comes from in Nexus: the service itself, or an umbrella that it inherits from."""

    SERVICE = "service"
    UMBRELLA = "umbrella"


@dataclass(frozen=True, slots=True)
class Secret:
    """The active version of one secret."""

    value: Sensitive[str]
    version: int
    type: SecretType = SecretType.TEXT
    source: str = Source.SERVICE


@dataclass(frozen=True, slots=True)
class Config:
    """A resolved config as compact JSON text: numbers keep every digit."""

    json: Sensitive[str]
    source: str = Source.SERVICE

    def text(self) -> str:
        """What an environment or a template gets: a string bare, anything else as its JSON text."""
        raw = self.json.reveal()
        return str(json.loads(raw)) if raw.startswith('"') else raw


@dataclass(frozen=True, slots=True)
class Flag:
    """A feature flag as Nexus decided it."""

    is_active: bool
    source: str = Source.SERVICE

    def text(self) -> str:
        """`true` or `false`."""
        return "true" if self.is_active else "false"


def _frozen(entries: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return MappingProxyType(dict(entries or {}))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one service has, of one moment. Two are equal when an application could not tell them apart."""

    secrets: Mapping[str, Secret] = field(default_factory=dict)
    configs: Mapping[str, Config] = field(default_factory=dict)
    flags: Mapping[str, Flag] = field(default_factory=dict)
    public: bool = False
    kind: ServiceKind = ServiceKind.UNKNOWN

    def __post_init__(self) -> None:
        for name in ("secrets", "configs", "flags"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.secrets) + len(self.configs) + len(self.flags)


@dataclass(frozen=True, slots=True)
class Changes:
    """The names, sorted, of what was added, altered or removed between two snapshots."""

    secrets: tuple[str, ...]
    configs: tuple[str, ...]
    flags: tuple[str, ...]


def changes(before: Snapshot, after: Snapshot) -> Changes:
    """What differs between two snapshots, by key name only."""

    def differing(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))

    return Changes(
        differing(before.secrets, after.secrets),
        differing(before.configs, after.configs),
        differing(before.flags, after.flags),
    )


def is_key(name: str) -> bool:
    """Whether `name` may name a secret, a config or a flag in Nexus."""
    return len(name) <= KEY_MAX_BYTES and KEY_PATTERN.fullmatch(name) is not None
