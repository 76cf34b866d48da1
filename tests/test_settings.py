"""Every key, from the file and from the environment; and every problem with its line."""

import os
from pathlib import Path
from typing import Any

import pytest

from nexus_agent import settings
from nexus_agent.cadence import Pace
from nexus_agent.errors import BadSettings
from nexus_agent.settings import SourceKind
from rig.canary import CANARY

BASE = '[[service]]\nname = "shop"\nendpoint = "https://h.example"\ncredential = "file:/k"\n'


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(("NEXUS_", "WESTYX_")) or name in ("RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))


def load(tmp_path: Path, text: str) -> settings.Settings:
    """The settings of a file with this text."""
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return settings.load(path)


def refused(tmp_path: Path, text: str) -> str:
    """What is said about a file with this text."""
    with pytest.raises(BadSettings) as caught:
        load(tmp_path, text)
    assert caught.value.__cause__ is None
    return str(caught.value)


SHOWN: dict[str, Any] = {
    'service.environment = "prod"': lambda s: s.services[0].environment == "prod",
    'service.ca_file = "/ca.pem"': lambda s: s.services[0].ca_file == Path("/ca.pem"),
    'service.proxy = "http://p:1"': lambda s: s.services[0].proxy == "http://p:1",
    'service.poll = "7m"': lambda s: s.services[0].pace == Pace(poll=420.0),
    "service.poll_without_stream = 90": lambda s: s.services[0].pace == Pace(poll_without_stream=90.0),
    'upstream.ca_file = "/ca.pem"': lambda s: s.services[0].ca_file == Path("/ca.pem"),
    'upstream.proxy = "http://p:1"': lambda s: s.services[0].proxy == "http://p:1",
    'upstream.poll = "1h"': lambda s: s.services[0].pace == Pace(poll=3600.0),
    'upstream.poll_without_stream = "1500ms"': lambda s: s.services[0].pace == Pace(poll_without_stream=1.5),
    "policy.allow_empty = true": lambda s: s.services[0].allow_empty,
    'runtime.directory = "/r"': lambda s: s.runtime_directory == Path("/r"),
    "runtime.allow_disk = true": lambda s: s.allow_disk,
    'socket.path = "/r/x.sock"': lambda s: s.socket.path == Path("/r/x.sock"),
    'socket.mode = "0660"': lambda s: s.socket.mode == 0o660,
    "socket.group = 5": lambda s: s.socket.group == 5,
    'socket.group = "root"': lambda s: s.socket.group == 0,
}


@pytest.mark.parametrize("line", SHOWN)
def test_every_key_changes_what_it_says(tmp_path: Path, line: str) -> None:
    """With the key it is so, without it is not."""
    section, _, assignment = line.partition(".")
    text = BASE + (assignment if section == "service" else f"[{section}]\n{assignment}")
    assert SHOWN[line](load(tmp_path, text))
    assert not SHOWN[line](load(tmp_path, BASE))


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("RUNTIME__DIRECTORY", "/r", 'runtime.directory = "/r"'),
        ("RUNTIME__ALLOW_DISK", "true", "runtime.allow_disk = true"),
        ("UPSTREAM__POLL", "1h", 'upstream.poll = "1h"'),
        ("UPSTREAM__POLL_WITHOUT_STREAM", "1500ms", 'upstream.poll_without_stream = "1500ms"'),
        ("UPSTREAM__CA_FILE", "/ca.pem", 'upstream.ca_file = "/ca.pem"'),
        ("UPSTREAM__PROXY", "http://p:1", 'upstream.proxy = "http://p:1"'),
        ("POLICY__ALLOW_EMPTY", "1", "policy.allow_empty = true"),
        ("SOCKET__PATH", "/r/x.sock", 'socket.path = "/r/x.sock"'),
        ("SOCKET__MODE", "0660", 'socket.mode = "0660"'),
        ("SOCKET__GROUP", "5", "socket.group = 5"),
    ],
)
def test_every_key_has_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    """It does what the key does, and wins over it."""
    monkeypatch.setenv(f"NEXUS_AGENT_{name}", value)
    assert SHOWN[line](load(tmp_path, BASE))


def test_services_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of tables, as JSON; it takes the place of the file's."""
    monkeypatch.setenv("NEXUS_AGENT_SERVICE", '[{"name":"other","endpoint":"unix:/s","credential":"file:/k"}]')
    assert [service.name for service in load(tmp_path, BASE).services] == ["other"]
    monkeypatch.setenv("NEXUS_AGENT_SERVICE", "not json")
    assert "no JSON in one of NEXUS_AGENT_SERVICE: " in refused(tmp_path, BASE)


def test_a_service_wins_over_what_is_shared(tmp_path: Path) -> None:
    """`[upstream]` is for all services, a service's own key for that one."""
    text = BASE + 'poll = "1m"\n' + BASE.replace("shop", "two") + '[upstream]\npoll = "2m"\nproxy = "http://p:1"\n'
    one, two = load(tmp_path, text).services
    assert (one.pace.poll, two.pace.poll) == (60.0, 120.0)
    assert (one.proxy, two.proxy) == ("http://p:1", "http://p:1")


def test_where_settings_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option, then the variable."""
    (tmp_path / "named.toml").write_text(BASE.replace("shop", "named"))
    monkeypatch.setenv("NEXUS_AGENT_CONFIG", str(tmp_path / "named.toml"))
    assert settings.load().services[0].name == "named"
    assert load(tmp_path, BASE).services[0].name == "shop"


def test_without_a_file_two_variables_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks around the endpoint are cut; an empty one counts as none."""
    monkeypatch.setenv("NEXUS_API_KEY", CANARY)
    monkeypatch.setenv("WESTYX_SERVICE_ENDPOINT", " https://h.example/ ")
    (service,) = settings.load().services
    assert (service.name, service.endpoint) == ("default", "https://h.example")
    assert service.credential.kind is SourceKind.VALUE
    assert service.credential.value.reveal() == CANARY
    assert CANARY not in repr(service)
    monkeypatch.setenv("WESTYX_SERVICE_ENDPOINT", "  ")
    with pytest.raises(BadSettings, match="no service"):
        settings.load()


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting, else systemd's, else that of the user; the socket lies in it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # the machine's word, not a part of ours
    assert load(tmp_path, BASE).runtime_directory == tmp_path / "xdg" / "nexus-agent"
    assert load(tmp_path, BASE).socket.path == tmp_path / "xdg" / "nexus-agent" / "agent.sock"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")
    assert load(tmp_path, BASE).runtime_directory == Path("/run/one")
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert "no runtime directory" in refused(tmp_path, BASE)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load(tmp_path, BASE).runtime_directory == Path("/run/nexus-agent")


@pytest.mark.parametrize(
    ("credential", "kind"),
    [
        ("file:/k", SourceKind.FILE),
        ("fd:3", SourceKind.DESCRIPTOR),
        ("env:MY_KEY", SourceKind.VALUE),
        ("credential:name", SourceKind.CREDENTIAL),
    ],
)
def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credential: str, kind: SourceKind) -> None:
    """All four places."""
    monkeypatch.setenv("MY_KEY", CANARY)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/creds")
    source = load(tmp_path, BASE.replace("file:/k", credential)).services[0].credential
    assert (source.kind, source.label) == (kind, credential)
    if credential.startswith("credential"):
        assert source.path == Path("/creds/name")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "polll = 3\n", "agent.toml:5: service[1].polll: there is no such key; did you mean poll?"),
        (BASE + "[sokcet]\n", "agent.toml:5: sokcet: there is no such key; did you mean socket?"),
        (BASE + '[socket]\nmode = "0999"\n', "agent.toml:6: socket.mode: is no file mode"),
        (BASE + "[socket]\nmode = 4096\n", "agent.toml:6: socket.mode: "),
        (BASE + '[upstream]\npoll = "often"\n', "agent.toml:6: upstream.poll: is no duration"),
        (BASE + "[upstream]\npoll = 0.5\n", "agent.toml:6: upstream.poll: "),
        (BASE + '[upstream]\nproxy = "socks5://p"\n', "agent.toml:6: upstream.proxy: is no proxy"),
        (BASE + '[socket]\npath = "relative"\n', "socket.path: needs an absolute path"),
        (BASE + '[socket]\ngroup = "no-such-group-here"\n', "socket.group: there is no such group"),
        (BASE.replace("shop", "a b"), "agent.toml:2: service[1].name: "),
        (BASE.replace("shop", "."), "agent.toml:2: service[1].name: "),
        (BASE + BASE, "agent.toml:6: service[2].name: is the name of an earlier service as well"),
        (BASE.replace("file:/k", "vault:x"), "agent.toml:4: service[1].credential: is no credential"),
        (BASE.replace("file:/k", "file:k"), "needs an absolute path after file:"),
        (BASE.replace("file:/k", "credential:a/b"), "needs a name after credential:"),
        (BASE.replace("file:/k", "credential:a"), "CREDENTIALS_DIRECTORY is not set"),
        (BASE.replace("file:/k", "env:NOT_SET"), "environment variable NOT_SET is not set"),
        (
            BASE.replace("https://h.example", "http://h.example"),
            "agent.toml:3: service[1].endpoint: would send the key",
        ),
        (BASE.replace("https://h.example", "https://u:p@h"), "must not hold a user or password"),
        (BASE.replace("https://h.example", "https://h/path"), "is no endpoint"),
        (BASE.replace("https://h.example", "unix:rel"), "needs an absolute path after unix:"),
        ('[[service]]\nname = "a"\n', "has no endpoint, and WESTYX_SERVICE_ENDPOINT is not set"),
        ('service = "x"\n', "agent.toml:1: service: "),
        (BASE + "x = [\n", "no valid TOML"),
        (BASE + "x = " + "[" * 3000, "nests too deeply"),
        ('[service]\nname = "a"\n', "agent.toml:1: service: is a table that may be there several times"),
        ("socket = 5\n" + BASE, "agent.toml:1: socket: is a section"),
        ("socket.mode = {}\n" + BASE, "agent.toml:1: socket.mode: is no file mode"),
        (BASE + "[socket]\nmode = 440\n", "agent.toml:6: socket.mode: is no file mode: write it in octal"),
        (BASE + "[runtime]\nallow_disk = 7\n", "agent.toml:6: runtime.allow_disk: is neither true nor false"),
        (BASE + "[runtime]\ndirectory = 7\n", "agent.toml:6: runtime.directory: has to be a path"),
        (BASE + "environment = 7\n", "agent.toml:5: service[1].environment: has to be text"),
        (BASE + "poll = true\n", "agent.toml:5: service[1].poll: is no duration"),
        (BASE + "poll = inf\n", "agent.toml:5: service[1].poll: is not between 1s and 7d"),
        (BASE + "poll = nan\n", "agent.toml:5: service[1].poll: is not between 1s and 7d"),
        (BASE + 'poll = "99999999d"\n', "agent.toml:5: service[1].poll: is not between 1s and 7d"),
        (BASE + "[socket]\ngroup = -1\n", "agent.toml:6: socket.group: is no group"),
        (BASE + "[socket]\ngroup = true\n", "agent.toml:6: socket.group: is no group"),
        (BASE + '[socket]\ngroup = "99999999999"\n', "agent.toml:6: socket.group: is no group"),
        (BASE + '[socket]\ngroup = "²"\n', "agent.toml:6: socket.group: there is no such group"),
        (BASE + '[socket]\npath = "/a\\u0000b"\n', "agent.toml:6: socket.path: needs an absolute path"),
        (BASE + 'ca_file = "/a\\u0000b"\n', "agent.toml:5: service[1].ca_file: needs an absolute path"),
        (BASE.replace("file:/k", "file:/k\\u0000"), "agent.toml:4: service[1].credential: is no credential"),
        (BASE.replace("file:/k", "fd:²"), "needs the number of a descriptor after fd:"),
        (BASE.replace("file:/k", "fd:99999999999999999999"), "needs the number of a descriptor after fd:"),
        (BASE.replace("file:/k", "env:A B"), "needs the name of an environment variable after env:"),
        (BASE.replace("https://h.example", "https://h:99999"), "is no endpoint"),
        (BASE.replace("https://h.example", "unix:/" + "x" * 107), "too long for a socket"),
    ],
)
def test_problems(tmp_path: Path, text: str, said: str) -> None:
    """The file, the line, the key and the near miss."""
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize("host", ["127.0.0.1:8484", "localhost", "demo.localhost:80", "[::1]:1"])
def test_clear_text_is_for_loopback(tmp_path: Path, host: str) -> None:
    """Where nobody can listen in."""
    text = BASE.replace("https://h.example", f"http://{host}")
    assert load(tmp_path, text).services[0].endpoint == f"http://{host}"


def test_problems_of_the_environment_name_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the section or the key is unknown, or the value is wrong."""
    monkeypatch.setenv("NEXUS_AGENT_SOKET__PATH", "/x")
    assert "NEXUS_AGENT_SOKET__PATH: there is no such section" in refused(tmp_path, BASE)
    monkeypatch.delenv("NEXUS_AGENT_SOKET__PATH")
    monkeypatch.setenv("NEXUS_AGENT_SOCKET__PAHT", "/x")
    assert "NEXUS_AGENT_SOCKET__PAHT in the environment: there is no such key" in refused(tmp_path, BASE)
    monkeypatch.delenv("NEXUS_AGENT_SOCKET__PAHT")
    monkeypatch.setenv("NEXUS_AGENT_SOCKET__MODE", CANARY)
    said = refused(tmp_path, BASE)
    assert "NEXUS_AGENT_SOCKET__MODE in the environment" in said
    assert CANARY not in said


def test_the_place_of_a_problem_is_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable wins over the file, so it is the variable that has to be mended."""
    text = BASE + '[socket]\nmode = "0660"\n'
    monkeypatch.setenv("NEXUS_AGENT_SOCKET__MODE", "rw")
    assert "NEXUS_AGENT_SOCKET__MODE in the environment: is no file mode" in refused(tmp_path, text)
    monkeypatch.delenv("NEXUS_AGENT_SOCKET__MODE")
    monkeypatch.setenv("NEXUS_AGENT_SOCKET__GRUOP", "x")
    said = refused(tmp_path, text)
    assert "NEXUS_AGENT_SOCKET__GRUOP in the environment: there is no such key; did you mean group?" in said
    monkeypatch.delenv("NEXUS_AGENT_SOCKET__GRUOP")
    monkeypatch.setenv("NEXUS_AGENT_SERVICE", '[{"name": "a b"}]')
    assert "NEXUS_AGENT_SERVICE in the environment: is no name" in refused(tmp_path, text)


def test_what_kubernetes_puts_into_every_pod_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a Service may be called nexus-agent."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"NEXUS_AGENT_{name}", "x")
    assert load(tmp_path, BASE).services[0].name == "shop"
    monkeypatch.setenv("NEXUS_AGENT_SERVICES", "x")  # the control
    assert "NEXUS_AGENT_SERVICES: there is no such section" in refused(tmp_path, BASE)


def test_whoever_asks_an_agent_needs_none_of_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is found without what only the agent's unit has."""
    path = tmp_path / "agent.toml"
    path.write_text(BASE.replace("file:/k", "credential:k") + '[socket]\npath = "/r/a.sock"\n')
    assert settings.socket_path(path) == Path("/r/a.sock")
    with pytest.raises(BadSettings, match="CREDENTIALS_DIRECTORY"):  # the control
        settings.load(path)


def test_without_settings_an_agent_is_looked_for_where_nexus_run_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own, if it is there, else the machine's; where the agent would run is another question."""
    assert settings.socket_path() == Path("/run/nexus-agent/agent.sock")
    own = tmp_path / "xdg" / "nexus-agent" / "agent.sock"
    own.parent.mkdir(parents=True)
    own.touch()
    assert settings.socket_path() == own
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert settings.socket_path() == Path("/run/nexus-agent/agent.sock")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/unit")
    assert settings.socket_path() == Path("/run/unit/agent.sock")
    monkeypatch.setenv("NEXUS_AGENT_SOCKET__PATH", "/elsewhere.sock")
    assert settings.socket_path() == Path("/elsewhere.sock")


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """Also when it only follows from the runtime directory."""
    assert "too long for a socket" in refused(tmp_path, BASE + f'[runtime]\ndirectory = "/{"x" * 100}"\n')


def test_a_value_is_never_repeated(run_dir: Path) -> None:
    """Somebody may have put a key where a name belongs. The file itself lies in memory: disks are searched."""
    for key in ("name", "endpoint", "credential", "environment"):
        text = "\n".join(f'{key} = "{CANARY} {CANARY}"' if line.startswith(key) else line for line in BASE.splitlines())
        if key == "environment":
            text = BASE + f"environment = {{x = '{CANARY}'}}\n"
        assert CANARY not in refused(run_dir, text)
    for text in (
        BASE + f'proxy = "http://user:{CANARY}@ho\\u2100st"\n',
        BASE + f'proxy = "http://user:x@[{CANARY}]"\n',
        BASE.replace("https://h.example", f"https://user:{CANARY}@ho\\u2100st"),
        BASE.replace("file:/k", f"env:{CANARY.replace('-', '_')}"),
    ):
        said = refused(run_dir, text)
        assert CANARY not in said
        assert CANARY.replace("-", "_") not in said


def test_all_problems_at_once(tmp_path: Path) -> None:
    """One run, one list."""
    said = refused(tmp_path, '[[service]]\nname = "a b"\nendpoint = "x"\n[socket]\nmode = "z"\nzz = 1\n')
    assert said.startswith("settings: 4 problems:")


def test_settings_are_frozen(tmp_path: Path) -> None:
    """Parsed once."""
    loaded = load(tmp_path, BASE)
    with pytest.raises(AttributeError):
        loaded.allow_disk = True  # type: ignore[misc]  # that is the point
