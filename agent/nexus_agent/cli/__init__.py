"""The command `nexus-agent`: words to a command, a command to an exit status.

Only click is imported here; what a command needs is imported when it runs, because start-up is imports.
"""

import contextlib
import os
import sys
from pathlib import Path

import click

from nexus_agent import __version__
from nexus_agent.errors import NexusError, place_of

_PROGRAM = "nexus-agent"

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),
    help="Settings file. [default: $NEXUS_AGENT_CONFIG or /etc/nexus-agent/agent.toml]",
)
service_option = click.option("--service", default="-", help="Which service; needed when there are several.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=_PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """Keep a service's secrets, configs and flags ready beside the application.

    \b
    nexus-agent dev -- env           try it: a Nexus, an agent and a program, all on this machine
    nexus-agent run                  the agent itself
    nexus-agent check                is everything right before I start it?
    nexus-agent status               how is it doing?
    nexus-agent get KEY              one secret, to standard output

    Exit status: 0 done, 1 the answer is no, 2 wrong use, 69 the agent is not there, 70 our fault,
    75 another one runs or try again, 77 denied, 78 settings.
    """


@commands.command()
@config_option
@click.option("--debug", is_flag=True, help="Log the steps of the stream as well.")
def run(config: Path | None, debug: bool) -> None:
    """Run the agent until SIGTERM or SIGINT."""
    import asyncio

    from nexus_agent import daemon, log, settings, signals

    async def keep() -> None:
        with signals.stop_event() as stop:
            await daemon.run(settings.load(config), stop)

    log.configure(debug)
    asyncio.run(keep())


@commands.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Check settings, credentials and the way to Nexus; report every problem at once, start nothing."""
    from nexus_agent.cli import checking

    sys.exit(checking.run(config, as_json))


@commands.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Show what the running agent knows about itself: generations, freshness, problems; never a value."""
    from nexus_agent.cli import ask

    ask.status(config, as_json)


@commands.command()
@config_option
@service_option
@click.argument("key")
def get(config: Path | None, service: str, key: str) -> None:
    """Write the value of the secret KEY to standard output, byte for byte."""
    from nexus_agent.cli import ask

    ask.get(config, service, key)


@commands.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, readable=False),
    help="Take the values of this .env or .json file instead of the ones made up here.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev(source: Path | None, command: tuple[str, ...]) -> None:
    """Start a Nexus and an agent in a private directory and run COMMAND with the values of service 'demo'.

    Without COMMAND both stay until Ctrl-C, and what to try is printed. Everything is gone afterwards.
    """
    from nexus_agent.cli import trial

    sys.exit(trial.run(source, command))


def main() -> None:
    """Run the command of this process, and end it with the exit status that the errors carry."""
    try:
        commands(prog_name=_PROGRAM)
    except NexusError as error:
        fail(_PROGRAM, error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read has enough; say nothing at exit either
        sys.exit(1)
    except Exception as error:
        raise_internal(_PROGRAM, error)


def fail(program: str, error: NexusError) -> None:
    """Say one error on stderr and end with its status, whether anybody hears it or not."""
    with contextlib.suppress(OSError):
        click.echo(f"{program}: {error}", err=True)
    sys.exit(error.exit_status)


def raise_internal(program: str, error: BaseException) -> None:
    """End with 70 for a fault of ours: its kind and place, but not its text, which may hold data."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, NexusError):
        fail(program, error)
    click.echo(f"{program}: internal: {type(error).__name__} at {place_of(error)}: please report this", err=True)
    sys.exit(70)
