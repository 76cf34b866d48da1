"""Nexus as one user, the agent as a second, the app as a third: what root on one uid would hide."""

import os
from pathlib import Path

import pytest

from conftest import AGENT, APP, SHARED_GROUP, STRANGER
from rig.canary import CANARY
from rig.processes import Installation, User, private_file, settings_file, start_agent, start_local

from .conftest import PEM, Site, fill, settings_text

NEXUS = User(64_104, 64_104)


@pytest.fixture
def site(commands: Installation, roles: None, run_dir: Path) -> Site:
    """The agent is a member of the socket's group, and so is the app."""
    data, home = run_dir / "nexus", run_dir / "agent"
    for path, user in ((data, NEXUS), (home, AGENT)):
        path.mkdir(mode=0o755)
        os.chown(path, user.uid, user.gid)
    data.chmod(0o700)
    local = start_local(commands, data, user=NEXUS)
    fill(local)
    key = private_file(home / "key", local.keys["primary"], AGENT)
    more = f'\n[socket]\npath = "{home}/run/agent.sock"\ngroup = {SHARED_GROUP}\n'
    config = settings_file(home, settings_text(local, home, key, more), AGENT)
    agent = start_agent(commands, config, user=AGENT)
    agent.await_line(lambda line: '"files_written"' in line)
    return Site(local, agent, config, home / "run" / "agent.sock")


def run_as(site: Site, commands: Installation, user: User, *words: str) -> tuple[int, bytes, bytes]:
    """nexus-run as some user, told whose agent to believe."""
    options = ("--socket", str(site.socket), "--agent-uid", str(AGENT.uid))
    done = commands.run("nexus-run", *options, "--", *words, user=user, secret_output=True)
    return done.returncode, done.stdout, done.stderr


def test_the_app_gets_its_secrets_and_can_open_its_files(site: Site, commands: Installation) -> None:
    """A member of the socket's group reads everything, and no path is given that it cannot open."""
    status, printed, errors = run_as(site, commands, APP, "sh", "-c", 'id -u; echo "$DB_PASSWORD"; cat "$TLS_CERT"')
    assert (status, printed.decode(), errors) == (0, f"{APP.uid}\n{CANARY}\n{PEM}", b"")


def test_others_get_nothing_and_learn_nothing(site: Site, commands: Installation) -> None:
    """A stranger is refused alike for a key that exists and one that does not, and the files are closed to him."""
    status, printed, errors = run_as(site, commands, STRANGER, "env")
    assert (status, printed) == (125, b"")
    assert errors.startswith(b"nexus-run: denied: ")
    answers = []
    for key in ("db:password", "no.such.key"):
        argument = f"http://agent/v1/-/secrets/{key}"
        python = f"""
import http.client, socket
c = http.client.HTTPConnection("agent")
c.sock = socket.socket(socket.AF_UNIX); c.sock.connect({str(site.socket)!r})
c.request("GET", {argument.removeprefix("http://agent")!r})
r = c.getresponse(); print(r.status, sorted((n, v) for n, v in r.headers.items() if n != "Date"), r.read())
"""
        answers.append(commands.run("python3", "-c", python, user=STRANGER).stdout)
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"403 ")
    files = site.socket.parent / "shop" / "files"
    looked = commands.run("python3", "-c", f"import os; os.listdir({str(files)!r})", user=STRANGER)
    assert b"PermissionError" in looked.stderr


def test_the_app_cannot_read_what_is_the_agents(site: Site, commands: Installation) -> None:
    """Neither the key nor Nexus' database, and it cannot put a socket of its own in the agent's place."""
    directory = site.socket.parent
    for path in (directory.parent / "key", site.local.data / "nexus.db"):
        tried = commands.run("python3", "-c", f"open({str(path)!r})", user=APP)
        assert b"PermissionError" in tried.stderr
    tried = commands.run("python3", "-c", f"import os; os.unlink({str(site.socket)!r})", user=APP)
    assert b"PermissionError" in tried.stderr


def test_an_agent_of_somebody_else_is_not_believed(site: Site, commands: Installation) -> None:
    """Without a word about the agent's user, /dev/shm says nothing about who may be there."""
    done = commands.run("nexus-run", "--socket", str(site.socket), "--", "env", user=APP)
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: agent_not_trusted: ")
    named = commands.run("nexus-run", "--socket", str(site.socket), "--agent-uid", "daemon", "env", user=APP)
    assert named.stderr.startswith(b"nexus-run: agent_not_trusted: ")  # a name is read, and it is not that one


def test_a_link_in_somebody_elses_directory_leads_nowhere(commands: Installation, roles: None, run_dir: Path) -> None:
    """He may point it at a place that only root could have made, such as his home: he chose it, root did not."""
    home, place = Path("/run", f"nexus-test-{os.getpid()}"), run_dir / "his"
    for directory in (home, place):
        directory.mkdir(mode=0o755)
        os.chown(directory, STRANGER.uid, STRANGER.gid)
    try:
        program = """
import contextlib, os, socket
os.umask(0)
s = socket.socket(socket.AF_UNIX)
s.bind("agent.sock")
s.listen()
print("listening", flush=True)
while True:
    with contextlib.suppress(OSError), s.accept()[0] as c:
        c.recv(9999)
        c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nContent-Type: application/x-env0\\r\\n\\r\\nA=1")
"""
        commands.start("python3", "-c", program, user=STRANGER, cwd=home).await_line(lambda line: True, "out")
        (place / "link").symlink_to(home)
        roots = Path("/run", f"nexus-test-link-{os.getpid()}")
        roots.symlink_to(place / "link")  # root's own link, to one that is not root's
        direct = commands.run("nexus-run", "--socket", f"{home}/agent.sock", "printenv", "A", user=APP)
        assert direct.stdout == b"1\n"  # the control: without the link it is a place that root has given to him
        led = commands.run("nexus-run", "--socket", f"{place}/link/agent.sock", "printenv", "A", user=APP)
        assert (led.returncode, led.stdout) == (125, b"")
        assert led.stderr.startswith(b"nexus-run: agent_not_trusted: ")
        led = commands.run("nexus-run", "--socket", f"{roots}/agent.sock", "printenv", "A", user=APP)
        assert (led.returncode, led.stdout) == (125, b"")
        slashes = commands.run("nexus-run", "--socket", f"/{home}//agent.sock", "printenv", "A", user=APP)
        assert slashes.stdout == b"1\n"
    finally:
        commands.stop_all()
        roots.unlink(missing_ok=True)
        for path in home.iterdir():
            path.unlink()
        home.rmdir()


def test_the_owner_of_a_directory_that_only_root_could_make_is_believed(site: Site, commands: Installation) -> None:
    """As /run/nexus-agent is: made by root, given to the agent's user."""
    place = Path("/run", f"nexus-test-{os.getpid()}")
    place.mkdir(mode=0o755)
    try:
        os.chown(place, AGENT.uid, AGENT.gid)
        socket = place / "agent.sock"
        text = site.config.read_text().replace(str(site.socket), str(socket)).replace('/run"', '/run2"')
        config = settings_file(place, text, AGENT)
        start_agent(commands, config, user=AGENT).await_line(lambda line: '"files_written"' in line)
        words = ("--socket", str(socket), "printenv", "DB_PASSWORD")
        done = commands.run("nexus-run", *words, user=APP, secret_output=True)
        assert (done.returncode, done.stdout.decode()) == (0, f"{CANARY}\n")
        place.chmod(0o775)
        done = commands.run("nexus-run", *words, user=APP)
        assert done.stderr.startswith(b"nexus-run: agent_not_trusted: ")
    finally:
        commands.stop_all()
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


def test_files_have_owner_group_and_mode_of_the_settings(site: Site) -> None:
    """0440 and the socket's group, which is who may read."""
    status = (site.socket.parent / "shop" / "files" / "TLS_CERT").stat()
    assert (status.st_uid, status.st_gid, oct(status.st_mode & 0o777)) == (AGENT.uid, SHARED_GROUP, "0o440")
