"""The only reader of the environment and of `agent.toml`: both become one frozen value.

Order: `NEXUS_AGENT_<SECTION>__<KEY>` in the environment, then the file, then the default. Unknown keys are refused. All
problems are reported at once, each with its line, and none with a value.
"""

import grp
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from nexus_agent import settings_fields
from nexus_agent.cadence import Pace
from nexus_agent.errors import BadSettings
from nexus_agent.model import Sensitive
from nexus_agent.settings_report import describe, report

DEFAULT_FILE: Final = Path("/etc/nexus-agent/agent.toml")
PREFIX: Final = "NEXUS_AGENT_"


class SourceKind(Enum):
    """The places that a credential may come from."""

    FILE = "file"
    DESCRIPTOR = "fd"
    VALUE = "env"


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """Where the key of a service is read; `label` is how the settings name it."""

    kind: SourceKind
    label: str
    path: Path = Path()
    descriptor: int = -1
    value: Sensitive[str] = field(default_factory=lambda: Sensitive(""))


@dataclass(frozen=True, slots=True)
class Service:
    """One service to keep: where it is, with what key, how often and through what it is asked."""

    name: str
    endpoint: str
    environment: str
    credential: CredentialSource
    ca_file: Path | None
    proxy: str | None
    pace: Pace
    allow_empty: bool


@dataclass(frozen=True, slots=True)
class Socket:
    """The local socket: its path, its mode, and the group (a gid) whose members may read everything."""

    path: Path
    mode: int
    group: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run of the agent is told."""

    services: tuple[Service, ...]
    runtime_directory: Path
    allow_disk: bool
    socket: Socket


_Seconds = Annotated[float, BeforeValidator(settings_fields.seconds), Field(ge=1)]
_Mode = Annotated[int, BeforeValidator(settings_fields.mode), Field(ge=0, le=0o777)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Upstream(_Section):
    ca_file: Path | None = None
    proxy: Annotated[str | None, BeforeValidator(settings_fields.proxy)] = None
    poll: _Seconds | None = None
    poll_without_stream: _Seconds | None = None


class _Service(_Upstream):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
    endpoint: Annotated[str | None, BeforeValidator(settings_fields.endpoint)] = None
    environment: str = ""
    credential: Annotated[str | None, BeforeValidator(settings_fields.credential)] = None


class _Runtime(_Section):
    directory: Path | None = None
    allow_disk: bool = False


class _Policy(_Section):
    allow_empty: bool = False


class _Socket(_Section):
    path: Path | None = None
    mode: _Mode = 0o666
    group: str | int | None = None


class _Document(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    service: tuple[_Service, ...] = ()
    runtime: _Runtime = _Runtime()
    upstream: _Upstream = _Upstream()
    policy: _Policy = _Policy()
    socket: _Socket = _Socket()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


def load(config: Path | None = None) -> Settings:
    """The settings of this process. `config` goes before `NEXUS_AGENT_CONFIG` and the default file.

    Raises `BadSettings` with every problem of the file and the environment.
    """
    environ = os.environ
    named = config or (Path(environ["NEXUS_AGENT_CONFIG"]) if environ.get("NEXUS_AGENT_CONFIG") else None)
    text = _read(named)
    where = str(named or DEFAULT_FILE)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{where}: no valid TOML: {error}", "correct the line") from None
    unknown = _unknown_variables(environ)
    try:
        document = _Document(**table)
    except ValidationError as error:
        raise BadSettings(*report(_Document, error, text, where, PREFIX, unknown)) from None
    except SettingsError:
        raise BadSettings(
            "a NEXUS_AGENT_ variable of a whole section is no JSON",
            "set NEXUS_AGENT_<SECTION>__<KEY> for one key; NEXUS_AGENT_SERVICE takes a JSON list of tables",
        ) from None
    if unknown:
        raise BadSettings(*describe(unknown))
    return _resolve(document, environ, where)


def socket_path(config: Path | None = None) -> Path:
    """Where the agent that these settings describe listens, even when no service is configured for this caller."""
    environ = os.environ
    if config or environ.get("NEXUS_AGENT_CONFIG") or DEFAULT_FILE.exists():
        return load(config).socket.path
    explicit = environ.get(f"{PREFIX}SOCKET__PATH")
    return Path(explicit) if explicit else _runtime_directory(None, environ) / "agent.sock"


def user_runtime_directory() -> str | None:
    """`XDG_RUNTIME_DIR`, for commands that need a place of their own."""
    return os.environ.get("XDG_RUNTIME_DIR")


def _read(named: Path | None) -> str:
    path = named or DEFAULT_FILE
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        if named is None:
            return ""
        raise BadSettings(f"{path}: there is no such file", "correct --config or NEXUS_AGENT_CONFIG") from None
    except UnicodeDecodeError:
        raise BadSettings(f"{path}: not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise BadSettings(f"{path}: cannot be read: {error.strerror}", "check its owner and mode") from None


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    sections = {f"{PREFIX}{name.upper()}" for name in _Document.model_fields}
    mine = (name for name in environ if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG")
    return [
        f"{name}: there is no such section; they are {', '.join(sorted(sections))}"
        for name in sorted(mine)
        if name.split("__")[0].upper() not in sections
    ]


def _resolve(document: _Document, environ: Mapping[str, str], where: str) -> Settings:
    problems: list[str] = []
    services = document.service or _service_of_environment(environ, where)
    names = [service.name for service in services]
    problems += [f"service {name}: configured twice" for name in sorted({n for n in names if names.count(n) > 1})]
    resolved = [_service(service, document, environ, problems) for service in services]
    group = _group(document.socket.group, problems)
    if problems:
        raise BadSettings(*describe([f"{where}: {problem}" for problem in problems]))
    runtime = _runtime_directory(document.runtime.directory, environ)
    path = document.socket.path or runtime / "agent.sock"
    for label, absolute in (("runtime.directory", runtime), ("socket.path", path)):
        if not absolute.is_absolute():
            raise BadSettings(f"{where}: {label}: needs an absolute path")
    return Settings(
        services=tuple(service for service in resolved if service is not None),
        runtime_directory=runtime,
        allow_disk=document.runtime.allow_disk,
        socket=Socket(path, document.socket.mode, group),
    )


def _service_of_environment(environ: Mapping[str, str], where: str) -> tuple[_Service, ...]:
    if not environ.get("WESTYX_SERVICE_ENDPOINT", "").strip():
        raise BadSettings(
            f"no service: {where} has no [[service]] and WESTYX_SERVICE_ENDPOINT is not set",
            "write a [[service]] with name, endpoint and credential, or set WESTYX_SERVICE_ENDPOINT and NEXUS_API_KEY",
        )
    return (_Service(name="default"),)


def _service(service: _Service, document: _Document, environ: Mapping[str, str], problems: list[str]) -> Service | None:
    endpoint = service.endpoint
    if endpoint is None:
        try:
            endpoint = str(settings_fields.endpoint(environ.get("WESTYX_SERVICE_ENDPOINT", "")))
        except ValueError as error:
            missing = not environ.get("WESTYX_SERVICE_ENDPOINT", "").strip()
            reason = "has no endpoint, and WESTYX_SERVICE_ENDPOINT is not set"
            problems.append(f"service {service.name}: {reason if missing else f'WESTYX_SERVICE_ENDPOINT {error}'}")
            return None
    source = _source(service, environ, problems)
    if source is None:
        return None
    shared, pace = document.upstream, Pace()
    return Service(
        name=service.name,
        endpoint=endpoint,
        environment=service.environment,
        credential=source,
        ca_file=service.ca_file or shared.ca_file,
        proxy=service.proxy or shared.proxy,
        pace=Pace(
            poll=service.poll or shared.poll or pace.poll,
            poll_without_stream=service.poll_without_stream or shared.poll_without_stream or pace.poll_without_stream,
        ),
        allow_empty=document.policy.allow_empty,
    )


def _source(service: _Service, environ: Mapping[str, str], problems: list[str]) -> CredentialSource | None:
    label = service.credential or "env:NEXUS_API_KEY"
    kind, _, rest = label.partition(":")
    if kind == "file":
        return CredentialSource(SourceKind.FILE, label, path=Path(rest))
    if kind == "fd":
        return CredentialSource(SourceKind.DESCRIPTOR, label, descriptor=int(rest))
    if kind == "credential":
        directory = environ.get("CREDENTIALS_DIRECTORY")
        if directory:
            return CredentialSource(SourceKind.FILE, label, path=Path(directory, rest))
        problems.append(
            f"service {service.name}: {label}: CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit"
        )
        return None
    value = environ.get(rest, "").strip()
    if value:
        return CredentialSource(SourceKind.VALUE, label, value=Sensitive(value))
    advice = "set it, or give the service a credential" if service.credential is None else "set it"
    problems.append(f"service {service.name}: the environment variable {rest} is not set or empty; {advice}")
    return None


def _group(group: str | int | None, problems: list[str]) -> int | None:
    if group is None or isinstance(group, int):
        return group
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        problems.append("socket.group: there is no such group on this machine")
        return None


def _runtime_directory(setting: Path | None, environ: Mapping[str, str]) -> Path:
    if setting is not None:
        return setting
    if environ.get("RUNTIME_DIRECTORY"):
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0])
    if os.geteuid() == 0:
        return Path("/run/nexus-agent")
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"], "nexus-agent")
    raise BadSettings(
        "no runtime directory: XDG_RUNTIME_DIR is not set",
        "set runtime.directory to a directory on tmpfs, or NEXUS_AGENT_RUNTIME__DIRECTORY",
    )
