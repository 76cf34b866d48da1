"""One flat tree of errors.

Each class knows its stable code, the exit status of a command that ends with it, and the HTTP status of a socket answer
that carries it. An error holds what is wrong (`detail`) and what to do next (`hint`), and never a value.
"""

from typing import ClassVar


class NexusError(Exception):
    """What every error of ours is: a stable `code`, a `detail` without values, and a `hint` that may be empty."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 70
    http_status: ClassVar[int] = 500

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """One line for a terminal: `code: detail: hint`."""
        return ": ".join(part for part in (self.code, self.detail, self.hint) if part)


class BadSettings(NexusError):
    """A settings file, an environment variable or a file that the settings name cannot be used."""

    code, exit_status = "settings", 78


class BadRequest(NexusError):
    """The request itself is wrong, whoever sends it."""

    code, exit_status, http_status = "bad_request", 2, 400


class TemplateError(NexusError):
    """A template is wrong, names something that does not exist, or refers to itself."""

    code, exit_status, http_status = "template_error", 1, 422


class Denied(NexusError):
    """The caller may not do this. Says nothing about whether what was asked for exists."""

    code, exit_status, http_status = "denied", 77, 403


class PublicKeyRestricted(NexusError):
    """A public key was used where only a secret key may go."""

    code, exit_status, http_status = "public_key_restricted", 77, 403


class ServiceKindMismatch(NexusError):
    """A frontend service was asked for what only backend services have."""

    code, exit_status, http_status = "service_kind_mismatch", 77, 403


class NotFound(NexusError):
    """There is no such path, service or key."""

    code, exit_status, http_status = "not_found", 1, 404


class MethodNotAllowed(NexusError):
    """The path exists, the method on it does not. `allow` lists those that do."""

    code, exit_status, http_status = "method_not_allowed", 2, 405

    def __init__(self, detail: str, allow: tuple[str, ...]) -> None:
        super().__init__(detail, hint=f"use {' or '.join(allow)}")
        self.allow = allow


class Conflict(NexusError):
    """The change does not fit what is already there."""

    code, exit_status, http_status = "conflict", 1, 409


class TooLarge(NexusError):
    """A value, a request or a whole snapshot is over its limit."""

    code, exit_status, http_status = "too_large", 1, 413


class NameCollision(NexusError):
    """Two keys give one environment name."""

    code, exit_status, http_status = "name_collision", 1, 422


class ForbiddenName(NexusError):
    """A key would set an environment name that changes how programs run, or a value that no environment can hold."""

    code, exit_status, http_status = "forbidden_name", 1, 422


class NotReady(NexusError):
    """The agent has no values of this service yet."""

    code, exit_status, http_status = "not_ready", 75, 503


class NotFresh(NexusError):
    """Nexus could not be asked in time."""

    code, exit_status, http_status = "not_fresh", 75, 504


class Quarantined(NexusError):
    """Nexus quarantined the key, or asked for patience: nothing is sent until that is over."""

    code, exit_status, http_status = "quarantined", 75, 503


class AgentUnreachable(NexusError):
    """No agent answers on the socket."""

    code, exit_status = "agent_unreachable", 69


class AlreadyRunning(NexusError):
    """Another process holds the socket, the runtime directory or the database."""

    code, exit_status = "already_running", 75


class BadAnswer(NexusError):
    """Nexus, or what claims to be Nexus, sent something that cannot be used."""

    code, exit_status, http_status = "bad_answer", 1, 502


class VaultError(NexusError):
    """A sealed value does not open: its key file is not the one it was sealed with, or a row was changed."""

    code, exit_status, http_status = "unsealable", 70, 500


class Busy(NexusError):
    """Somebody else is at work on it right now."""

    code, exit_status, http_status = "busy", 75, 503


class StorageFailed(NexusError):
    """The disk or the database on it refused: full, read-only, damaged."""

    code, exit_status, http_status = "storage_failed", 75, 503


def place_of(error: BaseException) -> str:
    """Where a fault happened, as `file.py:12`: what may be told of an error whose text may hold data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def revive(code: object, detail: object, hint: object = "") -> NexusError:
    """The error that another process of ours told in words: the same class, so with the same exit status."""
    kinds = {kind.code: kind for kind in NexusError.__subclasses__() if kind is not MethodNotAllowed}
    return kinds.get(str(code), NexusError)(str(detail), str(hint))
