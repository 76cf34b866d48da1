"""What the embedded Nexus holds: secrets in versions, configs and flags; each write with its audit row and its change
event in one transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nexus_agent.errors import (
    Conflict,
    NotFound,
    ServiceKindMismatch,
    TemplateError,
)
from nexus_agent.model import (
    Config,
    Flag,
    Secret,
    SecretType,
    Sensitive,
    ServiceKind,
    Snapshot,
)
from nexus_local import limits
from nexus_local.database import BUSY_SECONDS, Database, now
from nexus_local.resolve import Resolver
from nexus_local.services import Service, Services

_JOURNAL_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the journal that streams are fed from."""

    id: int
    service: int
    event: str
    key: str


class Store:
    """All reads and writes of one data directory. `actor` of a write is who did it, as the audit tells it."""

    def __init__(self, directory: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        self._db = Database(directory, busy_seconds)
        self.services = Services(self._db)
        self._in_batch = False

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    @contextmanager
    def batch(self, service: Service) -> Iterator[None]:
        """Several writes to one service as one: all or nothing, and in any order, as what they give is checked once."""
        with self._writing(service):
            self._in_batch = True
            try:
                yield
            finally:
                self._in_batch = False

    def set_secret(self, service: Service, key: str, value: str, kind: SecretType, description: str, actor: str) -> int:
        """Write a new version and make it the active one; returns its number."""
        self._require_backend(service)
        limits.check_secret(key, value, kind, description)
        with self._writing(service):
            row = self._db.row("SELECT id, newest, active FROM secret WHERE service = ? AND key = ?", service.id, key)
            existed = row is not None and row["active"] is not None
            if row is None:
                number, version = (
                    self._db.execute("INSERT INTO secret (service, key) VALUES (?, ?)", service.id, key),
                    1,
                )
            else:
                number, version = row["id"], row["newest"] + 1
            sealed = self._db.vault.seal(value.encode(), service.uid, key, str(version))
            self._db.execute(
                "INSERT INTO secret_version VALUES (?, ?, ?, ?, ?, ?)",
                number,
                version,
                kind.value,
                sealed,
                description,
                now(),
            )
            self._db.execute("UPDATE secret SET newest = ?, active = ? WHERE id = ?", version, version, number)
            self._record(service, "secret.updated" if existed else "secret.created", key, version, actor)
        return version

    def secret(self, service: Service, key: str, actor: str) -> Secret:
        """The active version, with an audit row. Raises `NotFound`."""
        self._require_backend(service)
        with self._db.transaction():
            secret = self._secrets(service, key).get(key)
            if secret is None:
                raise NotFound(f"no secret {key!r} in {service.name}", "'nexus-local secret list' shows the keys")
            self._db.audit(service.id, "secret.get_by_key", actor, key, secret.version)
        return secret

    def list_secrets(self, service: Service, actor: str) -> list[dict[str, object]]:
        """Key, type, version, description and time of each secret; no values."""
        self._require_backend(service)
        with self._db.transaction():
            self._db.audit(service.id, "secret.list", actor)
            rows = self._db.rows(
                """SELECT key, type, version, description, created_at FROM secret
                   JOIN secret_version ON secret = id AND version = active WHERE service = ? ORDER BY key""",
                service.id,
            )
        return [dict(row) for row in rows]

    def secret_history(self, service: Service, key: str, reveal: bool, actor: str) -> list[dict[str, Any]]:
        """All versions of a secret, newest first; `reveal` adds the values, and the audit says so."""
        self._require_backend(service)
        with self._db.transaction():
            rows = self._db.rows(
                """SELECT version, version = active AS active, type, description, secret_version.created_at, sealed
                   FROM secret JOIN secret_version ON secret = id
                   WHERE service = ? AND key = ? ORDER BY version DESC""",
                service.id,
                key,
            )
            if not rows:
                raise NotFound(f"no secret {key!r} in {service.name}", "'nexus-local secret list' shows the keys")
            self._db.audit(service.id, "secret.reveal" if reveal else "secret.list", actor, key)
        history = []
        for row in rows:
            entry = {name: row[name] for name in ("version", "type", "description", "created_at")}
            entry["active"] = bool(row["active"])
            if reveal:
                opened = self._db.vault.open(row["sealed"], service.uid, key, str(row["version"]))
                entry["value"] = Sensitive(opened.decode())
            history.append(entry)
        return history

    def delete_secret(self, service: Service, key: str, version: int | None, actor: str) -> None:
        """Delete a secret, or one version of it: then the newest that is left becomes active.

        Raises `NotFound`, and `Conflict` when a config refers to a secret that would be gone.
        """
        self._require_backend(service)
        with self._deleting(service, f"secret {key}"):
            row = self._db.row(
                "SELECT id, active FROM secret WHERE service = ? AND key = ? AND active IS NOT NULL", service.id, key
            )
            if row is None:
                raise NotFound(f"no secret {key!r} in {service.name}", "'nexus-local secret list' shows the keys")
            number = row["id"]
            if version is None:
                self._db.execute("UPDATE secret SET active = NULL WHERE id = ?", number)
                self._db.execute("DELETE FROM secret_version WHERE secret = ?", number)
            else:
                self._delete_version(number, key, version, row["active"])
            self._record(service, "secret.deleted", key, version, actor)

    def set_config(self, service: Service, key: str, json: bytes, actor: str) -> None:
        """Set a config to a JSON value. Raises `BadRequest` for what is no JSON, `TemplateError` for what does not
        resolve."""
        text = limits.config_text(key, json)
        with self._writing(service):
            existed = self._db.row("SELECT 1 FROM config WHERE service = ? AND key = ?", service.id, key)
            self._db.execute("INSERT OR REPLACE INTO config VALUES (?, ?, ?, ?)", service.id, key, text, now())
            self._record(service, "config.updated" if existed else "config.created", key, None, actor)

    def configs(self, service: Service) -> dict[str, str]:
        """The configs as they were written, references and all, as JSON text."""
        rows = self._db.rows("SELECT key, value FROM config WHERE service = ? ORDER BY key", service.id)
        return {row["key"]: row["value"] for row in rows}

    def set_flag(self, service: Service, key: str, active: bool, actor: str) -> None:
        """Switch a flag, or make it."""
        limits.check_key(key)
        with self._writing(service):
            existed = self._db.row("SELECT 1 FROM flag WHERE service = ? AND key = ?", service.id, key)
            self._db.execute("INSERT OR REPLACE INTO flag VALUES (?, ?, ?, ?)", service.id, key, int(active), now())
            self._record(service, "flag.toggled" if existed else "flag.created", key, None, actor)

    def flags(self, service: Service) -> dict[str, bool]:
        """All flags."""
        rows = self._db.rows("SELECT key, is_active FROM flag WHERE service = ? ORDER BY key", service.id)
        return {row["key"]: bool(row["is_active"]) for row in rows}

    def delete_entry(self, service: Service, group: str, key: str, actor: str) -> None:
        """Delete a config or a flag (`group`). Raises `NotFound`, or `Conflict` when a config refers to it."""
        statements = {
            "config": "DELETE FROM config WHERE service = ? AND key = ? RETURNING 1",
            "flag": "DELETE FROM flag WHERE service = ? AND key = ? RETURNING 1",
        }
        with self._deleting(service, f"{group} {key}"):
            if not self._db.rows(statements[group], service.id, key):
                raise NotFound(f"no {group} {key!r} in {service.name}", f"'nexus-local {group} list' shows the keys")
            self._record(service, f"{group}.deleted", key, None, actor)

    def audit(self, service: Service | None) -> list[dict[str, object]]:
        """The audit, oldest first, of one service or of all."""
        rows = self._db.rows(
            """SELECT at, name AS service, event, key, version, actor FROM audit
               LEFT JOIN service ON service.id = audit.service
               WHERE ?1 IS NULL OR audit.service = ?1 ORDER BY audit.id""",
            service.id if service else None,
        )
        return [dict(row) for row in rows]

    def changes_after(self, last: int) -> list[Change]:
        """The journal's entries with a higher id than `last`."""
        rows = self._db.rows("SELECT id, service, event, key FROM change WHERE id > ? ORDER BY id", last)
        return [Change(*row) for row in rows]

    def last_change(self) -> int:
        """The id of the journal's newest entry."""
        row = self._db.row("SELECT coalesce(max(seq), 0) AS id FROM sqlite_sequence WHERE name = 'change'")
        return int(row["id"]) if row else 0

    def data_version(self) -> int:
        """See `Database.data_version`."""
        return self._db.data_version()

    def endpoint(self) -> str:
        """Where the server of this directory listens, or listened last, or would by default."""
        row = self._db.row("SELECT value FROM setting WHERE name = 'endpoint'")
        return bytes(row["value"]).decode() if row else "http://127.0.0.1:8484"

    def set_endpoint(self, endpoint: str) -> None:
        """Remember where the server listens."""
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO setting VALUES ('endpoint', ?)", endpoint.encode())

    def snapshot(self, service: Service, public: bool) -> Snapshot:
        """What a sync answers: configs resolved, and for a public key nothing that a secret went into."""
        with self._db.reading():
            return self._snapshot(service, public)

    def _snapshot(self, service: Service, public: bool) -> Snapshot:
        plain = {} if service.kind is ServiceKind.FRONTEND else self._secrets(service)
        flags = self.flags(service)
        raw = self.configs(service)
        resolver = Resolver(raw, flags, lambda key: plain[key].value.reveal() if key in plain else None)
        resolved = {key: resolver.resolve(key) for key in raw}
        return Snapshot(
            secrets={} if public else plain,
            configs={k: Config(entry.json) for k, entry in resolved.items() if not (public and entry.reaches_secret)},
            flags={key: Flag(active) for key, active in flags.items()},
            public=public,
            kind=service.kind,
        )

    def _secrets(self, service: Service, only: str | None = None) -> dict[str, Secret]:
        rows = self._db.rows(
            """SELECT key, version, type, sealed FROM secret
               JOIN secret_version ON secret = id AND version = active
               WHERE service = ?1 AND (?2 IS NULL OR key = ?2) ORDER BY key""",
            service.id,
            only,
        )
        opened = {}
        for row in rows:
            value = self._db.vault.open(row["sealed"], service.uid, row["key"], str(row["version"]))
            opened[row["key"]] = Secret(Sensitive(value.decode()), row["version"], SecretType(row["type"]))
        return opened

    def _delete_version(self, secret: int, key: str, version: int, active: int) -> None:
        if not self._db.rows(
            "DELETE FROM secret_version WHERE secret = ? AND version = ? RETURNING 1", secret, version
        ):
            raise NotFound(f"secret {key!r} has no version {version}", "'nexus-local secret history' shows them")
        if version == active:
            self._db.execute(
                "UPDATE secret SET active = (SELECT max(version) FROM secret_version WHERE secret = ?1) WHERE id = ?1",
                secret,
            )

    @contextmanager
    def _writing(self, service: Service) -> Iterator[None]:
        """A transaction after which every client must still be able to read the service."""
        if self._in_batch:
            yield
            return
        with self._db.transaction():
            yield
            limits.check_readable(service.name, self._snapshot(service, public=False))

    @contextmanager
    def _deleting(self, service: Service, what: str) -> Iterator[None]:
        """A transaction after which every config must still resolve. No value is opened: one that is damaged can go."""
        with self._db.transaction():
            yield
            raw = self.configs(service)
            rows = self._db.rows("SELECT key FROM secret WHERE service = ? AND active IS NOT NULL", service.id)
            present = {row["key"]: "" for row in rows}
            resolver = Resolver(raw, self.flags(service), present.get)
            try:
                for key in raw:
                    resolver.resolve(key)
            except TemplateError as error:
                raise Conflict(f"{what} is in use: {error.detail}", "change or delete that config first") from None

    def _record(self, service: Service, event: str, key: str, version: int | None, actor: str) -> None:
        self._db.audit(service.id, event, actor, key, version)
        number = self._db.execute("INSERT INTO change (service, event, key) VALUES (?, ?, ?)", service.id, event, key)
        self._db.execute("DELETE FROM change WHERE id <= ?", number - _JOURNAL_KEPT)

    def _require_backend(self, service: Service) -> None:
        if service.kind is ServiceKind.FRONTEND:
            raise ServiceKindMismatch(f"{service.name} is a frontend service, which has no secrets", "use a config")
