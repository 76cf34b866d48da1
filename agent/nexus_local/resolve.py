"""Configs with references, resolved: `{{secret:KEY}}`, `{{config:KEY}}` and `{{flag:KEY}}` in any string of a value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nexus_agent import exactjson, template
from nexus_agent.errors import TemplateError
from nexus_agent.exactjson import DecimalText
from nexus_agent.model import Sensitive
from nexus_agent.template import Reference


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config's value as compact JSON, and whether a secret went into it."""

    json: Sensitive[str]
    reaches_secret: bool


class Resolver:
    """Resolves the configs of one service. `configs` holds their JSON text, `secret` gives a secret's value by key.

    `resolve` raises `TemplateError` for an unknown key and for a cycle, which it shows.
    """

    def __init__(
        self, configs: Mapping[str, str], flags: Mapping[str, bool], secret: Callable[[str], str | None]
    ) -> None:
        self._configs = configs
        self._flags = flags
        self._secret = secret
        self._done: dict[str, Resolved] = {}
        self._path: list[str] = []

    def resolve(self, key: str) -> Resolved:
        """The config `key` with everything that it refers to."""
        if key in self._done:
            return self._done[key]
        if key in self._path:
            cycle = " -> ".join([*self._path[self._path.index(key) :], key])
            raise TemplateError(f"configs refer to each other in a circle: {cycle}", "break it at one of them")
        self._path.append(key)
        secrets: list[str] = []
        value = self._filled(key, exactjson.load(self._configs[key].encode()), secrets)
        self._path.pop()
        self._done[key] = Resolved(Sensitive(exactjson.dump(value)), bool(secrets))
        return self._done[key]

    def _filled(self, key: str, value: object, secrets: list[str]) -> object:
        if isinstance(value, dict):
            return {name: self._filled(key, item, secrets) for name, item in value.items()}
        if isinstance(value, list):
            return [self._filled(key, item, secrets) for item in value]
        if isinstance(value, str) and not isinstance(value, DecimalText):
            try:
                parsed = template.parse(value)
            except TemplateError as error:
                raise TemplateError(f"config {key}: {error.detail}", error.hint) from None
            return parsed.render(lambda reference: self._text(key, reference, secrets))
        return value

    def _text(self, key: str, reference: Reference, secrets: list[str]) -> str:
        if reference.kind == "secret":
            text = self._secret(reference.key)
            secrets.append(reference.key)
        elif reference.kind == "flag":
            active = self._flags.get(reference.key)
            text = None if active is None else ("true" if active else "false")
        elif reference.key in self._configs:
            inner = self.resolve(reference.key)
            secrets += [reference.key] if inner.reaches_secret else []
            text = _bare(inner.json.reveal())
        else:
            text = None
        if text is None:
            raise TemplateError(
                f"config {key}: there is no {reference.kind} {reference.key}", "set it first, or correct the reference"
            )
        return text


def _bare(json: str) -> str:
    return str(exactjson.load(json.encode())) if json.startswith('"') else json
