"""The database file: where it is, its schema, and transactions."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nexus_agent.directories import require_own
from nexus_agent.errors import BadSettings, Busy, StorageFailed, VaultError
from nexus_local.vault import Vault, read_or_make_key

DATABASE_NAME: Final = "nexus.db"
KEY_NAME: Final = "key"
BUSY_SECONDS: Final = 10.0
ADVICE: Final = "name a directory of your own, that nobody else may write to, with --data"

# Each entry is one step from one schema to the next and is never edited once released.
MIGRATIONS: Final = (
    """
    CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE service (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('backend', 'frontend')),
        environment TEXT NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE api_key (
        hash BLOB PRIMARY KEY,
        service INTEGER NOT NULL REFERENCES service ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('primary', 'secondary', 'public')),
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE secret (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        service INTEGER NOT NULL REFERENCES service ON DELETE CASCADE,
        key TEXT NOT NULL,
        newest INTEGER NOT NULL DEFAULT 0,
        active INTEGER,
        UNIQUE (service, key),
        FOREIGN KEY (id, active) REFERENCES secret_version (secret, version) DEFERRABLE INITIALLY DEFERRED
    ) STRICT;
    CREATE TABLE secret_version (
        secret INTEGER NOT NULL REFERENCES secret ON DELETE CASCADE,
        version INTEGER NOT NULL CHECK (version >= 1),
        type TEXT NOT NULL CHECK (type IN ('text', 'file')),
        sealed BLOB NOT NULL,
        description TEXT NOT NULL DEFAULT '',
        created_at TEXT NOT NULL,
        PRIMARY KEY (secret, version)
    ) STRICT;
    CREATE TABLE config (
        service INTEGER NOT NULL REFERENCES service ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        PRIMARY KEY (service, key)
    ) STRICT;
    CREATE TABLE flag (
        service INTEGER NOT NULL REFERENCES service ON DELETE CASCADE,
        key TEXT NOT NULL,
        is_active INTEGER NOT NULL CHECK (is_active IN (0, 1)),
        updated_at TEXT NOT NULL,
        PRIMARY KEY (service, key)
    ) STRICT;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        service INTEGER REFERENCES service ON DELETE SET NULL,
        event TEXT NOT NULL,
        key TEXT,
        version INTEGER,
        actor TEXT NOT NULL
    ) STRICT;
    CREATE TABLE change (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        service INTEGER NOT NULL REFERENCES service ON DELETE CASCADE,
        event TEXT NOT NULL,
        key TEXT NOT NULL
    ) STRICT;
    """,
)


def now() -> str:
    """The time as it stands in the database: UTC, RFC 3339, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours; their texts name tables and causes, and no value."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Busy("another process is writing to the database", "try again") from None
        raise StorageFailed(f"{path}: {error}", "make room or mend the disk, and try again") from None
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise BadSettings(f"{path}: {error}", "name another directory with --data, or bring back a backup") from None


class Database:
    """One connection to the database of a data directory, and the vault that belongs to it."""

    def __init__(self, directory: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        """Open, or make, the data directory (0700) with its key and its database. A lock that another process has on
        the database is waited for `busy_seconds` long.

        Raises `BadSettings` when the directory cannot be used, and `VaultError` when key and database do not fit.
        """
        path = directory / DATABASE_NAME
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_own(directory, ADVICE)
            is_new = not path.exists()
            # Created here, as SQLite would with the umask's mode; its journal files take the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            require_own(path, ADVICE)
            key = read_or_make_key(directory / KEY_NAME, may_make=is_new or path.stat().st_size == 0)
        except OSError as error:
            raise BadSettings(
                f"{directory}: cannot be used: {error.strerror}",
                "make room, or name a directory of your own with --data",
            ) from None
        require_own(directory / KEY_NAME, ADVICE)
        self.vault = Vault(key)
        with _translated(path):
            self._connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._migrate()
        self._check_key(path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query, if there is one."""
        row: sqlite3.Row | None = self._connection.execute(statement, values).fetchone()
        return row

    def execute(self, statement: str, *values: object) -> int:
        """Run a statement inside a transaction; returns the id of the row that it inserted last."""
        return self._connection.execute(statement, values).lastrowid or 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Raises `Busy` while another process is writing, `StorageFailed` when the disk refuses."""
        with _translated(Path(DATABASE_NAME)):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself has rolled back where the disk was full
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads inside see the database as it is at the first of them, whatever others write meanwhile."""
        with _translated(Path(DATABASE_NAME)):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def audit(self, service: int, event: str, actor: str, key: str | None = None, version: int | None = None) -> None:
        """Add an audit row to the transaction that does what it records."""
        self.execute(
            "INSERT INTO audit (at, service, event, key, version, actor) VALUES (?, ?, ?, ?, ?, ?)",
            now(),
            service,
            event,
            key,
            version,
            actor,
        )

    def data_version(self) -> int:
        """A number that changes when another connection has written (SQLite's `data_version`)."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _migrate(self) -> None:
        self._connection.execute("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY) STRICT")
        with self.transaction():
            done = int(self._connection.execute("SELECT coalesce(max(number), 0) FROM migration").fetchone()[0])
            if done > len(MIGRATIONS):
                raise BadSettings("the database was written by a newer nexus-local", "use that version, or a copy")
            for number, step in enumerate(MIGRATIONS[done:], start=done + 1):
                for statement in filter(str.strip, step.split(";")):
                    self._connection.execute(statement)
                self.execute("INSERT INTO migration VALUES (?)", number)

    def _check_key(self, path: Path) -> None:
        """Find out now, and not at the first secret, that the key is another database's."""
        with self.transaction():
            row = self.row("SELECT value FROM setting WHERE name = 'key_check'")
            if row is None:
                self.execute("INSERT INTO setting VALUES ('key_check', ?)", self.vault.seal(b"", "key_check"))
                return
        try:
            self.vault.open(row["value"], "key_check")
        except VaultError:
            raise VaultError(
                f"{path.with_name(KEY_NAME)}: not the key of {path}", "bring the right file back from your backup"
            ) from None
