"""nexus-run as a process: what the child inherits, byte for byte, and how it ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.canary import CANARY
from rig.processes import Installation, environment

from .conftest import PEM, Site

# A program that shows the strings it was started with, before any runtime has touched them.
SHOW = "import sys; sys.stdout.buffer.write(open('/proc/self/environ', 'rb').read())"


def with_environment(strings: list[bytes], *words: str | bytes) -> bytes:
    """Start a program with exactly these strings, which no dictionary could hold, and give its output."""
    program = (
        "import ctypes, sys\n"
        "words = eval(sys.argv[1]); strings = eval(sys.argv[2])\n"
        "array = lambda items: (ctypes.c_char_p * (len(items) + 1))(*items, None)\n"
        "ctypes.CDLL(None).execve(words[0], array(words), array(strings))\n"
    )
    coded = [os.fsencode(word) for word in words]
    done = subprocess.run(
        [sys.executable, "-c", program, repr(coded), repr(strings)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


STRANGE = [
    b"PATH=/usr/local/bin:/usr/bin:/bin",
    b"a.b=not an identifier",
    b"BASH_FUNC_x%%=() { :; }",
    b"TWICE=first",
    b"EMPTY=",
    b"NOT_UTF8=\xff\xfe",
    b"LINES=one\ntwo",
]


@pytest.mark.parametrize(
    "more", [[], [b"TWICE=second"], [b"no equals sign", b"=no name", b""]], ids=["usual", "a duplicate", "no names"]
)
def test_the_environment_is_the_callers_and_the_secrets(site: Site, commands: Installation, more: list[bytes]) -> None:
    """Order, duplicates, names that are no identifiers; no PWD, no LC_CTYPE, nothing of ours; secrets at the end."""
    own = [b"NEXUS_API_KEY=x", b"NEXUS_RUN_FLAGS=0", b"WESTYX_DEV_TOKEN=x", b"DB_PASSWORD=inherited"]
    python = str(commands.bin / "python3")
    words = [str(commands.bin / "nexus-run"), "--socket", str(site.socket), python, "-I", "-c", SHOW]
    given = with_environment([*STRANGE, *own, *more], *words).split(b"\0")[:-1]
    files = os.fsencode(site.socket.parent / "shop" / "files" / "TLS_CERT")
    assert given == [*STRANGE, *more, b"TLS_CERT=" + files, b"DB_PASSWORD=" + CANARY.encode()]


def test_the_control_a_shell_would_lose_names() -> None:
    """Why there is no shell before the child: the same strings through one."""
    shown = with_environment(STRANGE, "/bin/sh", "-c", f'exec {sys.executable} -I -c "$0"', SHOW).split(b"\0")
    assert b"a.b=not an identifier" not in shown or b"TWICE=first" not in shown


def test_python_hands_nothing_of_its_own_on(site: Site, commands: Installation) -> None:
    """In the C locale Python sets LC_CTYPE for itself, and it ignores SIGPIPE and SIGXFSZ: the child sees neither."""
    script = "cat /proc/self/status; env"
    words = [str(commands.bin / "nexus-run"), "--socket", str(site.socket), "/bin/sh", "-c", script]
    shown = with_environment([b"PATH=/usr/bin:/bin", b"LC_ALL=C"], *words).decode()
    ignored = int(next(line.split()[1] for line in shown.splitlines() if line.startswith("SigIgn")), 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))
    assert "LC_CTYPE" not in shown


def test_it_becomes_the_child(site: Site, commands: Installation) -> None:
    """The same process id, so that signals, job control and supervisors need nothing from us."""
    running = commands.start("nexus-run", "--socket", str(site.socket), "sh", "-c", "echo $$; exec sleep 60")
    assert int(running.await_line(str.isdigit, "out")) == running.popen.pid
    assert running.stop(signal.SIGUSR1) == -signal.SIGUSR1


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("sh", "-c", "exit 3"), 3, b""),
        (("no-such-program",), 127, b"nexus-run: not_found: "),
        (("/no/such/program",), 127, b"nexus-run: not_found: "),
        (("/etc/passwd",), 126, b"nexus-run: not_executable: "),
        (("/tmp",), 126, b"nexus-run: not_executable: "),
        ((), 125, b"nexus-run: usage: no command"),
        (("--redact", "env"), 125, b"nexus-run: usage: there is no option --redact"),
        (("-x", "env"), 125, b"nexus-run: usage: there is no option -x"),
        (("--service",), 125, b"nexus-run: usage: --service needs a value"),
        (("--configs=2", "env"), 125, b"nexus-run: usage: --configs or NEXUS_RUN_CONFIGS is neither 0 nor 1"),
        (("--service", "nope", "env"), 125, b"nexus-run: not_found: no service 'nope'"),
        (("--service", "a/b?c d", "env"), 125, b"nexus-run: not_found: no service 'a/b?c d'"),
        (("--service", "café", "env"), 125, "nexus-run: not_found: no service 'café'".encode()),
        (("--agent-uid", "no-such-user", "env"), 125, b"nexus-run: usage: --agent-uid: there is no user"),
        (("--agent-uid", "9" * 5000, "env"), 125, b"nexus-run: usage: --agent-uid: there is no user"),
        (("--help=x", "env"), 125, b"nexus-run: usage: there is no option --help"),
        (("--a\x1b[31m\n", "env"), 125, b"nexus-run: usage: there is no option --a\\x1b[31m\\n"),
        (("--socket", "", "env"), 125, b"nexus-run: usage: --socket: nothing is no path"),
        (("",), 127, b"nexus-run: not_found: "),
    ],
)
def test_exit_statuses(site: Site, commands: Installation, words: tuple[str, ...], status: int, code: bytes) -> None:
    """The child's own status, or one of ours with one line on stderr and nothing on stdout."""
    done = commands.run("nexus-run", "--socket", str(site.socket), *words)
    assert done.returncode == status
    assert done.stdout == b""
    assert done.stderr.startswith(code) if code else done.stderr == b""
    assert done.stderr.count(b"\n") == (1 if code else 0)


def test_every_option_has_a_twin_in_the_environment(site: Site, commands: Installation) -> None:
    """Each twin changes what happens, and the option wins over it."""

    def run(*words: str, **twins: str) -> tuple[int, bytes, bytes]:
        done = commands.run("nexus-run", *words, "env", env=environment(**twins), secret_output=True)
        return done.returncode, done.stdout, done.stderr

    path = str(site.socket)
    assert run()[0] == 125  # the control: without any word there is no agent where it looks
    assert run(NEXUS_RUN_SOCKET=path)[0] == 0
    assert run(NEXUS_RUN_SOCKET=path, NEXUS_RUN_SERVICE="nope")[0] == 125
    assert run("--service", "shop", NEXUS_RUN_SOCKET=path, NEXUS_RUN_SERVICE="nope")[0] == 0
    assert b"DB_URL=" not in run(NEXUS_RUN_SOCKET=path)[1]
    assert b"DB_URL=" in run(NEXUS_RUN_SOCKET=path, NEXUS_RUN_CONFIGS="1")[1]
    assert b"DB_URL=" not in run("--configs=0", NEXUS_RUN_SOCKET=path, NEXUS_RUN_CONFIGS="1")[1]
    assert b"NEW_CHECKOUT=true" in run(NEXUS_RUN_SOCKET=path, NEXUS_RUN_FLAGS="1")[1]
    assert b"no user" in run(NEXUS_RUN_SOCKET=path, NEXUS_RUN_AGENT_UID="no-such-user")[2]
    assert b"neither 0 nor 1" in run(NEXUS_RUN_SOCKET=path, NEXUS_RUN_CONFIGS="yes")[2]
    assert b"no option for NEXUS_RUN_CONFGS" in run(NEXUS_RUN_SOCKET=path, NEXUS_RUN_CONFGS="1")[2]


def test_the_socket_of_the_users_own_runtime_directory_is_found(site: Site, commands: Installation) -> None:
    """XDG_RUNTIME_DIR/nexus-agent/agent.sock, if it is there."""
    home = site.socket.parent
    (home / "nexus-agent").symlink_to(home)
    done = commands.run("nexus-run", "printenv", "TLS_CERT", env=environment(XDG_RUNTIME_DIR=str(home)))
    assert Path(done.stdout.decode().strip()).read_text() == PEM


def test_a_program_whose_interpreter_is_missing(site: Site, commands: Installation, run_dir: Path) -> None:
    """It is there, so that it is not is no help."""
    script = run_dir / "badly-begun"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    env = environment(PATH=f"{run_dir}:/usr/bin:/bin")
    for word in ("badly-begun", str(script)):
        done = commands.run("nexus-run", "--socket", str(site.socket), word, env=env)
        assert done.returncode == 127
        assert b"names an interpreter that is not there" in done.stderr


def test_a_path_without_a_slash_is_beside_us(site: Site, commands: Installation) -> None:
    """As every other program takes a path."""
    done = commands.run("nexus-run", "--socket", "agent.sock", "printenv", "TLS_CERT", cwd=site.socket.parent)
    assert Path(done.stdout.decode().strip()).read_text() == PEM
    away = commands.run("nexus-run", "--socket", "agent.sock", "true", cwd="/")
    assert b"agent_unreachable: no agent answers on agent.sock: No such file" in away.stderr


def test_nothing_of_the_terminal_is_needed(site: Site, commands: Installation, run_dir: Path) -> None:
    """A failure keeps its status where nobody listens; standard input, output and error may be closed."""
    script = str(commands.bin / "nexus-run")
    for redirection in ("2>&-", "2>/dev/full", ">&- 2>&- <&-"):
        failing = subprocess.run(["sh", "-c", f"{script} --socket {run_dir}/none true {redirection}"], check=False)
        assert failing.returncode == 125, redirection
        good = subprocess.run(["sh", "-c", f"{script} --socket {site.socket} true {redirection}"], check=False)
        assert good.returncode == 0, redirection


def test_without_proc_it_says_so(commands: Installation, run_dir: Path, roles: None) -> None:
    """Its environment cannot be had exactly from anywhere else."""
    script = f"mount -t tmpfs none /proc && exec {commands.bin}/nexus-run --socket {run_dir}/none true"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr[:20]) == (125, b"nexus-run: no_proc: ")


def test_a_copy_needs_its_package_beside_it(commands: Installation, site: Site, run_dir: Path) -> None:
    """Copied together they work anywhere, as into an application's image; alone, one line says what is missing."""
    alone = run_dir / "nexus-run"
    alone.write_bytes((commands.bin / "nexus-run").read_bytes())
    alone.chmod(0o755)
    words = [str(alone), "--socket", str(site.socket), "printenv", "TLS_CERT"]
    done = subprocess.run(words, capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"nexus-run: incomplete: there is no package nexus_run for ")
    (run_dir / "python3").symlink_to("/usr/bin/python3")  # as where programs and interpreters lie together
    done = subprocess.run(words, capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
    assert done.stderr.startswith(b"nexus-run: incomplete: there is no package nexus_run for ")
    shutil.copytree(Path(__file__).parents[2] / "injector" / "nexus_run", run_dir / "nexus_run")
    done = subprocess.run(words, capture_output=True, env=environment(), check=True)
    assert Path(done.stdout.decode().strip()).read_text() == PEM


def test_an_installation_whose_packages_lie_elsewhere(commands: Installation, site: Site, run_dir: Path) -> None:
    """As an editable one: the interpreter beside the script finds them."""
    place = run_dir / "elsewhere" / "bin"
    place.mkdir(parents=True)
    shutil.copy(commands.bin / "nexus-run", place)
    (place / "python3").write_text(f'#!/bin/sh\nexec {commands.bin}/python3 "$@"\n')
    (place / "python3").chmod(0o755)
    shown = with_environment(
        [b"PATH=/usr/bin:/bin"], str(place / "nexus-run"), "--socket", str(site.socket), "/usr/bin/env"
    )
    assert b"LC_CTYPE" not in shown
    other = run_dir / "other"
    other.mkdir()
    (other / "nexus-run").symlink_to(place / "nexus-run")
    words = ["--socket", str(site.socket), "printenv", "TLS_CERT"]
    done = subprocess.run([other / "nexus-run", *words], capture_output=True, env=environment(), check=True)
    assert Path(done.stdout.decode().strip()).read_text() == PEM
    module = commands.run("python3", "-I", "-m", "nexus_run", *words)
    assert Path(module.stdout.decode().strip()).read_text() == PEM


@pytest.mark.parametrize("damage", ["cut", "noise", "no source"])
def test_a_damaged_installation(site: Site, commands: Installation, run_dir: Path, damage: str) -> None:
    """A compiled file that is cut or noise is passed over; without its source one line says what to do."""
    place = run_dir / "bin"
    shutil.copytree(Path(__file__).parents[2] / "injector" / "nexus_run", place / "nexus_run")
    shutil.copy(commands.bin / "nexus-run", place)
    words = [str(place / "nexus-run"), "--socket", str(site.socket), "printenv", "TLS_CERT"]
    env = environment(PATH=f"{commands.bin}:/usr/bin:/bin")
    first = subprocess.run(words, capture_output=True, env=env, check=True)
    compiled = next((place / "nexus_run" / "__pycache__").glob("start.*.pyc"))
    header, body = compiled.read_bytes()[:16], compiled.read_bytes()[16:]
    if damage == "no source":
        (place / "nexus_run" / "start.py").write_text("this is no Python\n")
    else:
        compiled.write_bytes(header + (body[:400] if damage == "cut" else b"\xff" * 400))
    done = subprocess.run(words, capture_output=True, env=env, check=False)
    if damage == "no source":
        assert (done.returncode, done.stdout) == (125, b"")
        assert done.stderr.startswith(b"nexus-run: incomplete: SyntaxError in the package of ")
        assert done.stderr.count(b"\n") == 1
    else:
        assert done.stdout == first.stdout


def test_the_packages_of_another_python_will_do(site: Site, commands: Installation, run_dir: Path) -> None:
    """Whatever `python3` is on PATH; and its environment arrives as it was, in the C locale as well."""
    place = run_dir / "prefix"
    other = place / "lib" / "python3.99" / "dist-packages"
    shutil.copytree(Path(__file__).parents[2] / "injector" / "nexus_run", other / "nexus_run")
    (place / "bin").mkdir()
    shutil.copy(commands.bin / "nexus-run", place / "bin")
    strings = [b"PATH=/usr/bin:/bin", b"LC_ALL=C"]
    words = [str(place / "bin" / "nexus-run"), "--socket", str(site.socket), "/usr/bin/env"]
    names = [line.partition(b"=")[0] for line in with_environment(strings, *words).splitlines()]
    assert names == [b"PATH", b"LC_ALL", b"TLS_CERT", b"DB_PASSWORD"]


def answering(place: Path, answer: bytes) -> tuple[Path, threading.Thread]:
    """A socket where one answer waits for one caller."""
    path = place / "fake.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return path, thread


def problem(body: bytes) -> bytes:
    """A refusal with this body."""
    return b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n" % len(body) + body


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-env0\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", b"bad_answer: what answers is no nexus-agent"),
        (b"garbage\r\n\r\n", b"bad_answer: what answers is no nexus-agent"),
        (HEAD + b"Content-Length: 9\r\n\r\nA=1", b"bad_answer: the agent's answer was cut short"),
        (HEAD + b"\r\nA=1", b"bad_answer: the agent's answer was cut short"),
        (HEAD + b"Content-Length: 4\r\n\r\nA=1\0", b"bad_answer: what answers is no nexus-agent"),
        (HEAD + b"Content-Length: 3\r\n\r\nA\0B", b"bad_answer: what answers is no nexus-agent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nA=1", b"bad_answer: what answers is no nexus-agent"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", b"bad_answer: what answers is no nexus-agent"),
        (problem(b"[" * 200_000), b"bad_answer: what answers is no nexus-agent"),
        (problem(b'{"code":1,"detail":{}}'), b"1: {}"),
        (problem(b'{"code":"c","detail":"a\\nb"}'), b"c: a\\nb"),
    ],
)
def test_answers_that_are_none(commands: Installation, run_dir: Path, answer: bytes, said: bytes) -> None:
    """No program is started with half an environment, and one line says why."""
    path, thread = answering(run_dir, answer)
    done = commands.run("nexus-run", "--socket", str(path), "touch", str(run_dir / "started"))
    thread.join()
    assert done.returncode == 125
    assert done.stderr.startswith(b"nexus-run: " + said)
    assert done.stderr.count(b"\n") == 1
    assert not (run_dir / "started").exists()


def test_an_agent_that_says_nothing_is_not_waited_for_for_ever(site: Site, commands: Installation) -> None:
    """Ten seconds, whether it has accepted or not; and what it would have said is not missed afterwards."""
    site.agent.popen.send_signal(signal.SIGSTOP)
    done = commands.run("nexus-run", "--socket", str(site.socket), "true")
    site.agent.popen.send_signal(signal.SIGCONT)
    assert done.returncode == 125
    assert b"agent_unreachable" in done.stderr
    assert b"nothing for 10 s" in done.stderr
    assert commands.run("nexus-run", "--socket", str(site.socket), "true").returncode == 0


def test_ctrl_c_ends_the_waiting_without_a_word(commands: Installation, run_dir: Path) -> None:
    """As it would end the program."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "silent.sock"))
        listener.listen()
        waiting = commands.start("nexus-run", "--socket", str(run_dir / "silent.sock"), "true")
        with listener.accept()[0] as connection:
            assert connection.recv(65536).startswith(b"GET ")
            assert waiting.stop(signal.SIGINT) == -signal.SIGINT
    assert waiting.lines == {"out": [], "err": []}


def test_no_agent(commands: Installation, run_dir: Path) -> None:
    """What, where, and the next step."""
    done = commands.run("nexus-run", "--socket", str(run_dir / "agent.sock"), "env")
    assert done.returncode == 125
    assert done.stderr.startswith(f"nexus-run: agent_unreachable: no agent answers on {run_dir}/agent.sock: ".encode())
    assert b"nexus-agent run" in done.stderr


@pytest.mark.parametrize(
    ("link", "interpreter"),
    [(False, True), (True, True)],
    ids=["as installed", "through a symlink"],
)
def test_help_comes_from_the_package_beside(
    commands: Installation, run_dir: Path, link: bool, interpreter: bool
) -> None:
    """The slow path finds its package from where the script really is."""
    script = commands.bin / "nexus-run"
    if link:
        (run_dir / "nexus-run").symlink_to(script)
        script = run_dir / "nexus-run"
    done = subprocess.run([script, "--help"], capture_output=True, env=environment(), check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"Usage: nexus-run" in done.stdout
    version = subprocess.run([script, "--version"], capture_output=True, env=environment(), check=True, timeout=60)
    agent = commands.run("nexus-agent", "--version").stdout.split()
    assert version.stdout.split()[1] == agent[1]


def test_the_hot_path_loads_three_modules(site: Site, commands: Installation) -> None:
    """Seen from outside: what the interpreter says it imports to start a program, less what it always does."""
    python = str(commands.bin / "python3")
    flags = [python, "-I", "-S", "-X", "importtime"]
    script = [str(commands.bin / "nexus-run"), "--socket", str(site.socket), "true"]

    def imported(words: list[str]) -> set[str]:
        done = subprocess.run(words, capture_output=True, env=environment(), check=True, timeout=60)
        lines = done.stderr.decode().splitlines()
        return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}

    assert imported([*flags, *script]) - imported([*flags, "-c", "pass"]) <= {"sys", "posix", "_socket"}


def test_the_installed_script_is_the_one_of_the_repository(commands: Installation) -> None:
    """Byte for byte and executable: an installer that rewrites its first line would lose the interpreter's flags."""
    installed = commands.bin / "nexus-run"
    source = Path(__file__).parents[2] / "injector" / "nexus-run"
    assert installed.read_bytes() == source.read_bytes()
    assert os.access(installed, os.X_OK)


def test_descriptors_are_inherited(nexus_run: Callable[..., bytes]) -> None:
    """Socket activation and make's job server live on inherited descriptors; none of ours stays open."""
    read, write = os.pipe()
    try:
        words = ("python3", "-c", f"import os; os.write({write}, b'through\\n'); print(*os.listdir('/proc/self/fd'))")
        shown = nexus_run(*words, pass_fds=(write,)).split()
        assert os.read(read, 100) == b"through\n"
        assert {int(number) for number in shown} <= {0, 1, 2, 3, write}  # 3 is the directory that is listed
    finally:
        os.close(read)
        os.close(write)
