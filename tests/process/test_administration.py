"""Every command and option of nexus-local, whether its server runs or not; and the agent's options that are left."""

import base64
import json
import os
import pty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rig.canary import CANARY
from rig.processes import Installation, Local, environment, start_local

from .conftest import Site

Ask = Callable[..., Any]


@pytest.fixture(params=["running", "stopped"])
def local(request: pytest.FixtureRequest, commands: Installation, tmp_path: Path) -> Local:
    """A Nexus with a service, whose server runs or has been stopped."""
    local = start_local(commands, tmp_path / "nexus")
    if request.param == "stopped":
        local.process.stop()
    return local


@pytest.fixture
def ask(local: Local) -> Ask:
    """Runs a command with --json and gives what it printed."""

    def run(*words: str, stdin: bytes = b"") -> Any:
        return json.loads(local.admin(*words, "--json", stdin=stdin, secret_output=True).stdout)

    return run


@pytest.fixture
def text(local: Local) -> Callable[..., str]:
    """Runs a command and gives what it printed for people."""
    return lambda *words, **more: local.admin(*words, secret_output=True, **more).stdout.decode()


def test_secrets(local: Local, ask: Ask, text: Callable[..., str], tmp_path: Path) -> None:
    """Byte for byte, in versions, with types and descriptions."""
    (tmp_path / "value").write_bytes("ä\nlast line\n".encode())
    assert ask("secret", "set", "shop", "k", stdin=CANARY.encode())["version"] == 1
    assert ask("secret", "set", "shop", "k", "--from", str(tmp_path / "value"), "--type", "file")["version"] == 2
    assert ask("secret", "set", "shop", "k", "--from", "-", "--description", "third", stdin=b"3")["version"] == 3
    assert text("secret", "get", "shop", "k") == "3"
    got = ask("secret", "get", "shop", "k")
    assert (got["type"], got["version"], base64.b64decode(got["value"])) == ("text", 3, b"3")
    assert [(s["key"], s["type"], s["description"]) for s in ask("secret", "list", "shop")["secrets"]] == [
        ("k", "text", "third")
    ]
    assert text("secret", "list", "shop") == "k  text  version 3  third\n"
    history = ask("secret", "history", "shop", "k")["versions"]
    assert [(v["version"], v["type"], v["active"]) for v in history] == [
        (3, "text", True),
        (2, "file", False),
        (1, "text", False),
    ]
    assert "value" not in history[0]
    revealed = ask("secret", "history", "shop", "k", "--reveal")["versions"]
    assert [base64.b64decode(v["value"]).decode() for v in revealed] == ["3", "ä\nlast line\n", CANARY]
    assert "ä\nlast line\n" in text("secret", "history", "shop", "k", "--reveal")
    assert "ä" not in text("secret", "history", "shop", "k")
    ask("secret", "delete", "shop", "k", "--version", "3")
    assert text("secret", "get", "shop", "k") == "ä\nlast line\n"
    assert text("secret", "delete", "shop", "k") == "shop: deleted k\n"
    assert ask("secret", "list", "shop")["secrets"] == []


def test_configs_and_flags(ask: Ask, text: Callable[..., str]) -> None:
    """JSON as it stands, a negative number among them; references as they were written."""
    assert text("config", "set", "shop", "offset", "-7") == "shop: config offset is set\n"
    ask("config", "set", "shop", "copy", '"{{config:offset}}"')
    assert ask("config", "list", "shop")["configs"] == {"copy": '"{{config:offset}}"', "offset": "-7"}
    assert text("config", "list", "shop") == 'copy = "{{config:offset}}"\noffset = -7\n'
    ask("config", "delete", "shop", "copy")
    assert text("config", "delete", "shop", "offset") == "shop: deleted config offset\n"
    assert ask("config", "list", "shop")["configs"] == {}
    ask("flag", "set", "shop", "f", "on")
    assert text("flag", "list", "shop") == "f on\n"
    assert text("flag", "set", "shop", "f", "off") == "shop: flag f is off\n"
    assert ask("flag", "list", "shop")["flags"] == {"f": False}
    assert text("flag", "delete", "shop", "f") == "shop: deleted flag f\n"
    assert ask("flag", "list", "shop")["flags"] == {}


def test_services_and_their_audit(ask: Ask, text: Callable[..., str]) -> None:
    """Kind and environment, keys shown once, and who did what."""
    made = ask("service", "create", "web", "--kind", "frontend", "--environment", "production")
    assert (made["service"], made["kind"], made["environment"]) == ("web", "frontend", "production")
    assert [made[name][:4] for name in ("primary", "secondary", "public")] == ["wxs_", "wxs_", "wxp_"]
    assert made["endpoint"].startswith("http://127.0.0.1:")
    assert "primary" in text("service", "create", "third")
    assert text("service", "list").splitlines() == [
        "shop  backend  develop",
        "third  backend  develop",
        "web  frontend  production",
    ]
    assert made["primary"] not in text("service", "list") + str(ask("audit"))
    ask("flag", "set", "shop", "f", "on")
    everything, ours = ask("audit")["audit"], ask("audit", "--service", "shop")["audit"]
    assert [row["event"] for row in ours] == ["service.created", "flag.created"]
    assert len(everything) == len(ours) + 2
    assert "flag.created  f  admin" in text("audit", "--service", "shop")


def test_where_the_data_lies(commands: Installation, tmp_path: Path) -> None:
    """The option, else its variable, else the user's data directory."""
    places = {name: tmp_path / name for name in ("option", "variable", "xdg", "home")}
    create = ("nexus-local", "service", "create", "shop")
    everything = {"XDG_DATA_HOME": str(places["xdg"]), "HOME": str(places["home"])}
    for words, more, expected in (
        (("--data", str(places["option"])), {"NEXUS_LOCAL_DATA": "/nowhere", **everything}, places["option"]),
        ((), {"NEXUS_LOCAL_DATA": str(places["variable"]), **everything}, places["variable"]),
        ((), everything, places["xdg"] / "nexus-local"),
        ((), {"HOME": str(places["home"])}, places["home"] / ".local" / "share" / "nexus-local"),
    ):
        done = commands.run(*create, *words, env=environment(**more), secret_output=True)
        assert done.returncode == 0, done.stderr
        assert (expected / "nexus.db").exists()
        assert expected.stat().st_mode & 0o777 == 0o700


def test_a_mistyped_directory_makes_nothing(commands: Installation, tmp_path: Path) -> None:
    """Only what makes a Nexus makes its directory."""
    for words in (("service", "list"), ("secret", "list", "shop"), ("audit",), ("flag", "set", "shop", "f", "on")):
        done = commands.run("nexus-local", *words, "--data", str(tmp_path / "typo"))
        assert done.returncode == 78
        assert f"{tmp_path}/typo: there is no Nexus".encode() in done.stderr
        assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_where_it_listens(commands: Installation, run_dir: Path, listen: str) -> None:
    """The endpoint that is printed is the one that an agent can be given."""
    where = f"unix:{run_dir}/nexus.sock" if listen == "unix" else listen
    local = start_local(commands, run_dir / "nexus", listen=where)
    local.admin("secret", "set", "shop", "k", stdin=CANARY.encode())
    env = environment(
        WESTYX_SERVICE_ENDPOINT=local.endpoint,
        NEXUS_API_KEY=local.keys["primary"],
        NEXUS_AGENT_RUNTIME__DIRECTORY=str(run_dir / "run"),
    )
    checked = json.loads(commands.run("nexus-agent", "check", "--json", env=env).stdout)["findings"]
    assert [finding["problem"] for finding in checked] == [""] * len(checked)
    assert any("answers with 1 secrets" in finding["result"] for finding in checked)


def test_a_value_is_typed_where_somebody_sits(commands: Installation, tmp_path: Path) -> None:
    """At a terminal it says how to end; what is typed is the value."""
    local = start_local(commands, tmp_path / "nexus")
    ours, theirs = pty.openpty()
    setting = commands.start("nexus-local", "secret", "set", "shop", "k", "--data", str(local.data), stdin=theirs)
    setting.await_line(lambda line: line == "Type the value, then Ctrl-D:")
    os.write(ours, b"typed\x04\x04")
    assert setting.popen.wait(20) == 0
    os.close(ours)
    os.close(theirs)
    assert local.admin("secret", "get", "shop", "k").stdout == b"typed"


def test_the_log_is_for_people_at_a_terminal_and_debug_says_more(site: Site, commands: Installation) -> None:
    """JSON elsewhere; the steps of the stream only where they are asked for."""
    site.agent.stop()
    plain = commands.start("nexus-agent", "run", "--config", str(site.config))
    plain.await_line(lambda line: '"published"' in line)
    plain.stop()
    assert not [line for line in plain.lines["err"] if "stream_opened" in line]
    told = commands.start("nexus-agent", "run", "--debug", "--config", str(site.config))
    assert json.loads(told.await_line(lambda line: "stream_opened" in line))["level"] == "debug"
    told.stop()
    ours, theirs = pty.openpty()
    shown = commands.start("nexus-agent", "run", "--config", str(site.config), stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"published" not in seen:
        seen += os.read(ours, 65536)
    assert b'{"' not in seen
    assert CANARY.encode() not in seen
    shown.stop()
    os.close(ours)
