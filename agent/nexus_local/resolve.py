"""Configs with references, resolved: `{{secret:KEY}}`, `{{config:KEY}}` and `{{flag:KEY}}` in any string of a value.

Configs that refer to configs can grow with each step, so a size is checked before anything of that size is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from nexus_agent import exactjson, template, wire
from nexus_agent.errors import TemplateError, TooLarge
from nexus_agent.exactjson import DecimalText
from nexus_agent.model import VALUE_MAX_BYTES, Config, Sensitive
from nexus_agent.template import Reference

# With a value nested as deeply as a snapshot may be, it stays far below the interpreter's limit.
MAX_DEPTH: Final = 16


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config's value as compact JSON, whether a secret went into it, and over how many configs it refers."""

    json: Sensitive[str]
    reaches_secret: bool
    depth: int


@dataclass(slots=True)
class _Filling:
    """What is known so far of a config whose references are being filled in. `size` is in characters."""

    key: str
    size: int = 0
    reaches_secret: bool = False
    depth: int = 1


class Resolver:
    """Resolves the configs of one service. `configs` holds their JSON text, `secret` gives a secret's value by key.

    `resolve` raises `TemplateError` for an unknown key, for a cycle, which it shows, and for more than 16 configs in
    a row; `TooLarge` for what no client would read.
    """

    def __init__(
        self, configs: Mapping[str, str], flags: Mapping[str, bool], secret: Callable[[str], str | None]
    ) -> None:
        self._configs = configs
        self._flags = flags
        self._secret = secret
        self._done: dict[str, Resolved] = {}
        self._path: list[str] = []
        self._total = 0

    def resolve(self, key: str) -> Resolved:
        """The config `key` with everything that it refers to."""
        if key in self._done:
            return self._done[key]
        if key in self._path:
            cycle = " -> ".join([*self._path[self._path.index(key) :], key])
            raise TemplateError(f"configs refer to each other in a circle: {cycle}", "break it at one of them")
        self._path.append(key)
        filling = _Filling(key)
        self._check_depth(filling, len(self._path))
        json = exactjson.dump(self._filled(exactjson.load(self._configs[key].encode()), filling))
        self._path.pop()
        self._total += len(json)
        if self._total > wire.BODY_MAX_BYTES:
            raise TooLarge(f"all configs together would be over {wire.BODY_MAX_BYTES} bytes", "delete what is not used")
        self._done[key] = Resolved(Sensitive(json), filling.reaches_secret, filling.depth)
        return self._done[key]

    def _filled(self, value: object, filling: _Filling) -> object:
        if isinstance(value, dict):
            return {name: self._filled(item, filling) for name, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item, filling) for item in value]
        if isinstance(value, str) and not isinstance(value, DecimalText):
            try:
                parsed = template.parse(value)
            except TemplateError as error:
                raise TemplateError(f"config {filling.key}: {error.detail}", error.hint) from None
            return parsed.render(lambda reference: self._text(reference, filling))
        return value

    def _text(self, reference: Reference, filling: _Filling) -> str:
        text = self._looked_up(reference, filling)
        if text is None:
            raise TemplateError(
                f"config {filling.key}: there is no {reference.kind} {reference.key}",
                "set it first, or correct the reference",
            )
        filling.size += len(text)
        if filling.size > VALUE_MAX_BYTES:
            raise TooLarge(
                f"config {filling.key} would be over {VALUE_MAX_BYTES} bytes with what it refers to",
                "refer to less, or to smaller values",
            )
        return text

    def _looked_up(self, reference: Reference, filling: _Filling) -> str | None:
        if reference.kind == "secret":
            filling.reaches_secret = True
            return self._secret(reference.key)
        if reference.kind == "flag":
            active = self._flags.get(reference.key)
            return None if active is None else ("true" if active else "false")
        if reference.key not in self._configs:
            return None
        inner = self.resolve(reference.key)
        filling.reaches_secret |= inner.reaches_secret
        filling.depth = max(filling.depth, inner.depth + 1)
        self._check_depth(filling, filling.depth)
        return Config(inner.json).text()

    def _check_depth(self, filling: _Filling, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise TemplateError(
                f"config {filling.key}: configs refer to configs over more than {MAX_DEPTH} steps", "shorten the chain"
            )
