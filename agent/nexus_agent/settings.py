"""The only reader of the environment and of `agent.toml`: both become one frozen value.

Order: `NEXUS_AGENT_<SECTION>__<KEY>` in the environment, then the file, then the default. Unknown keys are refused. All
problems are reported at once, each with its line, and none with a value.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from nexus_agent import settings_fields
from nexus_agent.cadence import Pace
from nexus_agent.errors import BadSettings
from nexus_agent.model import Sensitive
from nexus_agent.settings_report import Places, describe, report

DEFAULT_FILE: Final = Path("/etc/nexus-agent/agent.toml")
PREFIX: Final = "NEXUS_AGENT_"


class SourceKind(Enum):
    """The places that a credential may come from."""

    CREDENTIAL = "credential"
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


# What Kubernetes puts into the environment of every pod where a Service is called nexus-agent.
_OF_KUBERNETES: Final = re.compile(r"NEXUS_AGENT_(SERVICE_HOST|SERVICE_PORT\w*|PORT\w*)")

_Seconds = Annotated[float, BeforeValidator(settings_fields.seconds)]
_Mode = Annotated[int, BeforeValidator(settings_fields.mode)]
_Path = Annotated[Path, AfterValidator(settings_fields.absolute_path)]
_Group = Annotated[int | None, BeforeValidator(settings_fields.group)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Upstream(_Section):
    ca_file: _Path | None = None
    proxy: Annotated[str | None, BeforeValidator(settings_fields.proxy)] = None
    poll: _Seconds | None = None
    poll_without_stream: _Seconds | None = None


class _Service(_Upstream):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
    endpoint: Annotated[str | None, BeforeValidator(settings_fields.endpoint)] = None
    environment: str = ""
    credential: Annotated[str | None, BeforeValidator(settings_fields.credential)] = None


class _Runtime(_Section):
    directory: _Path | None = None
    allow_disk: bool = False


class _Policy(_Section):
    allow_empty: bool = False


class _Socket(_Section):
    path: _Path | None = None
    mode: _Mode = 0o666
    group: _Group = None


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
    document, places = _document(config)
    problems: list[str] = []
    services = document.service or _service_of_environment(places)
    names = [service.name for service in services]
    for index, name in enumerate(names):
        if name in names[:index]:
            problems.append(f"{places.of(('service', index, 'name'))}: is the name of an earlier service as well")
    resolved = [_service(service, document, places, index, problems) for index, service in enumerate(services)]
    if problems:
        raise BadSettings(*describe(problems))
    runtime = _runtime_directory(document.runtime.directory, places.environ)
    path = document.socket.path or runtime / "agent.sock"
    if len(os.fsencode(path)) > settings_fields.SOCKET_PATH_BYTES:
        raise BadSettings(
            f"{path}: over {settings_fields.SOCKET_PATH_BYTES} bytes, too long for a socket",
            "set socket.path to a shorter one",
        )
    return Settings(
        services=tuple(service for service in resolved if service is not None),
        runtime_directory=runtime,
        allow_disk=document.runtime.allow_disk,
        socket=Socket(path, document.socket.mode, document.socket.group),
    )


def socket_path(config: Path | None = None) -> Path:
    """Where an agent is to be asked. Services and keys are not looked at: whoever asks need not be able to read what
    the agent can, and without settings of his own he finds it where `nexus-run` does."""
    document, places = _document(config, asking=True)
    environ = places.environ
    runtime = document.runtime.directory
    if document.socket.path or runtime or environ.get("RUNTIME_DIRECTORY"):
        return document.socket.path or _runtime_directory(runtime, environ) / "agent.sock"
    own = Path(environ.get("XDG_RUNTIME_DIR") or "/run", "nexus-agent", "agent.sock")
    return own if own.exists() else Path("/run/nexus-agent/agent.sock")


def user_runtime_directory() -> str | None:
    """`XDG_RUNTIME_DIR`, for commands that need a place of their own."""
    return os.environ.get("XDG_RUNTIME_DIR")


def environment_of_a_child() -> dict[str, str]:
    """The environment for a `nexus-run` that is started with options: its own variables would contradict them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_RUN_")}


def _read(named: Path | None, asking: bool) -> str:
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
        if asking and named is None:
            return ""
        raise BadSettings(f"{path}: cannot be read: {error.strerror}", "check its owner and mode") from None


def _document(config: Path | None, asking: bool = False) -> tuple[_Document, Places]:
    """What is written in file and environment. Whoever is only `asking` may not be able to read the default file."""
    environ = os.environ
    named = config or (Path(environ["NEXUS_AGENT_CONFIG"]) if environ.get("NEXUS_AGENT_CONFIG") else None)
    places = Places(_read(named, asking), str(named or DEFAULT_FILE), PREFIX, environ)
    try:
        table = tomllib.loads(places.text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{places.where}: no valid TOML: {error}", "correct the line") from None
    except RecursionError:
        raise BadSettings(f"{places.where}: nests too deeply", "a settings file has sections and keys") from None
    unknown = _unknown_variables(environ)
    try:
        document = _Document(**table)
    except ValidationError as error:
        raise BadSettings(*describe(report(_Document, error, places) + unknown)) from None
    except SettingsError:
        raise BadSettings(
            f"no JSON in one of {', '.join(sorted(name for name in environ if name.upper() in _sections()))}",
            "set NEXUS_AGENT_<SECTION>__<KEY> for one key; NEXUS_AGENT_SERVICE takes a JSON list of tables",
        ) from None
    if unknown:
        raise BadSettings(*describe(unknown))
    return document, places


def _sections() -> set[str]:
    """The variables that hold a whole section."""
    return {f"{PREFIX}{name.upper()}" for name in _Document.model_fields}


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    sections = _sections()
    mine = (name for name in environ if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG")
    return [
        f"{name}: there is no such section; they are {', '.join(sorted(sections))}"
        for name in sorted(mine)
        if name.split("__")[0].upper() not in sections and not _OF_KUBERNETES.fullmatch(name)
    ]


def _service_of_environment(places: Places) -> tuple[_Service, ...]:
    if not places.environ.get("WESTYX_SERVICE_ENDPOINT", "").strip():
        raise BadSettings(
            f"no service: {places.where} has no [[service]] and WESTYX_SERVICE_ENDPOINT is not set",
            "write a [[service]] with name, endpoint and credential, or set WESTYX_SERVICE_ENDPOINT and NEXUS_API_KEY",
        )
    return (_Service(name="default"),)


def _service(service: _Service, document: _Document, places: Places, index: int, problems: list[str]) -> Service | None:
    endpoint = service.endpoint
    if endpoint is None:
        given = places.environ.get("WESTYX_SERVICE_ENDPOINT", "").strip()
        try:
            endpoint = str(settings_fields.endpoint(given))
        except ValueError as error:
            missing = f"{places.of(('service', index))}: has no endpoint, and WESTYX_SERVICE_ENDPOINT is not set"
            problems.append(f"WESTYX_SERVICE_ENDPOINT in the environment: {error}" if given else missing)
            return None
    source = _source(service, places, index, problems)
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


def _source(service: _Service, places: Places, index: int, problems: list[str]) -> CredentialSource | None:
    label = service.credential or "env:NEXUS_API_KEY"
    place = places.of(("service", index, "credential")) if service.credential else f"service {service.name}"
    kind, _, rest = label.partition(":")
    if kind == "file":
        return CredentialSource(SourceKind.FILE, label, path=Path(rest))
    if kind == "fd":
        return CredentialSource(SourceKind.DESCRIPTOR, label, descriptor=int(rest))
    if kind == "credential":
        directory = places.environ.get("CREDENTIALS_DIRECTORY")
        if directory:
            return CredentialSource(SourceKind.CREDENTIAL, label, path=Path(directory, rest))
        problems.append(f"{place}: CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit with LoadCredential=")
        return None
    value = places.environ.get(rest, "")
    # Somebody may have written the key itself where the name of a variable belongs.
    name = rest if rest.isupper() else "that it names"
    if value.strip():
        return CredentialSource(SourceKind.VALUE, f"env:{name}", value=Sensitive(value))
    advice = "set it, or give the service a credential" if service.credential is None else "set it"
    problems.append(f"{place}: the environment variable {name} is not set or empty; {advice}")
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
