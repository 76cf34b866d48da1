"""References in text: `{{secret:KEY}}`, `{{config:KEY}}` and `{{flag:KEY}}`, parsed once and rendered in one pass.

Blanks inside the braces are allowed, and `\\{{` stands for a literal `{{`. Whatever else begins with `{{` is an error
with its line and column, so that a slip of the pen never ends in a program's settings. Values are data: what a
reference gives is not looked at again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from nexus_agent.errors import TemplateError
from nexus_agent.model import is_key

Kind = Literal["secret", "config", "flag"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_OPENING = re.compile(r"\\\{\{|\{\{")
_REFERENCE = re.compile(r"\{\{[ \t]*([a-z]+):([^\s{}|]*)[ \t]*\}\}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference and where it stands, both counted from 1."""

    kind: Kind
    key: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.key}"


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text: literal pieces and references in their order."""

    parts: tuple[str | Reference, ...]

    def render(self, lookup: Callable[[Reference], str]) -> str:
        """The text with each reference replaced by what `lookup` gives for it."""
        return "".join(part if isinstance(part, str) else lookup(part) for part in self.parts)


def parse(text: str) -> Template:
    """Split `text` at its references. Raises `TemplateError`, with line and column, for what only looks like one."""
    parts: list[str | Reference] = []
    position = 0
    while opening := _OPENING.search(text, position):
        parts.append(text[position : opening.start()])
        if opening.group().startswith("\\"):
            parts.append("{{")
            position = opening.end()
        else:
            reference, position = _reference(text, opening.start())
            parts.append(reference)
    parts.append(text[position:])
    return Template(tuple(part for part in parts if part))


def _reference(text: str, start: int) -> tuple[Reference, int]:
    line = text.count("\n", 0, start) + 1
    column = start - (text.rfind("\n", 0, start) + 1) + 1
    where = f"line {line}, column {column}"
    match = _REFERENCE.match(text, start)
    if match is None:
        raise TemplateError(
            f"{where}: this begins like a reference but is none",
            "write {{secret:KEY}}, {{config:KEY}} or {{flag:KEY}}, or \\{{ for two literal braces",
        )
    kind, key = match.groups()
    if kind not in KINDS:
        raise TemplateError(f"{where}: there is no kind '{kind}' of reference", f"use one of {', '.join(KINDS)}")
    if not is_key(key):
        raise TemplateError(f"{where}: '{key}' cannot be the name of a {kind}")
    return Reference(next(k for k in KINDS if k == kind), key, line, column), match.end()
