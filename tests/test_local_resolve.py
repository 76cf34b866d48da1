"""Configs with references: what comes out, what is refused, and which of them hold a secret."""

import json
from collections.abc import Iterable

import pytest

from nexus_agent.errors import TemplateError, TooLarge
from nexus_local.resolve import MAX_DEPTH, Resolver
from rig.canary import CANARY

CONFIGS = {
    "host": '"db.internal"',
    "port": "5432",
    "price": "1.10",
    "url": '"pg://app:{{secret:db:password}}@{{config:host}}:{{config:port}}/{{flag:on}}"',
    "deep": '{"a":["{{config:url}}",{"b":"{{ secret:db:password }}"}],"n":18446744073709551615}',
    "list": '["{{secret:db:password}}",{"b":"{{secret:db:password}}"},18446744073709551615,1.10,true,null]',
    "plain": '{"{{secret:db:password}}":"a key of an object is no place for a reference"}',
    "literal": '"\\\\{{secret:db:password}}"',
    "whole": '"{{config:deep}}"',
    "evil": '"{{secret:evil}}"',
}
SECRETS = {"db:password": CANARY, "evil": "{{secret:db:password}}"}


def resolver(**more: str) -> Resolver:
    """A service's configs, with some more."""
    return Resolver({**CONFIGS, **more}, {"on": True, "off": False}, SECRETS.get)


@pytest.mark.parametrize(
    ("key", "value", "reaches_secret"),
    [
        ("host", '"db.internal"', False),
        ("price", "1.10", False),
        ("url", f'"pg://app:{CANARY}@db.internal:5432/true"', True),
        ("list", f'["{CANARY}",{{"b":"{CANARY}"}},18446744073709551615,1.10,true,null]', True),
        ("plain", CONFIGS["plain"], False),
        ("literal", '"{{secret:db:password}}"', False),
        ("evil", '"{{secret:db:password}}"', True),
    ],
)  # fmt: skip
def test_resolving(key: str, value: str, reaches_secret: bool) -> None:
    """Strings anywhere in a value; numbers keep their digits; a value that looks like a reference stays one."""
    resolved = resolver().resolve(key)
    assert (resolved.json.reveal(), resolved.reaches_secret) == (value, reaches_secret)


def test_a_config_inside_another_is_its_json_text() -> None:
    """Only a string is taken bare."""
    inner = resolver().resolve("deep").json.reveal()
    assert json.loads(resolver().resolve("whole").json.reveal()) == inner


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{{secret:nope}}", "config new: there is no secret nope"),
        ("{{config:nope}}", "config new: there is no config nope"),
        ("{{flag:nope}}", "config new: there is no flag nope"),
        ("{{config:new}}", "in a circle: new -> new"),
        ("{{config:two}}", "in a circle: new -> two -> new"),
        ("a\n {{secret:}}", "config new: line 2, column 2: '' cannot be the name of a secret"),
        ("{{ x }}", "config new: line 1, column 1: this begins like a reference but is none"),
    ],
)
def test_what_does_not_resolve(value: str, said: str) -> None:
    """The config, the place and the reason, and never a value."""
    with pytest.raises(TemplateError) as caught:
        resolver(new=json.dumps(value), two='"{{config:new}}"').resolve("new")
    assert said in str(caught.value)
    assert CANARY not in str(caught.value)


def chain(length: int) -> dict[str, str]:
    """Configs of which each refers to the next one."""
    links = {f"c{number:03}": f'"{{{{config:c{number + 1:03}}}}}"' for number in range(length - 1)}
    return {**links, f"c{length - 1:03}": '"end"'}


def resolve_all(whole: Resolver, keys: Iterable[str]) -> None:
    """One after the other, as for a snapshot."""
    for key in keys:
        whole.resolve(key)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_chain_has_an_end(backwards: bool) -> None:
    """16 steps and no more, whichever end is looked at first: a write must not depend on the order of names."""
    assert resolver(**chain(MAX_DEPTH)).resolve("c000").json.reveal() == '"end"'
    longer = chain(MAX_DEPTH + 1)
    with pytest.raises(TemplateError, match="over more than 16 steps"):
        resolve_all(resolver(**longer), sorted(longer, reverse=backwards))


def test_what_grows_with_each_step_is_stopped_before_it_is_built() -> None:
    """Fourteen times sixteen-fold of a kilobyte would be more than any machine has."""
    bomb = {f"c{number}": json.dumps(f"{{{{config:c{number + 1}}}}}" * 16) for number in range(14)}
    with pytest.raises(TooLarge, match="with what it refers to"):
        resolver(**bomb, c14=json.dumps("x" * 1024)).resolve("c0")


def test_all_configs_together_have_a_limit() -> None:
    """Twenty that are each small enough to be written."""
    many = {f"c{number}": '"{{config:large}}"' for number in range(20)}
    with pytest.raises(TooLarge, match="all configs together"):
        resolve_all(resolver(**many, large=json.dumps("x" * 1_000_000)), many)


def test_the_same_config_twice_is_no_circle() -> None:
    """Only a way back is."""
    assert resolver(two='"{{config:host}}{{config:host}}"').resolve("two").json.reveal() == '"db.internaldb.internal"'
