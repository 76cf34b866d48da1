"""From keys to environment names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent.envnames import FORBIDDEN, STRING_MAX_BYTES, Entry, Selection, environment_name, variables
from nexus_agent.errors import BadRequest, ForbiddenName, NameCollision, NexusError, NotFound, TooLarge
from nexus_agent.model import Sensitive
from rig.canary import CANARY


def secret(key: str, value: str = "v", kind: str = "secret") -> Entry:
    """An entry with this key."""
    return Entry(kind, key, Sensitive(value), "text", 1)  # type: ignore[arg-type]  # one of the three kinds


def names(keys: list[str], **wanted: object) -> list[str]:
    """The environment names of these secrets."""
    return [v.name for v in variables([secret(key) for key in keys], Selection(**wanted))]  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("stripe.secret_key", "STRIPE_SECRET_KEY"),
        ("db:password", "DB_PASSWORD"),
        ("TLS_CERT", "TLS_CERT"),
        ("a-b", "A_B"),
        ("9x", "_9X"),
        ("éa", "_A"),
    ],
)
def test_names(key: str, name: str) -> None:
    """Upper case; what a shell would not accept becomes an underscore."""
    assert environment_name(key) == name


@given(st.text(min_size=1))
def test_every_name_is_an_identifier(key: str) -> None:
    """For any text at all."""
    assert re.fullmatch(r"[A-Z_][A-Z0-9_]*", environment_name(key))


def test_selection() -> None:
    """Each word of a selection changes the result."""
    keys = ["db.user", "db.pass", "api.key"]
    assert names(keys) == ["DB_USER", "DB_PASS", "API_KEY"]
    assert names(keys, prefix="app_") == ["APP_DB_USER", "APP_DB_PASS", "APP_API_KEY"]
    assert names(keys, only=("db.*",)) == ["DB_USER", "DB_PASS"]
    assert names(keys, exclude=("*.pass",)) == ["DB_USER", "API_KEY"]
    assert names(keys, renamed={"api.key": "Token"}) == ["DB_USER", "DB_PASS", "Token"]
    assert names(keys, upper_case=False) == ["db_user", "db_pass", "api_key"]
    assert names(keys, require=("db.user",)) == ["DB_USER", "DB_PASS", "API_KEY"]


def test_what_is_required_and_missing_is_named() -> None:
    """Also what is to be renamed and is not there."""
    with pytest.raises(NotFound, match=r"a\.b, c"):
        names(["x"], require=("c",), renamed={"a.b": "Y"})


def test_a_secret_wins_over_a_config_and_a_config_over_a_flag() -> None:
    """They are one thing in two shapes."""
    entries = [secret("k", "flag", "flag"), secret("k", "config", "config"), secret("k", "secret")]
    (variable,) = variables(entries, Selection())
    assert variable.assignment() == b"K=secret"


def test_collisions_name_all_keys_and_can_be_mapped_away() -> None:
    """Two keys that give one name."""
    with pytest.raises(NameCollision, match=r"A_B from secret a\.b and secret a:b"):
        names(["a.b", "a:b", "c"])
    assert names(["a.b", "a:b"], renamed={"a:b": "OTHER"}) == ["A_B", "OTHER"]


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_forbidden_names(pattern: str) -> None:
    """Each pattern of the list, and the way through."""
    name = pattern.replace("*", "x")
    with pytest.raises(ForbiddenName, match=re.escape(name)):
        names(["key"], renamed={"key": name})
    assert names(["key"], renamed={"key": name}, allowed=(name,)) == [name]


def test_values_that_no_environment_holds() -> None:
    """NUL, and more than the kernel takes for one string with its name, `=` and NUL."""
    with pytest.raises(ForbiddenName, match="secret a"):
        variables([secret("a", "x\0y")], Selection())
    longest = STRING_MAX_BYTES - len("A=") - 1
    assert len(variables([secret("a", "x" * longest)], Selection())) == 1
    with pytest.raises(TooLarge, match="secret a"):
        variables([secret("a", "x" * (longest + 1))], Selection())
    with pytest.raises(TooLarge, match="secret a"):
        variables([secret("a", "é" * (longest // 2 + 1))], Selection())


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_names_that_are_none(name: str) -> None:
    """Nothing, an equals sign, NUL."""
    with pytest.raises(BadRequest, match="no environment name for key"):
        names(["key"], renamed={"key": name})


def test_no_error_holds_a_value() -> None:
    """Keys are named, values never."""
    cases = [[secret("a", CANARY + "\0")], [secret("a.b", CANARY), secret("a:b", CANARY)], [secret("PATH", CANARY)]]
    for entries in cases:
        with pytest.raises(NexusError) as caught:
            variables(entries, Selection())
        assert CANARY not in str(caught.value)
