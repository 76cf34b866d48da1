"""Services and the keys that open them."""

import hashlib
import re
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Final

from nexus_agent.errors import BadRequest, Conflict, NotFound
from nexus_agent.model import Sensitive, ServiceKind
from nexus_local.database import Database, now

_SLUG: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Service:
    """One service. `uid` never changes and is what sealed values are bound to."""

    id: int
    uid: str
    name: str
    kind: ServiceKind
    environment: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever showed a key: which service it opens, and as what."""

    service: Service
    role: str

    @property
    def public(self) -> bool:
        """Whether the key was the public one."""
        return self.role == "public"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a new service, in plain; nobody ever sees them again."""

    primary: Sensitive[str]
    secondary: Sensitive[str]
    public: Sensitive[str]


class Services:
    """The services of one database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, name: str, kind: str, environment: str, actor: str) -> tuple[Service, Keys]:
        """A new service and its keys. Raises `Conflict` for a name that is taken."""
        if not _SLUG.fullmatch(name):
            raise BadRequest(
                "a service's name is also its host name", "use small letters, digits and '-', 63 characters at most"
            )
        if kind not in (ServiceKind.BACKEND, ServiceKind.FRONTEND):
            raise BadRequest("a service is backend or frontend", "say --kind backend or --kind frontend")
        if not environment or not environment.isprintable() or len(environment) > 63:
            raise BadRequest("an environment needs a name of at most 63 printable characters")
        keys = Keys(*(Sensitive(prefix + secrets.token_urlsafe(32)) for prefix in ("wxs_", "wxs_", "wxp_")))
        with self._db.transaction():
            if self._db.row("SELECT 1 FROM service WHERE name = ?", name):
                raise Conflict(f"there is a service {name} already", "choose another name")
            uid = secrets.token_hex(16)
            number = self._db.execute(
                "INSERT INTO service (uid, name, kind, environment, created_at) VALUES (?, ?, ?, ?, ?)",
                uid,
                name,
                kind,
                environment,
                now(),
            )
            for role, key in (("primary", keys.primary), ("secondary", keys.secondary), ("public", keys.public)):
                self._db.execute("INSERT INTO api_key VALUES (?, ?, ?, ?)", _hash(key.reveal()), number, role, now())
            self._db.audit(number, "service.created", actor)
        return Service(number, uid, name, ServiceKind(kind), environment), keys

    def all(self) -> list[Service]:
        """All services by name."""
        return [_service(row) for row in self._db.rows("SELECT * FROM service ORDER BY name")]

    def named(self, name: str) -> Service:
        """The service called `name`. Raises `NotFound`."""
        row = self._db.row("SELECT * FROM service WHERE name = ?", name)
        if row is None:
            raise NotFound(f"no service {name!r}", "'nexus-local service list' shows them, 'service create' makes one")
        return _service(row)

    def authenticate(self, key: str) -> Caller | None:
        """Who a key belongs to. Keys are long and random, so a plain hash keeps them."""
        row = self._db.row(
            "SELECT service.*, role FROM api_key JOIN service ON service.id = service WHERE hash = ?", _hash(key)
        )
        return None if row is None else Caller(_service(row), row["role"])


def _service(row: sqlite3.Row) -> Service:
    return Service(row["id"], row["uid"], row["name"], ServiceKind(row["kind"]), row["environment"])


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
