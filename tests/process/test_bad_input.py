"""Whatever is wrong is said in one breath: what, where, what to do; with the right status, and nothing is half done."""

import json
import os
import socket
from pathlib import Path

import pytest

from rig.canary import CANARY
from rig.processes import Installation, Local, environment, private_file, settings_file, start_agent, start_local

from .conftest import settings_text


@pytest.fixture
def local(commands: Installation, tmp_path: Path) -> Local:
    """A Nexus with one secret."""
    running = start_local(commands, tmp_path / "nexus")
    running.admin("secret", "set", "shop", "db:password", stdin=CANARY.encode())
    return running


def agent_with(commands: Installation, local: Local, run_dir: Path, key: str) -> Path:
    """An agent that was given this key; returns its socket."""
    path = private_file(run_dir / "key", key)
    start_agent(commands, settings_file(run_dir, settings_text(local, run_dir, path)))
    return run_dir / "run" / "agent.sock"


def test_a_wrong_key(commands: Installation, local: Local, run_dir: Path) -> None:
    """The agent runs and waits, says why, and gives nothing; `check` says the same before."""
    agent_with(commands, local, run_dir, "wxs_wrong")
    config = run_dir / "agent.toml"
    done = commands.run("nexus-run", "--socket", str(run_dir / "run" / "agent.sock"), "env")
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: not_ready: no values of shop: Nexus answered 401")
    checked = commands.run("nexus-agent", "check", "--config", str(config))
    assert checked.returncode == 1
    assert b"FAIL" in checked.stdout
    assert b"401: the key is wrong or has been revoked; put a valid one" in checked.stdout
    got = commands.run("nexus-agent", "get", "db:password", "--config", str(config))
    assert (got.returncode, got.stdout) == (75, b"")
    assert b"wxs_wrong" not in done.stderr + checked.stdout + checked.stderr + got.stderr


def test_a_public_key(commands: Installation, local: Local, run_dir: Path) -> None:
    """It has no secrets, and the way out is named. What it may read, it reads."""
    local.admin("config", "set", "shop", "greeting", '"hello"')
    local.admin("config", "set", "shop", "secretive", '"{{secret:db:password}}"')
    path = agent_with(commands, local, run_dir, local.keys["public"])
    done = commands.run("nexus-run", "--socket", str(path), "env")
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: public_key_restricted: ")
    got = commands.run("nexus-agent", "get", "db:password", "--config", str(run_dir / "agent.toml"))
    assert got.returncode == 77
    shown = commands.run("nexus-run", "--socket", str(path), "--configs", "printenv", "GREETING")
    assert shown.stdout == b"hello\n"
    shown = commands.run("nexus-run", "--socket", str(path), "--configs", "printenv", "SECRETIVE")
    assert shown.returncode == 1  # a config that reaches a secret is left out for such a key
    checked = commands.run("nexus-agent", "check", "--config", str(run_dir / "agent.toml"))
    assert b"no secrets" in checked.stdout


def test_a_frontend_service(commands: Installation, local: Local, run_dir: Path) -> None:
    """No secrets there, whatever the key."""
    made = local.admin("service", "create", "web", "--kind", "frontend", "--json", secret_output=True)
    refused = commands.run("nexus-local", "secret", "set", "web", "k", "--data", str(local.data), stdin=b"x")
    assert refused.returncode == 77
    assert b"service_kind_mismatch" in refused.stderr
    path = agent_with(commands, local, run_dir, json.loads(made.stdout)["primary"])
    done = commands.run("nexus-run", "--socket", str(path), "env")
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: service_kind_mismatch: ")


def test_colliding_and_forbidden_names(commands: Installation, local: Local, run_dir: Path) -> None:
    """Two keys of one name, and a name that changes how programs run: both keys are named, nothing is started."""
    path = agent_with(commands, local, run_dir, local.keys["primary"])
    local.admin("secret", "set", "shop", "db.password", stdin=b"other")
    commands.run("nexus-agent", "check", "--config", str(run_dir / "agent.toml"))
    follow_refresh(path)
    done = commands.run("nexus-run", "--socket", str(path), "touch", str(run_dir / "started"))
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: name_collision: ")
    assert b"db.password" in done.stderr
    assert b"db:password" in done.stderr
    local.admin("secret", "delete", "shop", "db.password")
    local.admin("secret", "set", "shop", "LD_PRELOAD", stdin=b"/tmp/x.so")
    follow_refresh(path)
    done = commands.run("nexus-run", "--socket", str(path), "touch", str(run_dir / "started"))
    assert done.stderr.startswith(b"nexus-run: forbidden_name: ")
    assert not (run_dir / "started").exists()


def follow_refresh(path: Path) -> None:
    """Ask the agent to ask Nexus, and wait until it has."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(b"POST /v1/-/refresh HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.parametrize(
    ("value", "kind", "code"),
    [
        (b"a\0b", "text", b"bad_request"),
        (b"\xff\xfe", "file", b"bad_request"),
        (b"x" * 1_048_577, "text", b"too_large"),
    ],
    ids=["NUL in a text", "not UTF-8", "too large"],
)
def test_values_that_nexus_refuses(commands: Installation, local: Local, value: bytes, kind: str, code: bytes) -> None:
    """Refused where they come in, with what to do; no version is made."""
    words = ("nexus-local", "secret", "set", "shop", "bad", "--type", kind, "--data", str(local.data))
    done = commands.run(*words, stdin=value)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(b"nexus-local: " + code)
    assert b"bad" not in commands.run("nexus-local", "secret", "list", "shop", "--data", str(local.data)).stdout


def test_a_config_value_with_nul_fits_in_no_environment(commands: Installation, local: Local, run_dir: Path) -> None:
    """JSON can hold it, an environment cannot: the key is named."""
    local.admin("config", "set", "shop", "odd", '"a\\u0000b"')
    path = agent_with(commands, local, run_dir, local.keys["primary"])
    done = commands.run("nexus-run", "--socket", str(path), "--configs", "env")
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: forbidden_name: ")
    assert b"config odd" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[service]]\nname = "a"\nendpoint = "http://nexus.example"\n', b"agent.toml:3: service[1].endpoint: "),
        ('[[service]]\nname = "a"\nendpoint = "unix:/x"\nfroms = 1\n', b"agent.toml:4: service[1].froms: there is no"),
        ('[socket]\npaht = "/x"\n', b"did you mean path?"),
        ("[socket\n", b"no valid TOML"),
        ("", b"no service: "),
        ('[[service]]\nname = "a"\nendpoint = "unix:/x"\ncredential = "file:/no/such"\n', b"there is no such file"),
        ('[[service]]\nname = "a"\nendpoint = "unix:/x"\n', b"NEXUS_API_KEY is not set"),
    ],
)
def test_settings(commands: Installation, run_dir: Path, text: str, said: bytes) -> None:
    """Each slip ends with 78, the file, the line and the key; `run` and `check` agree."""
    config = settings_file(run_dir, text + f'\n[runtime]\ndirectory = "{run_dir}/run"\n' * ("[socket" not in text))
    for command in ("run", "check"):
        done = commands.run("nexus-agent", command, "--config", str(config))
        assert said in done.stderr + done.stdout
        assert done.returncode == (78 if done.stderr.startswith(b"nexus-agent: settings: ") else 1)
    assert not (run_dir / "run" / "agent.sock").exists()


def test_all_problems_come_at_once(commands: Installation, run_dir: Path) -> None:
    """Nobody wants to find three slips in three tries."""
    config = settings_file(run_dir, '[[service]]\nendpoint = "ftp://x"\n[socket]\nmode = "rw"\ncolour = 1\n')
    done = commands.run("nexus-agent", "run", "--config", str(config))
    for said in (
        b"4 problems",
        b":1: service[1].name: is missing",
        b":2: ",
        b":4: socket.mode: ",
        b":5: socket.colour",
    ):
        assert said in done.stderr


def test_unreadable_and_missing_files(commands: Installation, run_dir: Path, roles: None) -> None:
    """A settings file that is not there, or not ours to read."""
    from conftest import AGENT

    done = commands.run("nexus-agent", "run", "--config", str(run_dir / "none.toml"))
    assert done.returncode == 78
    assert b"there is no such file" in done.stderr
    private_file(run_dir / "root.toml", "")
    done = commands.run("nexus-agent", "run", "--config", str(run_dir / "root.toml"), user=AGENT)
    assert done.returncode == 78
    assert b"cannot be read: Permission denied" in done.stderr


def test_a_key_file_that_others_may_read(commands: Installation, local: Local, run_dir: Path) -> None:
    """Refused at start, by the path of the file."""
    key = private_file(run_dir / "key", local.keys["primary"])
    key.chmod(0o644)
    config = settings_file(run_dir, settings_text(local, run_dir, key))
    done = commands.run("nexus-agent", "run", "--config", str(config))
    assert done.returncode == 78
    assert b"others may read it" in done.stderr
    assert local.keys["primary"].encode() not in done.stderr


def test_no_tmpfs(commands: Installation, local: Local, tmp_path: Path, run_dir: Path) -> None:
    """Secrets do not go to a disk unless that is said."""
    if (
        os.statvfs(tmp_path).f_bsize == os.statvfs("/dev/shm").f_bsize
        and os.stat(tmp_path).st_dev == os.stat("/dev/shm").st_dev
    ):
        pytest.skip("the temporary directory of this machine is a tmpfs itself")
    key = private_file(run_dir / "key", local.keys["primary"])
    config = settings_file(run_dir, settings_text(local, tmp_path, key))
    done = commands.run("nexus-agent", "run", "--config", str(config))
    assert done.returncode == 78
    assert b"not on tmpfs" in done.stderr
    allowed = settings_file(run_dir, settings_text(local, tmp_path, key, "allow_disk = true"))
    start_agent(commands, allowed)


def test_check_finds_what_run_would_refuse(commands: Installation, local: Local, run_dir: Path, tmp_path: Path) -> None:
    """A place on a disk, and a socket that others could replace; nothing is made on the way."""
    key = private_file(run_dir / "key", local.keys["primary"])
    (run_dir / "open").mkdir()
    (run_dir / "open").chmod(0o777)
    missing = settings_file(run_dir, settings_text(local, Path("/var/tmp", run_dir.name), key))
    checked = commands.run("nexus-agent", "check", "--config", str(missing))
    assert checked.returncode == 1
    assert b"would be made on a disk" in checked.stdout
    assert not Path("/var/tmp", run_dir.name).exists()
    fresh = settings_file(run_dir, settings_text(local, Path("/dev/shm", f"{run_dir.name}-new"), key))
    checked = commands.run("nexus-agent", "check", "--config", str(fresh))
    assert checked.returncode == 0, checked.stdout  # a place that the agent makes for itself
    exposed = settings_file(run_dir, settings_text(local, run_dir, key, f'[socket]\npath = "{run_dir}/open/a.sock"'))
    checked = commands.run("nexus-agent", "check", "--config", str(exposed))
    assert checked.returncode == 1
    assert b"others may write to it" in checked.stdout
    assert commands.run("nexus-agent", "run", "--config", str(exposed)).returncode == 78


def test_no_agent_on_the_command_line(commands: Installation, run_dir: Path) -> None:
    """69, and how to start one."""
    done = commands.run("nexus-agent", "status", env=environment(NEXUS_AGENT_SOCKET__PATH=str(run_dir / "agent.sock")))
    assert done.returncode == 69
    assert b"nexus-agent run" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("service", "create", "shop"), 1, b"conflict"),
        (("service", "create", "Shop!"), 2, b"bad_request"),
        (("secret", "get", "shop", "nope"), 1, b"not_found"),
        (("secret", "get", "nope", "k"), 1, b"not_found"),
        (("secret", "set", "shop", "a b"), 2, b"bad_request"),
        (("secret", "set", "shop", "k", "--from", "/no/such"), 78, b"/no/such"),
        (("config", "set", "shop", "k", "bare text"), 2, b"a config is JSON"),
        (("config", "set", "shop", "k", '"{{secret:nope}}"'), 1, b"there is no secret nope"),
        (("config", "set", "shop", "k", '"{{config:k}}"'), 1, b"k -> k"),
        (("config", "set", "shop", "k", '"{{secret:"'), 1, b"line 1, column 1"),
        (("flag", "set", "shop", "k", "maybe"), 2, b"maybe"),
        (("secret", "delete", "shop", "db:password", "--version", "9"), 1, b"no version 9"),
    ],
)
def test_administration(commands: Installation, local: Local, words: tuple[str, ...], status: int, said: bytes) -> None:
    """The same error whether the server runs or not."""
    running = commands.run("nexus-local", *words, "--data", str(local.data), stdin=b"v")
    local.process.stop()
    stopped = commands.run("nexus-local", *words, "--data", str(local.data), stdin=b"v")
    for done in (running, stopped):
        assert done.returncode == status, done.stderr
        assert said in done.stderr
        assert done.stdout == b""
    assert running.stderr == stopped.stderr


def test_a_second_server_on_one_directory(commands: Installation, local: Local) -> None:
    """One server for each directory; and only loopback in clear text."""
    second = commands.run("nexus-local", "serve", "--data", str(local.data), "--listen", "127.0.0.1:0")
    assert second.returncode == 75
    outside = commands.run("nexus-local", "serve", "--data", str(local.data), "--listen", "0.0.0.0:0")
    assert outside.returncode == 78
    assert b"not on loopback" in outside.stderr
    taken = local.endpoint.removeprefix("http://")
    busy = commands.run("nexus-local", "serve", "--data", str(local.data / "other"), "--listen", taken)
    assert busy.returncode == 78
    assert b"cannot listen" in busy.stderr


def test_the_wrong_key_file_beside_a_database(commands: Installation, local: Local) -> None:
    """Found at the start, and never answered by making a new key."""
    local.process.stop()
    key = local.data / "key"
    original = key.read_bytes()
    key.write_bytes(bytes(32))
    done = commands.run("nexus-local", "service", "list", "--data", str(local.data))
    assert done.returncode == 70
    assert b"not the key of" in done.stderr
    key.unlink()
    done = commands.run("nexus-local", "service", "list", "--data", str(local.data))
    assert b"bring it back from your backup" in done.stderr
    assert not key.exists()
    private_file(key, "").write_bytes(original)
    assert commands.run("nexus-local", "service", "list", "--data", str(local.data)).stdout.startswith(b"shop")


def test_agent_and_site_of_the_environment_alone(commands: Installation, local: Local, run_dir: Path) -> None:
    """Two variables are enough: no file at all."""
    env = environment(
        WESTYX_SERVICE_ENDPOINT=f" {local.endpoint} ",
        NEXUS_API_KEY=local.keys["primary"],
        NEXUS_AGENT_RUNTIME__DIRECTORY=str(run_dir / "run"),
    )
    commands.start("nexus-agent", "run", env=env).await_line(lambda line: '"published"' in line)
    done = commands.run(
        "nexus-run", "--socket", str(run_dir / "run" / "agent.sock"), "printenv", "DB_PASSWORD", secret_output=True
    )
    assert done.stdout.decode() == f"{CANARY}\n"
