"""What the documents say is what happens: the README's commands as pasted, and its tables complete."""

import re
import shutil
import subprocess
from pathlib import Path

from nexus_agent.deliver.api import _ROUTES
from nexus_agent.errors import NexusError
from nexus_agent.settings import _Document
from rig.processes import Installation, environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "agent" / "PROTOCOL.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_the_first_command_shows_the_main_job(run_dir: Path) -> None:
    """In a copy of what the repository has, with nothing but a Python: values from Nexus in a real program."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0")[:-1]:
        if (ROOT / name).exists():
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, run_dir / name)
    done = subprocess.run(
        ["bash", "-c", COMMANDS[0]], cwd=run_dir, env=environment(HOME=str(run_dir)), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    url, number, path, *certificate = done.stdout.decode().splitlines()
    assert re.fullmatch(r"postgresql://app:[\w-]{20,}@db\.internal:5432/app", url)
    assert number == "1500"
    assert path.endswith("/files/TLS_CERT")
    assert (certificate[0], certificate[-1]) == ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----")


def test_the_second_command_is_what_a_checking_machine_calls() -> None:
    """One command, without arguments."""
    assert COMMANDS[1] == "tests/run\n"
    assert "exec tests/run </dev/null" in (ROOT / ".ci" / "run").read_text()


def test_the_commands_of_a_nexus_of_your_own(commands: Installation, tmp_path: Path) -> None:
    """One after the other, as they stand there."""
    (tmp_path / "cert.pem").write_text("pem\n")
    first, *lines = COMMANDS[2].splitlines()
    assert first.startswith("nexus-local serve &")  # here on a free port, and waited for
    env = environment(NEXUS_LOCAL_DATA=str(tmp_path / "nexus"))
    env["PATH"] = f"{commands.bin}:{env['PATH']}"
    serving = commands.start("nexus-local", "serve", "--listen", "127.0.0.1:0", env=env)
    serving.await_line(lambda line: "endpoint" in line, "out")
    done = subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    got = commands.run("nexus-local", "config", "list", "shop", env=env).stdout.decode()
    assert "api.timeout_ms = 1500" in got


def test_every_settings_key_is_explained() -> None:
    """In the table of the README."""
    table = README.partition("## Settings")[2].partition("## The socket")[0]
    for section, field in _Document.model_fields.items():
        model = next((a for a in getattr(field.annotation, "__args__", ()) if isinstance(a, type)), field.annotation)
        assert f"[{section}" in table, section
        for key in model.model_fields:  # type: ignore[union-attr]  # every section is a model
            assert key in table, f"{section}.{key}"


def test_every_path_and_every_code_of_the_socket_is_in_the_protocol() -> None:
    """Nothing is served that is not told."""
    local = PROTOCOL.partition("## 2. The local socket")[2]
    for route in _ROUTES:
        path = "/" + "/".join(route.segments)
        assert path in local or path.replace("/{key}", "") in local, path
    served = {"bad_request", "denied", "not_found", "method_not_allowed", "too_large", "not_ready", "not_fresh"}
    known = {kind.code for kind in NexusError.__subclasses__()}
    assert served <= known
    told = set(re.findall(r"`([a-z_]+)` (?:4|5)\d\d", local))
    assert served <= told <= known | {"internal"}


def test_the_version_is_one() -> None:
    """Of the package, of the wrapper and of the distribution."""
    import tomllib

    from nexus_agent import __version__
    from nexus_run import about

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__ == about.VERSION
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
