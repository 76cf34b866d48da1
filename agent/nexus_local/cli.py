"""The command `nexus-local`: serve an embedded Nexus, and administer it whether it runs or not."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nexus_agent import __version__
from nexus_agent.cli import fail, raise_internal
from nexus_agent.errors import BadSettings, NexusError

_PROGRAM = "nexus-local"
_NOTICE = (
    "nexus-local is a real, small Nexus for development, tests and isolated sites. It is not the hosted service: "
    "back up its data directory, key and database apart from each other."
)

F = TypeVar("F", bound=Callable[..., Any])


def _default_data() -> str:
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "nexus-local")


def _directory(_: click.Context, __: click.Parameter, value: str) -> Path:
    if not value:
        raise click.BadParameter("is empty: name a directory, or leave it out")
    return Path(value).absolute()


_data = click.option(
    "--data",
    callback=_directory,
    envvar="NEXUS_LOCAL_DATA",
    default=_default_data,
    help="Data directory. [default: $NEXUS_LOCAL_DATA or $XDG_DATA_HOME/nexus-local]",
)


def _common(function: F) -> F:
    """The two options that every command of administration takes, after its verb."""
    return _data(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=_PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """An embedded Nexus: secrets, configs and flags of services, in one directory.

    \b
    nexus-local serve                               answer agents and SDKs
    nexus-local service create shop                 a service; prints its keys, this once
    nexus-local secret set shop db:password         the value comes from standard input
    nexus-local config set shop api.timeout_ms 1500
    nexus-local flag set shop new.checkout on

    Every command but serve works whether the server runs or not.
    """


@commands.command()
@_data
@click.option("--listen", "where", default="127.0.0.1:8484", show_default=True, help="HOST:PORT or unix:PATH.")
def serve(data: Path, where: str) -> None:
    """Serve until SIGTERM or SIGINT. One JSON line on standard output says that it is ready, and its endpoint."""
    import asyncio

    from nexus_agent import log, signals
    from nexus_local import server

    def ready(endpoint: str) -> None:
        print(json.dumps({"endpoint": endpoint, "data": str(data), "pid": os.getpid()}), flush=True)

    async def answer() -> None:
        with signals.stop_event() as stop:
            await server.serve(data, server.address(where), stop, ready)

    log.configure()
    click.echo(_NOTICE, err=True)
    asyncio.run(answer())


@commands.group()
def service() -> None:
    """Services and their keys."""


@service.command("create")
@_common
@click.argument("name")
@click.option("--kind", type=click.Choice(["backend", "frontend"]), default="backend", show_default=True)
@click.option("--environment", default="develop", show_default=True)
def service_create(data: Path, as_json: bool, name: str, kind: str, environment: str) -> None:
    """Make a service, and print its keys: they are shown this once and kept as hashes."""
    made = _ask(data, "service.create", name=name, kind=kind, environment=environment)
    _print(made, as_json, "\n".join(f"{label:<12} {text}" for label, text in made.items()))


@service.command("list")
@_common
def service_list(data: Path, as_json: bool) -> None:
    """List the services."""
    listed = _ask(data, "service.list")
    lines = (f"{s['service']}  {s['kind']}  {s['environment']}" for s in listed["services"])
    _print(listed, as_json, "\n".join(lines))


@commands.group()
def secret() -> None:
    """Secrets, in versions."""


@secret.command("set")
@_common
@click.argument("service")
@click.argument("key")
@click.option("--type", "kind", type=click.Choice(["text", "file"]), default="text", show_default=True)
@click.option("--from", "source", default="-", metavar="FILE|-", help="Where the value is read. [default: -]")
@click.option("--description", default="", help="A note about this version.")
def secret_set(data: Path, as_json: bool, service: str, key: str, kind: str, source: str, description: str) -> None:
    """Write a new version of a secret, read from standard input or a file, byte for byte.

    A final newline is part of the value: printf %s "$value" has none, echo has one.
    """
    value = _encoded(_read(source))
    done = _ask(data, "secret.set", service=service, key=key, value=value, type=kind, description=description)
    _print(done, as_json, f"{service}: secret {key} is now version {done['version']}")


@secret.command("list")
@_common
@click.argument("service")
def secret_list(data: Path, as_json: bool, service: str) -> None:
    """List keys, types and versions; no values."""
    listed = _ask(data, "secret.list", service=service)
    lines = (f"{s['key']}  {s['type']}  version {s['version']}  {s['description']}".rstrip() for s in listed["secrets"])
    _print(listed, as_json, "\n".join(lines))


@secret.command("get")
@_common
@click.argument("service")
@click.argument("key")
def secret_get(data: Path, as_json: bool, service: str, key: str) -> None:
    """Write the value to standard output, byte for byte; with --json in base64."""
    secret = _ask(data, "secret.get", service=service, key=key)
    if as_json:
        _print(secret, as_json, "")
    else:
        from nexus_local.admin import decoded

        sys.stdout.buffer.write(decoded(secret["value"]))


@secret.command("history")
@_common
@click.argument("service")
@click.argument("key")
@click.option("--reveal", is_flag=True, help="Show the values as well; the audit says so.")
def secret_history(data: Path, as_json: bool, service: str, key: str, reveal: bool) -> None:
    """Show the versions of a secret, newest first."""
    history = _ask(data, "secret.history", service=service, key=key, reveal=reveal)
    _print(history, as_json, "\n".join(_version_line(version) for version in history["versions"]))


@secret.command("delete")
@_common
@click.argument("service")
@click.argument("key")
@click.option("--version", type=click.IntRange(1, 999_999_999), help="Only this version.")
def secret_delete(data: Path, as_json: bool, service: str, key: str, version: int | None) -> None:
    """Delete a secret with all its versions, or one version: then the newest that is left is the active one."""
    done = _ask(data, "secret.delete", service=service, key=key, version=version)
    _print(done, as_json, f"{service}: deleted {key}{f' version {version}' if version else ''}")


@commands.group()
def config() -> None:
    """Configs: JSON values that may refer to secrets, configs and flags."""


@config.command("set", context_settings={"ignore_unknown_options": True})
@_common
@click.argument("service")
@click.argument("key")
@click.argument("value", metavar="JSON")
def config_set(data: Path, as_json: bool, service: str, key: str, value: str) -> None:
    """Set a config: a number, true, false, '"text"', an object or a list.

    Strings may hold {{secret:KEY}}, {{config:KEY}} and {{flag:KEY}}; what does not resolve is refused.
    """
    raw = value.encode("utf-8", "surrogateescape")
    done = _ask(data, "config.set", service=service, key=key, value=_encoded(raw))
    _print(done, as_json, f"{service}: config {key} is set")


@config.command("list")
@_common
@click.argument("service")
def config_list(data: Path, as_json: bool, service: str) -> None:
    """List the configs as they were written, references unresolved."""
    listed = _ask(data, "config.list", service=service)
    _print(listed, as_json, "\n".join(f"{key} = {value}" for key, value in listed["configs"].items()))


@config.command("delete")
@_common
@click.argument("service")
@click.argument("key")
def config_delete(data: Path, as_json: bool, service: str, key: str) -> None:
    """Delete a config that no other one refers to."""
    _delete(data, as_json, service, "config", key)


@commands.group()
def flag() -> None:
    """Feature flags."""


@flag.command("set")
@_common
@click.argument("service")
@click.argument("key")
@click.argument("value", type=click.Choice(["on", "off"]))
def flag_set(data: Path, as_json: bool, service: str, key: str, value: str) -> None:
    """Switch a flag on or off; make it if it is new."""
    done = _ask(data, "flag.set", service=service, key=key, active=value == "on")
    _print(done, as_json, f"{service}: flag {key} is {value}")


@flag.command("list")
@_common
@click.argument("service")
def flag_list(data: Path, as_json: bool, service: str) -> None:
    """List the flags."""
    listed = _ask(data, "flag.list", service=service)
    _print(listed, as_json, "\n".join(f"{key} {'on' if on else 'off'}" for key, on in listed["flags"].items()))


@flag.command("delete")
@_common
@click.argument("service")
@click.argument("key")
def flag_delete(data: Path, as_json: bool, service: str, key: str) -> None:
    """Delete a flag that no config refers to."""
    _delete(data, as_json, service, "flag", key)


@commands.command()
@_common
@click.option("--service", default=None, help="Only this service.")
def audit(data: Path, as_json: bool, service: str | None) -> None:
    """Show who changed or read what, oldest first; never a value."""
    listed = _ask(data, "audit.list", service=service)
    fields = ("at", "service", "event", "key", "version", "actor")
    lines = ("  ".join(str(row[name]) for name in fields if row[name] is not None) for row in listed["audit"])
    _print(listed, as_json, "\n".join(lines))


def main() -> None:
    """Run the command of this process, and end it with the exit status that the errors carry."""
    try:
        commands(prog_name=_PROGRAM)
    except NexusError as error:
        fail(_PROGRAM, error)
    except Exception as error:
        raise_internal(_PROGRAM, error)


def _ask(data: Path, operation: str, **arguments: Any) -> dict[str, Any]:
    from nexus_local import admin

    return admin.ask(data, operation, arguments)


def _delete(data: Path, as_json: bool, service: str, group: str, key: str) -> None:
    done = _ask(data, "entry.delete", service=service, group=group, key=key)
    _print(done, as_json, f"{service}: deleted {group} {key}")


def _read(source: str) -> bytes:
    if source == "-":
        if sys.stdin.isatty():
            click.echo("Type the value, then Ctrl-D:", err=True)
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise BadSettings(f"{source}: cannot be read: {error.strerror}", "name the file that holds the value") from None


def _encoded(value: bytes) -> str:
    from nexus_local.admin import encoded

    return encoded(value)


def _version_line(version: dict[str, Any]) -> str:
    from nexus_local.admin import decoded

    line = f"{'*' if version['active'] else ' '} {version['version']}  {version['created_at']}  {version['type']}"
    line += f"  {version['description']}" if version["description"] else ""
    return line + (f"\n{decoded(version['value']).decode()}" if "value" in version else "")


def _print(document: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(document))
    elif text:
        print(text)
