"""JSON that keeps every digit and refuses what readers differ on."""

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent import exactjson
from nexus_agent.errors import BadRequest
from nexus_agent.exactjson import DecimalText, RawJson
from rig.canary import CANARY

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_reads_back_the_same_here_and_elsewhere(value: object) -> None:
    """The standard library is the other reader."""
    text = exactjson.dump(value)
    assert json.loads(text) == value
    assert exactjson.load(text.encode("utf-8", "surrogatepass")) == value


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True))
def test_every_digit_of_a_number_survives(text: str) -> None:
    """No rounding on the way through."""
    assert exactjson.dump(exactjson.load(f'{{"n":[{text}]}}'.encode())) == f'{{"n":[{text}]}}'


def test_decimals_are_not_texts() -> None:
    """A number that is kept as text is written without quotes."""
    assert (
        exactjson.dump({"a": DecimalText("1.10"), "b": "1.10", "c": RawJson("[1]")}) == '{"a":1.10,"b":"1.10","c":[1]}'
    )


@pytest.mark.parametrize(
    "document",
    [f'{{"a":"{CANARY}"', f'"{CANARY}\\ud800"', f'{{"{CANARY}":1,"{CANARY}":2}}', f"{CANARY}", f'["{CANARY}",NaN]'],
)
def test_an_error_holds_nothing_of_the_document(document: str) -> None:
    """Neither its text nor what it was raised from."""
    with pytest.raises(BadRequest) as caught:
        exactjson.load(document.encode())
    error = caught.value
    assert CANARY not in "".join(traceback.format_exception(error))
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
