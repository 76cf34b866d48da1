"""What may be written, so that every client can read what is there afterwards."""

from typing import Final

from nexus_agent import exactjson, wire
from nexus_agent.errors import BadAnswer, BadRequest, NexusError, TooLarge
from nexus_agent.exactjson import DecimalText
from nexus_agent.model import VALUE_MAX_BYTES, SecretType, Snapshot, is_key

DESCRIPTION_MAX: Final = 255
# What a double holds with room for its rounding: an SDK that reads numbers as doubles refuses the whole sync beyond.
NUMBER_MAX: Final = 1e308


def check_key(key: str) -> None:
    """Raises `BadRequest` for what may not name a secret, a config or a flag."""
    if not is_key(key):
        raise BadRequest(
            "that is no key", "begin with a letter, go on with letters, digits and _ . : -, end with a letter or digit"
        )


def check_secret(key: str, value: str, kind: SecretType, description: str) -> None:
    """Raises `BadRequest` or `TooLarge` for a secret that is none."""
    check_key(key)
    if len(value.encode()) > VALUE_MAX_BYTES:
        raise TooLarge(f"secret {key} is over {VALUE_MAX_BYTES} bytes", "keep large files elsewhere")
    if len(description) > DESCRIPTION_MAX or not description.isprintable():
        raise BadRequest(f"a description has at most {DESCRIPTION_MAX} printable characters, on one line")
    if kind is SecretType.TEXT and "\0" in value:
        raise BadRequest(f"secret {key} has a NUL character, which no text may have", "use --type file for bytes")


def config_text(key: str, raw: bytes) -> str:
    """A config's value as compact JSON text. Raises `BadRequest` for what is no JSON or no client's, or `TooLarge`."""
    check_key(key)
    try:
        value = exactjson.load(raw)
    except NexusError as error:
        raise BadRequest(
            f"config {key}: {error.detail}", "a config is JSON: write a string in quotes, as in '\"text\"'"
        ) from None
    _check_numbers(key, value)
    text = exactjson.dump(value)
    if len(text.encode()) > VALUE_MAX_BYTES:
        raise TooLarge(f"config {key} is over {VALUE_MAX_BYTES} bytes")
    return text


def check_readable(service: str, snapshot: Snapshot) -> None:
    """Raises `TooLarge` when a client, which reads a snapshot with all its limits, would refuse this one."""
    try:
        wire.read_snapshot(wire.write_snapshot(snapshot, "now"), snapshot.public)
    except BadAnswer as error:
        raise TooLarge(
            f"no client could read {service} any more: {error.detail}",
            "delete what is not used, or keep large values elsewhere",
        ) from None


def _check_numbers(key: str, value: object) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_numbers(key, item)
    elif isinstance(value, DecimalText | int):
        try:
            too_large = abs(float(value)) > NUMBER_MAX
        except OverflowError:
            too_large = True
        if too_large:
            raise BadRequest(f"config {key} holds a number over {NUMBER_MAX}, which not every client can read")
