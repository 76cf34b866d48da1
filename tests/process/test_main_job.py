"""The main job: a value set in Nexus is in a program's environment, and soon the new one is."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.canary import CANARY
from rig.processes import Installation, environment, words_of

from .conftest import PEM, Site


class Follower:
    """Reads `/changes` on a socket of its own."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(20)
        self._connection.connect(str(path))
        self._connection.sendall(b"GET /v1/-/changes HTTP/1.1\r\nHost: agent\r\n\r\n")
        self._file = self._connection.makefile("rb")
        self.events = self._events()

    def _events(self) -> Iterator[dict[str, object]]:
        for line in self._file:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))

    def close(self) -> None:
        self._file.close()
        self._connection.close()


def ask(path: Path, target: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of one request on the agent's socket."""
    with contextlib.closing(http.client.HTTPConnection("agent")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request(method, target)
        with connection.getresponse() as response:
            return response.status, response.read()


def test_values_reach_the_program(nexus_run: Callable[..., bytes]) -> None:
    """A secret, a config with a secret inside, numbers with every digit, a flag, and a file by its path."""
    script = 'printf "%s\\n" "$DB_PASSWORD" "$DB_URL" "$OFFSET" "$BIG" "$PRICE" "$NEW_CHECKOUT"; cat "$TLS_CERT"'
    printed = nexus_run("--configs", "--flags", "--", "sh", "-c", script).decode()
    assert printed == f"{CANARY}\npg://app:{CANARY}@db/app\n-7\n18446744073709551615\n1.10\ntrue\n{PEM}"


def test_without_the_options_only_secrets_come(nexus_run: Callable[..., bytes]) -> None:
    """Configs and flags are asked for, never slipped in."""
    names = {line.partition("=")[0] for line in nexus_run("env", env={"A": "1"}).decode().splitlines()}
    assert {"DB_PASSWORD", "TLS_CERT"} <= names
    assert not names & {"DB_URL", "NEW_CHECKOUT"}


def test_each_change_is_a_new_generation_and_a_new_value(site: Site, nexus_run: Callable[..., bytes]) -> None:
    """Set a secret on the command line: the socket tells its name, and the next program gets it."""
    follower = Follower(site.socket)
    generations = [next(follower.events)["generation"]]
    for number in range(3):
        site.local.admin("secret", "set", "shop", "rotating", stdin=f"value {number}".encode())
        event = next(follower.events)
        assert (event["secrets"], event["configs"], event["flags"]) == (["rotating"], [], [])
        generations.append(event["generation"])
        assert nexus_run("printenv", "ROTATING").decode() == f"value {number}\n"
    follower.close()
    assert generations == sorted(set(generations))  # type: ignore[type-var]  # numbers, by the protocol


def test_a_change_made_on_the_database_itself_arrives_too(site: Site, commands: Installation) -> None:
    """Whoever writes while the admin socket cannot be found writes past the server; its streams tell all the same."""
    follower = Follower(site.socket)
    next(follower.events)
    os.rename(site.local.data / "admin.sock", site.local.data / "hidden.sock")
    site.local.admin("flag", "set", "shop", "new.checkout", "off")
    assert next(follower.events)["flags"] == ["new.checkout"]
    follower.close()


def test_refresh_answers_when_nexus_was_asked(site: Site) -> None:
    """A refresh ends with the service's freshness, and the agent's own count of requests has grown."""
    before = json.loads(ask(site.socket, "/v1/status")[1])["services"][0]["requests"]
    status, body = ask(site.socket, "/v1/-/refresh", "POST")
    assert (status, json.loads(body)["state"]) == (200, "healthy")
    assert json.loads(ask(site.socket, "/v1/status")[1])["services"][0]["requests"] > before


def test_status_and_get_on_the_command_line(site: Site, commands: Installation) -> None:
    """What an operator types."""
    told = commands.run("nexus-agent", "status", "--config", str(site.config)).stdout.decode()
    assert "shop (test)" in told
    assert "2 secrets, 4 configs, 1 flags" in told
    listed = json.loads(commands.run("nexus-agent", "status", "--json", "--config", str(site.config)).stdout)
    assert listed["services"][0]["key_type"] == "secret"
    got = commands.run("nexus-agent", "get", "db:password", "--config", str(site.config), secret_output=True)
    assert got.stdout == CANARY.encode()
    named = commands.run("nexus-agent", "get", "TLS_CERT", "--service", "shop", "--config", str(site.config))
    assert named.stdout == PEM.encode()
    missing = commands.run("nexus-agent", "get", "nope", "--config", str(site.config))
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert b"not_found" in missing.stderr


def test_check_says_that_all_is_well(site: Site, commands: Installation) -> None:
    """The same settings, tried without starting anything."""
    checked = commands.run("nexus-agent", "check", "--config", str(site.config))
    assert checked.returncode == 0, checked.stdout
    assert b"answers with 2 secrets" in checked.stdout


def test_a_clean_stop_leaves_no_socket_and_a_second_start_takes_over_a_dead_one(
    site: Site, commands: Installation
) -> None:
    """SIGTERM removes the socket. SIGKILL cannot, and the next agent does."""
    assert site.agent.stop() == 0
    assert not site.socket.exists()
    again = commands.start("nexus-agent", "run", "--config", str(site.config))
    again.await_line(lambda line: '"listening"' in line)
    assert again.stop(9) == -9
    assert site.socket.exists()  # the control: this one really died
    third = commands.start("nexus-agent", "run", "--config", str(site.config))
    third.await_line(lambda line: '"listening"' in line)
    assert ask(site.socket, "/healthz")[0] == 200


def test_two_agents_on_one_socket(site: Site, commands: Installation) -> None:
    """The second one ends with 75 and says why; the first one goes on."""
    second = commands.run("nexus-agent", "run", "--config", str(site.config))
    assert second.returncode == 75
    assert b"already_running" in second.stderr
    assert ask(site.socket, "/healthz")[0] == 200


def test_get_and_status_say_what_went_wrong_with_the_output(site: Site, commands: Installation) -> None:
    """A value that was not written whole is not a success; a key that is no text is not ours."""
    agent = str(commands.bin / "nexus-agent")
    for words, redirection, status, said in (
        ("get db:password", ">/dev/full", 75, b"standard output cannot be written: No space left"),
        ("get db:password", ">&-", 75, b"standard output cannot be written"),
        ("status", ">/dev/full", 75, b"standard output cannot be written"),
        ("get $(printf '\\377')", "", 2, b"not UTF-8"),
    ):
        line = f"{agent} {words} --config {site.config} {redirection}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=60)
        assert done.returncode == status, (words, done.stderr)
        assert said in done.stderr


def test_an_agent_outlives_its_log(site: Site, commands: Installation) -> None:
    """Whoever read it is gone: the next lines are lost, and nothing else."""
    site.agent.stop()
    agent = subprocess.Popen(
        [commands.bin / "nexus-agent", "run", "--config", site.config], stderr=subprocess.PIPE, env=environment()
    )
    try:
        with agent.stderr or contextlib.nullcontext(()) as log:
            assert any(b'"published"' in line for line in log)
        site.local.process.stop()
        assert ask(site.socket, "/v1/-/refresh", "POST")[0] == 504  # and that was a line for the log
        assert ask(site.socket, "/healthz")[0] == 200
        agent.terminate()
        assert agent.wait(20) == 0
    finally:
        agent.kill()
        agent.wait()


def test_no_command_line_shows_a_value(site: Site) -> None:
    """Everybody on a machine can read every command line."""
    for process in (site.agent, site.local.process):
        shown = b" ".join(words_of(process.popen.pid))
        assert CANARY.encode() not in shown
        assert site.local.keys["primary"].encode() not in shown


def test_dev_runs_a_command_with_values_and_cleans_up(commands: Installation) -> None:
    """The first thing a newcomer runs."""
    script = (
        'echo "$STRIPE_SECRET_KEY|$API_TIMEOUT_MS|$DATABASE_URL|$DB_PASSWORD|$NEW_CHECKOUT|$TLS_CERT"; cat "$TLS_CERT"'
    )
    done = commands.run("nexus-agent", "dev", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    first, *certificate = done.stdout.decode().splitlines()
    stripe, timeout, url, password, flag, path = first.split("|")
    assert stripe.startswith("sk_test_")
    assert (timeout, flag) == ("1500", "true")
    assert url == f"postgresql://app:{password}@db.internal:5432/app"
    assert certificate[0] == "-----BEGIN CERTIFICATE-----"
    assert not Path(path).parents[3].exists()


def test_dev_ends_with_the_status_of_its_command(commands: Installation) -> None:
    """As if the command had been run without us."""
    assert commands.run("nexus-agent", "dev", "--", "sh", "-c", "exit 42").returncode == 42
    assert commands.run("nexus-agent", "dev", "--", "sh", "-c", "kill -9 $$").returncode == 137


def left_by_dev() -> set[str]:
    """The private directories of `dev` that are there."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("nexus-dev-")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("everybody", [False, True], ids=["dev alone", "the whole group"])
def test_dev_ends_cleanly_whichever_way_it_is_told_to(
    commands: Installation, number: signal.Signals, everybody: bool
) -> None:
    """A closed terminal as well; the command's own status, and no directory with secrets stays."""
    before = left_by_dev()
    dev = commands.start("nexus-agent", "dev", "--", "sh", "-c", "echo started; exec sleep 60", start_new_session=True)
    dev.await_line(lambda line: line == "started", "out")
    assert left_by_dev() > before  # the control
    if everybody:
        os.killpg(dev.popen.pid, number)
    assert dev.stop(number) == 128 + number
    assert left_by_dev() == before


def test_dev_changes_nothing_for_its_command(commands: Installation) -> None:
    """The umask of the caller, and whatever he has set for nexus-run elsewhere."""
    env = environment(NEXUS_RUN_SERVICE="elsewhere", NEXUS_RUN_AGENT_UID="nobody-here")
    done = commands.run("nexus-agent", "dev", "--", "sh", "-c", "umask", env=env, umask=0o027)
    assert (done.returncode, done.stdout) == (0, b"0027\n"), done.stderr


def test_dev_takes_values_from_files(commands: Installation, run_dir: Path) -> None:
    """A .env file and a JSON file instead of the values made up on the spot."""
    (run_dir / "app.env").write_text(f"# ours\nexport DB_PASSWORD='{CANARY}'\nPLAIN=a b\n")
    (run_dir / "app.json").write_text(json.dumps({"db.password": CANARY, "limits": {"n": 3}, "on": True}))
    shown = commands.run(
        "nexus-agent",
        "dev",
        "--from",
        str(run_dir / "app.env"),
        "--",
        "sh",
        "-c",
        'echo "$DB_PASSWORD$PLAIN"',
        secret_output=True,
    )
    assert shown.stdout.decode() == f"{CANARY}a b\n"
    shown = commands.run(
        "nexus-agent",
        "dev",
        "--from",
        str(run_dir / "app.json"),
        "--",
        "sh",
        "-c",
        'echo "$DB_PASSWORD$LIMITS$ON"',
        secret_output=True,
    )
    assert shown.stdout.decode() == f'{CANARY}{{"n":3}}true\n'


def test_dev_without_a_command_says_what_to_try(commands: Installation) -> None:
    """It stays until it is told to stop, and what it prints works as printed."""
    dev = commands.start("nexus-agent", "dev")
    line = dev.await_line(lambda line: "curl" in line, "out")
    path = Path(line.split("--unix-socket ")[1].split(" ")[0])
    set_line = dev.await_line(lambda line: "nexus-local secret set" in line, "out").strip()
    words = set_line.replace("nexus-local", str(commands.bin / "nexus-local"))
    done = subprocess.run(["sh", "-c", words], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert ask(path, "/v1/-/configs")[0] == 200
    assert dev.stop() == 0
    assert not path.exists()
