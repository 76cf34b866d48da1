"""Values that do not print themselves, and what changed between two snapshots."""

import copy
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent.model import Changes, Config, Flag, Secret, Sensitive, Snapshot, changes, is_key
from rig.canary import CANARY


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__, "%r".__mod__, ascii])
@pytest.mark.parametrize(
    "value",
    [
        Sensitive(CANARY),
        Secret(Sensitive(CANARY), 1),
        Config(Sensitive(json.dumps(CANARY))),
        Snapshot(secrets={"k": Secret(Sensitive(CANARY), 1)}),
    ],
    ids=["bare", "secret", "config", "snapshot"],
)
def test_a_value_does_not_print(show: object, value: object) -> None:
    """Whatever a log, a traceback or an f-string does with it."""
    assert CANARY not in show(value)  # type: ignore[operator]  # all of these take one argument


def test_a_value_in_a_formatted_column_does_not_print() -> None:
    """A width is obeyed by nothing, rather than with the value."""
    assert CANARY not in f"{Sensitive(CANARY):>40}"


def test_a_value_is_not_pickled_and_not_hashed() -> None:
    """Both would put it where nobody looks for it."""
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Sensitive("x"))
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(Sensitive("x"))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Sensitive("x"))


def test_reveal_is_the_way_in() -> None:
    """And equality looks inside."""
    assert Sensitive("x").reveal() == "x"
    assert Sensitive("x") == Sensitive("x")
    assert Sensitive("x") != Sensitive("y")
    assert Sensitive("x") != "x"


def test_changes_name_what_differs() -> None:
    """Added, altered and removed, sorted; a new version with the same value is a change too."""
    before = Snapshot(
        {"gone": Secret(Sensitive("v"), 1), "same": Secret(Sensitive("v"), 1), "version": Secret(Sensitive("v"), 1)},
        {"c": Config(Sensitive("1"))},
    )
    after = Snapshot(
        {"added": Secret(Sensitive("v"), 1), "same": Secret(Sensitive("v"), 1), "version": Secret(Sensitive("v"), 2)},
        {"c": Config(Sensitive("2"))},
        {"f": Flag(True)},
    )
    assert changes(before, after) == Changes(("added", "gone", "version"), ("c",), ("f",))
    assert changes(after, after) == Changes((), (), ())


def test_a_snapshot_cannot_be_changed() -> None:
    """Its maps are views, and copies of what it was given."""
    given_map = {"k": Flag(True)}
    snapshot = Snapshot(flags=given_map)
    given_map["other"] = Flag(False)
    assert set(snapshot.flags) == {"k"}
    with pytest.raises(TypeError):
        snapshot.flags["k"] = Flag(False)  # type: ignore[index]  # that is the point


@pytest.mark.parametrize("name", ["a", "Z9", "stripe.secret_key", "db:password", "TLS_CERT", "a-b", "a" * 255])
def test_keys(name: str) -> None:
    """The names that Nexus documents."""
    assert is_key(name)


@given(st.text(max_size=8))
def test_keys_are_what_the_pattern_says(name: str) -> None:
    """The whole name, ASCII only: an anchored pattern that lets no final newline through."""
    assert is_key(name) == bool(re.fullmatch(r"(?a:[a-zA-Z]([a-zA-Z0-9_.:-]*[a-zA-Z0-9])?)", name))


@pytest.mark.parametrize(("raw", "text"), [('"a\\nb"', "a\nb"), ("-7", "-7"), ("1.10", "1.10"), ("true", "true")])
def test_the_text_of_a_config(raw: str, text: str) -> None:
    """A string bare, all else as it was written."""
    assert Config(Sensitive(raw)).text() == text
