"""What is wrong with settings, in sentences: which line or variable, which key, which near miss, and never a value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]

_REASONS = {
    "missing": "is missing",
    "tuple_type": "is a table that may be there several times: write it in double brackets, as in [[service]]",
    "model_type": "is a section: write its name in brackets on a line of its own, and its keys below",
    "dict_type": "is a section: write its name in brackets on a line of its own, and its keys below",
    "string_type": "has to be text, in quotes",
    "path_type": "has to be a path, in quotes",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "string_pattern_mismatch": "is no name: letters, digits, - and _, 63 at most, a letter or a digit first",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where settings came from: the text and the name of the file, and the variables that begin with `prefix`."""

    text: str
    where: str
    prefix: str
    environ: Mapping[str, str]

    def of(self, location: Location) -> str:
        """The variable that a key was set by, or else the line of the file, with the key's name."""
        variables = {name.upper() for name in self.environ if name.upper().startswith(self.prefix)}
        for length in range(len(location), 0, -1):
            variable = self.prefix + "__".join(str(part) for part in location[:length]).upper()
            if variable in variables:
                return f"{variable} in the environment"
            if inside := sorted(name for name in variables if name.startswith(f"{variable}__")):
                return f"{inside[0]} in the environment"
        dotted = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        line = line_of(self.text, location)
        return f"{self.where}:{line}: {dotted}" if line else f"{self.where}: {dotted}"


def report(document: type[BaseModel], error: ValidationError, places: Places) -> list[str]:
    """A sentence for each problem that pydantic found."""
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        reason = _reason(document, item["loc"], item["type"], item["msg"])
        problems.append(f"{places.of(item['loc'])}: {reason}")
    return problems


def describe(problems: list[str]) -> tuple[str, str]:
    """Detail and hint for one problem or many; many stand on lines of their own."""
    if len(problems) == 1:
        return problems[0], ""
    return f"{len(problems)} problems:\n  " + "\n  ".join(problems), ""


def line_of(text: str, location: Location) -> int:
    """The line, from 1, of a key in TOML text, of its table if the key itself is missing, or 0 if neither is there.

    Reads headers and the beginnings of assignments, which is all that a settings file has.
    """
    tables = [part for part in location if isinstance(part, str)]
    wanted = next((part for part in location if isinstance(part, int)), None)
    counts: dict[str, int] = {}
    current, index, header_line = "", None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.-]+)\s*\]", line):
            current = header[2]
            counts[current] = counts.get(current, -1) + 1
            index = counts[current] if header[1] == "[[" else None
            if tables[:1] == [current] and index == wanted:
                header_line = number
        elif assignment := re.match(r"\s*([\w.-]+)\s*=", line):
            path = [*([current] if current else []), *assignment[1].split(".")]
            if path == tables[: len(path)] and len(path) == len(tables) and index == wanted:
                return number
    return header_line


def _reason(document: type[BaseModel], location: Location, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        known = _keys(document, location[:-1])
        near = get_close_matches(str(location[-1]), known, 1)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return f"there is no such key; {advice}"
    return _REASONS.get(kind) or message.removeprefix("Value error, ")


def _keys(document: type[BaseModel], location: Location) -> list[str]:
    model: Any = document
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next((a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)), annotation)
    return sorted(model.model_fields)
