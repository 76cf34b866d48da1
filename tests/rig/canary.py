"""One value that runs through the whole suite as a secret, and the search for it in everything that came out."""

import base64
from collections.abc import Iterator
from pathlib import Path

CANARY = "canary-3f9a51c07e-must-never-be-seen"


def forms(value: str = CANARY) -> tuple[bytes, ...]:
    """The value as it might show up: as it is, and inside base64 at each of the three offsets."""
    raw = value.encode()
    cores = []
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + raw)
        # The first and last group of four depend on the neighbours; what is between them does not.
        cores.append(text[4:-4])
    return (raw, raw.hex().encode(), *cores)


def found_in(data: bytes, value: str = CANARY) -> bool:
    """Whether any form of the value is in `data`."""
    return any(form in data for form in forms(value))


def search(directory: Path, value: str = CANARY) -> Iterator[Path]:
    """The files below `directory` that hold the value."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and found_in(path.read_bytes(), value):
            yield path
