"""What is wrong with a settings file, in sentences: which line, which key, which near miss, and never a value."""

import re
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]


def report(
    document: type[BaseModel], error: ValidationError, text: str, where: str, prefix: str, more: list[str]
) -> tuple[str, str]:
    """Detail and hint for all problems that pydantic found, and for `more` that were found before.

    `text` is the file's content, `where` its name; what is not in the file came from a variable that starts with
    `prefix`.
    """
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        location: Location = item["loc"]
        line = line_of(text, location)
        dotted = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        variable = prefix + "__".join(str(part) for part in location).upper()
        place = f"{where}:{line}: {dotted}" if line else f"{variable} in the environment"
        problems.append(f"{place}: {_reason(document, location, item['type'], item['msg'])}")
    return describe(problems + more)


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
    if kind == "missing":
        return "is missing"
    return message.removeprefix("Value error, ")


def _keys(document: type[BaseModel], location: Location) -> list[str]:
    model: Any = document
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next((a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)), annotation)
    return sorted(model.model_fields)
