"""What keeps `nexus-run` from starting a program."""


class Failed(Exception):
    """One reason: a stable `code`, `what` is wrong, a `hint` on what to do, and the exit status."""

    def __init__(self, code: str, what: str, hint: str, status: int = 125) -> None:
        super().__init__(code)
        self.code = code
        self.what = what
        self.hint = hint
        self.status = status

    def __str__(self) -> str:
        """The one line that is said: whatever a terminal would obey, and every further line, is escaped."""
        line = ": ".join(part for part in (f"nexus-run: {self.code}", self.what, self.hint) if part)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def shown(raw: bytes) -> str:
    """Bytes of the caller's, for a line that is printed."""
    return raw.decode("utf-8", "backslashreplace")
