"""JSON that keeps every digit, and that refuses whatever two readers could understand differently."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

from nexus_agent.errors import BadRequest

MAX_DEPTH = 16
# An integer of more digits is not a number that anybody counts with; Python's own limit for a conversion is 4300.
MAX_INTEGER_DIGITS = 400


class DecimalText(str):
    """A JSON number with a fraction or an exponent, as the text that it was written with: `1.10` stays `1.10`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RawJson:
    """JSON text that is spliced as it stands into a larger document."""

    text: str = field(repr=False)


def dump(value: object) -> str:
    """`value` as JSON without blanks; members keep their order, `DecimalText` and `RawJson` their exact text."""
    if isinstance(value, DecimalText):
        return str(value)
    if isinstance(value, RawJson):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def load(raw: bytes) -> Any:
    """Parse a document: strict UTF-8, no member twice, no NaN, no Infinity, no half surrogate, at most 16 levels deep.

    Numbers with a fraction or an exponent come as `DecimalText`. Raises `BadRequest`, whose text holds a place but
    nothing of the document: the standard library's own error carries all of it.
    """
    try:
        text = raw.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise BadRequest(f"not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_members_once,
            parse_float=_decimal_text,
            parse_int=_bounded_integer,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise BadRequest(f"not JSON at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise BadRequest(f"JSON nests deeper than {MAX_DEPTH} levels") from None
    _check_depth(value)
    if "\\u" in text:  # the only way to half a surrogate pair, after a strict decoding
        _check_surrogates(value)
    return value


def _check_depth(value: object) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in layer if isinstance(item, dict | list)]
        if not containers:
            return
        layer = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    raise BadRequest(f"JSON nests deeper than {MAX_DEPTH} levels")


def _check_surrogates(value: object) -> None:
    try:
        dump(value).encode("utf-8", "strict")
    except UnicodeEncodeError:
        raise BadRequest("JSON holds half of a surrogate pair") from None


def _members_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRequest("JSON names a member twice in one object")
    return members


def _decimal_text(text: str) -> DecimalText:
    if math.isinf(float(text)):
        raise BadRequest("JSON holds a number that is too large for any reader")
    return DecimalText(text)


def _bounded_integer(text: str) -> int | DecimalText:
    if len(text) > MAX_INTEGER_DIGITS:
        raise BadRequest(f"JSON holds an integer of more than {MAX_INTEGER_DIGITS} digits")
    return DecimalText(text) if text == "-0" else int(text)  # an integer has no sign to keep there


def _no_constant(_: str) -> NoReturn:
    raise BadRequest("JSON holds NaN or Infinity")
