"""A running Nexus and agent for the tests of processes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.canary import CANARY
from rig.processes import Installation, Local, Running, private_file, settings_file, start_agent, start_local

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class Site:
    """A Nexus with values, an agent beside it, and where its socket is."""

    local: Local
    agent: Running
    config: Path
    socket: Path


def settings_text(local: Local, directory: Path, key: Path, more: str = "") -> str:
    """The settings of an agent for the service of `local`."""
    return f"""
[[service]]
name = "shop"
endpoint = "{local.endpoint}"
environment = "test"
credential = "file:{key}"

[runtime]
directory = "{directory}/run"
{more}
"""


def fill(local: Local) -> None:
    """The values that the tests look for."""
    local.admin("secret", "set", "shop", "db:password", stdin=CANARY.encode())
    local.admin("secret", "set", "shop", "TLS_CERT", "--type", "file", stdin=PEM.encode())
    local.admin("config", "set", "shop", "db.url", '"pg://app:{{secret:db:password}}@db/app"')
    local.admin("config", "set", "shop", "offset", "-7")
    local.admin("config", "set", "shop", "big", "18446744073709551615")
    local.admin("config", "set", "shop", "price", "1.10")
    local.admin("flag", "set", "shop", "new.checkout", "on")


@pytest.fixture
def site(commands: Installation, run_dir: Path, tmp_path: Path) -> Site:
    """Everything on one uid: the quick case. The database lies on disk, what the agent writes in memory."""
    local = start_local(commands, tmp_path / "nexus")
    fill(local)
    key = private_file(run_dir / "key", local.keys["primary"])
    config = settings_file(run_dir, settings_text(local, run_dir, key))
    agent = start_agent(commands, config)
    agent.await_line(lambda line: '"files_written"' in line)
    return Site(local, agent, config, run_dir / "run" / "agent.sock")


@pytest.fixture
def nexus_run(commands: Installation, site: Site) -> Callable[..., bytes]:
    """Runs a program through nexus-run and gives what it printed; it must end well."""

    def run(*words: str | bytes, **more: object) -> bytes:
        done = commands.run("nexus-run", "--socket", str(site.socket), *words, secret_output=True, **more)  # type: ignore[arg-type]  # handed on as they came
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
