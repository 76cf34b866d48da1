"""Conformance vectors: one file a case, a head of `name: value` lines, `---`, and then the bytes as they stand."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "vectors"


@dataclass(frozen=True)
class Vector:
    """One case. `head` has its expectations by name."""

    name: str
    head: dict[str, str]
    body: bytes

    @property
    def expect(self) -> str:
        """The class of what must come of it."""
        return self.head["expect"]

    def data(self, name: str) -> Any:
        """An expectation that is JSON."""
        return json.loads(self.head[name])


def load(folder: str) -> list[Vector]:
    """All vectors of one folder, by name."""
    vectors = []
    for path in sorted((FOLDER / folder).iterdir()):
        head, _, body = path.read_bytes().partition(b"---\n")
        lines = (line.partition(": ") for line in head.decode().splitlines())
        vectors.append(Vector(path.name, {name: value for name, _, value in lines}, body))
    return vectors
