"""What the embedded Nexus keeps: versions, configs, flags; audit and journal in the same transaction as the write."""

import contextlib
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_agent.errors import (
    BadRequest,
    BadSettings,
    Busy,
    Conflict,
    NexusError,
    NotFound,
    ServiceKindMismatch,
    StorageFailed,
    TemplateError,
    TooLarge,
    VaultError,
)
from nexus_agent.model import SecretType
from nexus_local import admin
from nexus_local.services import Keys, Service
from nexus_local.store import Store
from rig.canary import CANARY, found_in


class Place:
    """A data directory with one backend service."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store(directory)
        self.service: Service
        self.keys: Keys
        self.service, self.keys = self.store.services.create("shop", "backend", "test", "t")

    def put(self, key: str, value: str, kind: SecretType = SecretType.TEXT) -> int:
        """Write a secret."""
        return self.store.set_secret(self.service, key, value, kind, "", "t")

    def config(self, key: str, json: str) -> None:
        """Write a config."""
        self.store.set_config(self.service, key, json.encode(), "t")

    def secrets(self) -> dict[str, tuple[str, int]]:
        """What a sync would give: value and version by key."""
        snapshot = self.store.snapshot(self.store.services.named("shop"), public=False)
        return {key: (secret.value.reveal(), secret.version) for key, secret in snapshot.secrets.items()}

    def events(self) -> list[str]:
        """The audit's events about keys."""
        return [str(row["event"]) for row in self.store.audit(self.service) if row["key"]]

    def raw(self, statement: str) -> list[tuple[object, ...]]:
        """SQL past everything of ours."""
        connection = sqlite3.connect(self.directory / "nexus.db", isolation_level=None)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A new one, on disk, so that its files are searched for the canary at the end."""
    return Place(tmp_path / "nexus")


def test_every_write_is_a_version_and_the_newest_is_active(place: Place) -> None:
    """Also when the value is the same again."""
    assert [place.put("k", value) for value in ("one", "two", "two")] == [1, 2, 3]
    assert place.secrets() == {"k": ("two", 3)}
    history = place.store.secret_history(place.service, "k", reveal=True, actor="t")
    assert [(entry["version"], entry["value"].reveal(), entry["active"]) for entry in history] == [
        (3, "two", True),
        (2, "two", False),
        (1, "one", False),
    ]
    assert "value" not in place.store.secret_history(place.service, "k", reveal=False, actor="t")[0]


def test_deleting_the_newest_version_falls_back_to_the_one_before(place: Place) -> None:
    """A version number is never given twice, also after everything was deleted."""
    for value in ("one", "two", "three"):
        place.put("k", value)
    place.store.delete_secret(place.service, "k", 1, "t")
    assert place.secrets() == {"k": ("three", 3)}
    place.store.delete_secret(place.service, "k", 3, "t")
    assert place.secrets() == {"k": ("two", 2)}
    place.store.delete_secret(place.service, "k", 2, "t")
    assert place.secrets() == {}
    assert place.put("k", "four") == 4
    place.store.delete_secret(place.service, "k", None, "t")
    assert place.secrets() == {}
    with pytest.raises(NotFound):
        place.store.delete_secret(place.service, "k", None, "t")
    assert place.put("k", "five") == 5
    created = [event for event in place.events() if event == "secret.created"]
    assert len(created) == 3


def test_what_is_not_there(place: Place) -> None:
    """Each by its name."""
    place.put("k", "v")
    with pytest.raises(NotFound, match="no version 2"):
        place.store.delete_secret(place.service, "k", 2, "t")
    for read in (
        lambda: place.store.secret(place.service, "nope", "t"),
        lambda: place.store.secret_history(place.service, "nope", False, "t"),
        lambda: place.store.delete_entry(place.service, "flag", "nope", "t"),
        lambda: place.store.services.named("nope"),
    ):
        with pytest.raises(NotFound, match="nope"):
            read()


@pytest.mark.parametrize(
    ("key", "value", "kind", "error"),
    [
        ("a b", "v", SecretType.TEXT, BadRequest),
        ("", "v", SecretType.TEXT, BadRequest),
        ("k", "a\0b", SecretType.TEXT, BadRequest),
        ("k", "ä" * 524_289, SecretType.TEXT, TooLarge),
    ],
)
def test_secrets_that_are_refused(
    place: Place, key: str, value: str, kind: SecretType, error: type[NexusError]
) -> None:
    """No version, no audit row, no event."""
    before = place.store.last_change()
    with pytest.raises(error):
        place.put(key, value, kind)
    assert (place.secrets(), place.events(), place.store.last_change()) == ({}, [], before)


def test_the_largest_values_and_a_file_with_nul(place: Place) -> None:
    """The limit itself is allowed, counted in bytes."""
    place.put("large", "ä" * 524_288)
    place.put("file", "a\0b", SecretType.FILE)
    assert place.secrets()["file"] == ("a\0b", 1)


def test_a_snapshot_that_no_client_would_read_is_refused(place: Place) -> None:
    """8 MiB in all, as it travels: a quotation mark counts twice."""
    for number in range(4):
        place.put(f"k{number}", '"' * 1_000_000)
    with pytest.raises(TooLarge, match="no client could read shop any more: the snapshot is over"):
        place.put("k4", '"' * 1_000_000)
    assert set(place.secrets()) == {"k0", "k1", "k2", "k3"}


def test_a_config_is_refused_when_it_does_not_resolve(place: Place) -> None:
    """The old value stays."""
    place.config("c", '"old"')
    for text, error in (
        ('"{{secret:nope}}"', TemplateError),
        ('"{{config:c}}"', TemplateError),
        ("NaN", BadRequest),
        ("{", BadRequest),
        ('"' + "x" * 1_048_576 + '"', TooLarge),
    ):
        with pytest.raises(error):
            place.config("c", text)
    assert place.store.configs(place.service) == {"c": '"old"'}
    assert place.events() == ["config.created"]


def test_what_a_config_refers_to_cannot_be_deleted(place: Place) -> None:
    """The config is named, and nothing is gone."""
    place.put("s", "one")
    place.put("s", "two")
    place.store.set_flag(place.service, "f", True, "t")
    place.config("inner", "1")
    place.config("outer", '"{{secret:s}}{{flag:f}}{{config:inner}}"')
    deletes: tuple[Callable[[], None], ...] = (
        lambda: place.store.delete_secret(place.service, "s", None, "t"),
        lambda: place.store.delete_entry(place.service, "flag", "f", "t"),
        lambda: place.store.delete_entry(place.service, "config", "inner", "t"),
    )
    for delete in deletes:
        with pytest.raises(Conflict, match="is in use: config outer"):
            delete()
    place.store.delete_secret(place.service, "s", 2, "t")  # one version of it may go
    resolved = place.store.snapshot(place.service, public=False).configs["outer"]
    assert resolved.json.reveal() == '"onetrue1"'


def test_a_value_that_grows_past_a_limit_through_a_reference_is_refused(place: Place) -> None:
    """The secret is small enough, the config that holds it twice is not."""
    place.put("s", "small")
    place.config("c", '"{{secret:s}}{{secret:s}}"')
    with pytest.raises(TooLarge, match="config c would be over"):
        place.put("s", "x" * 600_000)
    assert place.secrets() == {"s": ("small", 1)}


def test_a_public_key_sees_nothing_that_a_secret_went_into(place: Place) -> None:
    """Directly or by way of another config."""
    place.put("s", CANARY)
    place.config("direct", '"{{secret:s}}"')
    place.config("indirect", '"{{config:direct}}"')
    place.config("plain", "1")
    place.config("open", '"{{config:plain}}"')
    snapshot = place.store.snapshot(place.service, public=True)
    assert (dict(snapshot.secrets), set(snapshot.configs)) == ({}, {"open", "plain"})
    assert set(place.store.snapshot(place.service, public=False).configs) == {"direct", "indirect", "open", "plain"}


def test_a_frontend_service_has_no_secrets(place: Place) -> None:
    """Neither to write nor to read, and a config cannot reach one."""
    web, _ = place.store.services.create("web", "frontend", "test", "t")
    for call in (
        lambda: place.store.set_secret(web, "k", "v", SecretType.TEXT, "", "t"),
        lambda: place.store.secret(web, "k", "t"),
        lambda: place.store.list_secrets(web, "t"),
        lambda: place.store.secret_history(web, "k", False, "t"),
        lambda: place.store.delete_secret(web, "k", None, "t"),
    ):
        with pytest.raises(ServiceKindMismatch):
            call()
    with pytest.raises(TemplateError):
        place.store.set_config(web, "c", b'"{{secret:k}}"', "t")


def test_audit_event_and_write_are_one_transaction(place: Place) -> None:
    """Where the audit cannot be written, nothing is."""
    place.put("k", "one")
    place.raw("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no more audit'); END")
    for write in (
        lambda: place.put("k", "two"),
        lambda: place.put("new", "v"),
        lambda: place.config("c", "1"),
        lambda: place.store.set_flag(place.service, "f", True, "t"),
        lambda: place.store.delete_secret(place.service, "k", None, "t"),
        lambda: place.store.services.create("web", "backend", "test", "t"),
        lambda: place.store.secret(place.service, "k", "t"),
    ):
        with pytest.raises(sqlite3.IntegrityError, match="no more audit"):
            write()
    snapshot = place.store.snapshot(place.service, public=False)
    assert (place.secrets(), dict(snapshot.configs), dict(snapshot.flags)) == ({"k": ("one", 1)}, {}, {})
    assert [service.name for service in place.store.services.all()] == ["shop"]
    assert place.store.last_change() == 1


def test_the_audit_says_who_did_what_and_never_a_value(place: Place) -> None:
    """Every kind of write, and the reads that show a value."""
    store, service = place.store, place.service
    place.put("k", CANARY)
    place.put("k", CANARY)
    store.secret(service, "k", "reader")
    store.list_secrets(service, "reader")
    store.secret_history(service, "k", True, "reader")
    place.config("c", "1")
    place.config("c", "2")
    store.set_flag(service, "f", True, "t")
    store.set_flag(service, "f", False, "t")
    store.delete_secret(service, "k", None, "t")
    store.delete_entry(service, "config", "c", "t")
    store.delete_entry(service, "flag", "f", "t")
    rows = store.audit(service)
    assert [(row["event"], row["key"], row["version"], row["actor"]) for row in rows] == [
        ("service.created", None, None, "t"),
        ("secret.created", "k", 1, "t"),
        ("secret.updated", "k", 2, "t"),
        ("secret.get_by_key", "k", 2, "reader"),
        ("secret.list", None, None, "reader"),
        ("secret.reveal", "k", None, "reader"),
        ("config.created", "c", None, "t"),
        ("config.updated", "c", None, "t"),
        ("flag.created", "f", None, "t"),
        ("flag.toggled", "f", None, "t"),
        ("secret.deleted", "k", None, "t"),
        ("config.deleted", "c", None, "t"),
        ("flag.deleted", "f", None, "t"),
    ]
    assert not found_in(str(rows).encode())
    other, _ = store.services.create("web", "backend", "test", "t")
    assert len(store.audit(other)) == 1
    assert len(store.audit(None)) == len(rows) + 1


@pytest.mark.parametrize(
    "swap",
    [
        "UPDATE secret_version SET sealed = (SELECT sealed FROM secret_version WHERE version = 1) WHERE version = 2",
        "UPDATE secret SET key = 'other'",
        "UPDATE service SET uid = 'x'",
        "UPDATE secret_version SET sealed = zeroblob(60)",
        "UPDATE secret_version SET sealed = x''",
    ],
)
def test_rows_cannot_be_swapped(place: Place, swap: str) -> None:
    """A sealed value opens only where it was written: service, key and version."""
    place.put("k", "one")
    place.put("k", "two")
    assert place.secrets() == {"k": ("two", 2)}  # the control
    place.raw(swap)
    with pytest.raises(VaultError):
        place.secrets()


def test_no_value_and_no_key_lies_in_the_files(place: Place) -> None:
    """The database and its journal; keys only as hashes. A config's own text is not sealed, which a secret's is."""
    place.put("k", CANARY)
    place.put("k", CANARY, SecretType.FILE)
    place.config("c", '"{{secret:k}}"')
    files = {path.name: path.read_bytes() for path in place.directory.iterdir()}
    assert {"nexus.db", "nexus.db-wal", "key"} <= set(files)
    for name, content in files.items():
        assert not found_in(content), name
        for key in (place.keys.primary, place.keys.secondary, place.keys.public):
            assert key.reveal().encode() not in content, name
        assert (place.directory / name).stat().st_mode & 0o077 == 0, name
    assert b"{{secret:k}}" in files["nexus.db"] + files["nexus.db-wal"]  # the control: texts do lie there


def test_a_snapshot_is_of_one_moment(place: Place) -> None:
    """Somebody flips a secret and a flag in one transaction, thousands of times a second: they never disagree."""
    for number in range(100):  # the time that it takes to open them lies between reading secrets and reading flags
        place.put(f"k{number}", "v")
    place.put("bit", "0")
    place.put("bit", "1")
    place.store.set_flag(place.service, "bit", True, "t")
    stop, flips = threading.Event(), [0]

    def flip() -> None:
        connection = sqlite3.connect(place.directory / "nexus.db", isolation_level=None, timeout=10)
        connection.execute("PRAGMA synchronous = OFF")
        while not stop.is_set():
            bit = flips[0] % 2
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE secret SET active = ? WHERE key = 'bit'", (bit + 1,))
            connection.execute("UPDATE flag SET is_active = ?", (bit,))
            connection.execute("COMMIT")
            flips[0] += 1
        connection.close()

    writer = threading.Thread(target=flip)
    writer.start()
    try:
        snapshots = [place.store.snapshot(place.service, public=False) for _ in range(100)]
    finally:
        stop.set()
        writer.join()
    pairs = [(s.secrets["bit"].value.reveal(), str(int(s.flags["bit"].is_active))) for s in snapshots]
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert flips[0] > 100  # the control: there was something to disagree about


def test_what_no_client_could_read_is_refused_when_it_is_written(place: Place) -> None:
    """Limits of a client that only show in the whole: depth inside a snapshot, numbers beyond a double."""
    place.config("deepest", "[" * 13 + "]" * 13)
    with pytest.raises(TooLarge, match="nests deeper"):
        place.config("deeper", "[" * 14 + "]" * 14)
    place.config("large", "1e308")
    for number in ("9" * 310, "-" + "9" * 310, "1.7976931348623158e308", '{"a":[1.2e308]}'):
        with pytest.raises(BadRequest, match="config larger holds a number over"):
            place.config("larger", number)
    assert set(place.store.configs(place.service)) == {"deepest", "large"}


@pytest.mark.parametrize("description", ["two\nlines", "\x1b[31m", "x" * 256])
def test_descriptions_are_one_line_for_a_terminal(place: Place, description: str) -> None:
    """They are printed in lists."""
    with pytest.raises(BadRequest, match="a description has"):
        place.store.set_secret(place.service, "k", "v", SecretType.TEXT, description, "t")


def test_a_damaged_row_hinders_nothing_but_itself(place: Place) -> None:
    """It is named when it is read; others can be read, and it can be deleted."""
    for key in ("a", "b", "c"):
        place.put(key, key)
    place.raw("UPDATE secret_version SET sealed = zeroblob(40) WHERE secret IN (1, 2)")
    with pytest.raises(VaultError, match="a version 1: sealed in a format"):
        place.store.secret(place.service, "a", "t")
    assert place.store.secret(place.service, "c", "t").value.reveal() == "c"
    for key in ("a", "b"):
        place.store.delete_secret(place.service, key, None, "t")
    assert place.secrets() == {"c": ("c", 1)}


def test_a_batch_is_all_or_nothing_and_in_any_order(place: Place) -> None:
    """A config may come before what it refers to, and one that does not resolve takes everything along."""
    with place.store.batch(place.service):
        place.config("c", '"{{secret:s}}"')
        place.put("s", "v")
    assert place.store.snapshot(place.service, public=False).configs["c"].json.reveal() == '"v"'

    def broken() -> None:
        with place.store.batch(place.service):
            place.put("new", "v")
            place.config("broken", '"{{secret:nope}}"')

    with pytest.raises(TemplateError):
        broken()
    assert set(place.secrets()) == {"s"}
    place.put("after", "v")
    with pytest.raises(TemplateError):  # the control: outside of a batch each write is checked
        place.config("broken", '"{{secret:nope}}"')


def test_a_lock_of_another_process_is_told_as_such(place: Place) -> None:
    """And what was to be written can be written afterwards."""
    impatient = Store(place.directory, busy_seconds=0.01)
    other = sqlite3.connect(place.directory / "nexus.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy):
        impatient.set_flag(place.service, "f", True, "t")
    assert impatient.flags(place.service) == {}  # reading goes on
    other.execute("ROLLBACK")
    impatient.set_flag(place.service, "f", True, "t")
    other.close()
    impatient.close()


def test_a_full_disk_is_told_as_such_and_loses_nothing(run_dir: Path, roles: None) -> None:
    """What was written before is there, and writing goes on once there is room."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", run_dir], check=True)
    try:
        place = Place(run_dir / "nexus")
        place.put("k", "v")
        filler = run_dir / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with pytest.raises(StorageFailed, match="full"):
            place.put("large", "x" * 100_000)
        assert place.secrets() == {"k": ("v", 1)}
        filler.unlink()
        place.put("large", "x" * 100_000)
        assert set(place.secrets()) == {"k", "large"}
        place.store.close()
    finally:
        subprocess.run(["umount", run_dir], check=True)


def test_a_directory_that_somebody_else_may_write_to(tmp_path: Path, roles: None) -> None:
    """He would choose the key, or listen in the place of the server."""
    for name, change in (
        ("directory", lambda place: os.chown(place, 4242, 4242)),
        ("writable", lambda place: place.chmod(0o777)),
        ("database", lambda place: os.chown(place / "nexus.db", 4242, 4242)),
        ("key", lambda place: os.chown(place / "key", 4242, 4242)),
    ):
        place = tmp_path / name
        Store(place).close()
        change(place)
        with pytest.raises(BadSettings, match=r"belongs to another user|others may write"):
            Store(place)
        if name in ("directory", "writable"):
            with pytest.raises(BadSettings):
                admin.ask(place, "service.list", {})
    (tmp_path / "linked").mkdir(mode=0o700)
    (tmp_path / "linked" / "nexus.db").symlink_to("/etc/hostname")
    with pytest.raises(BadSettings, match="cannot be used"):
        Store(tmp_path / "linked")


def test_a_database_of_a_newer_release_is_left_alone(place: Place) -> None:
    """And nothing in it is changed."""
    place.store.close()
    place.raw("INSERT INTO migration SELECT max(number) + 1 FROM migration")
    with pytest.raises(BadSettings, match="newer nexus-local"):
        Store(place.directory)


def test_what_is_no_database(tmp_path: Path) -> None:
    """A file of something else is refused and stays as it is."""
    Store(tmp_path).close()
    (tmp_path / "nexus.db").write_bytes(b"something else, and long enough for a header" * 100)
    with pytest.raises(BadSettings, match="not a database"):
        Store(tmp_path)
    assert (tmp_path / "nexus.db").read_bytes().startswith(b"something else")


@pytest.mark.parametrize(
    ("name", "kind", "environment", "error"),
    [
        ("shop", "backend", "test", Conflict),
        ("Shop", "backend", "test", BadRequest),
        ("-a", "backend", "test", BadRequest),
        ("a" * 64, "backend", "test", BadRequest),
        ("web", "middle", "test", BadRequest),
        ("web", "backend", "", BadRequest),
        ("web", "backend", "a\nb", BadRequest),
        ("web", "backend", "x" * 64, BadRequest),
    ],
)
def test_services_that_are_refused(
    place: Place, name: str, kind: str, environment: str, error: type[NexusError]
) -> None:
    """A name is also a host name."""
    with pytest.raises(error):
        place.store.services.create(name, kind, environment, "t")


def test_keys_open_their_service_and_nothing_else(place: Place) -> None:
    """Each with its prefix and its role; half a key opens nothing."""
    for key, prefix, role in (
        (place.keys.primary, "wxs_", "primary"),
        (place.keys.secondary, "wxs_", "secondary"),
        (place.keys.public, "wxp_", "public"),
    ):
        caller = place.store.services.authenticate(key.reveal())
        assert caller is not None
        assert (caller.service.name, caller.role, caller.public) == ("shop", role, role == "public")
        assert key.reveal().startswith(prefix)
        assert place.store.services.authenticate(key.reveal()[:-1]) is None
    assert len({place.keys.primary.reveal(), place.keys.secondary.reveal(), place.keys.public.reveal()}) == 3
