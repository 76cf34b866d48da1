"""Our commands as processes of their own, started as they are installed, by whichever user a test wants."""

import json
import os
import signal
import subprocess
import threading
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_SECONDS = 30


@dataclass(frozen=True)
class User:
    """Who a process runs as. Numbers need no entry in /etc/passwd."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """What subprocess wants."""
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}


def environment(**more: str) -> dict[str, str]:
    """A small, known environment: nothing of the machine that runs the tests leaks into a program under test."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **more}


@dataclass
class Running:
    """A started process. What it writes is read by a thread, kept, and searched for the canary at the end."""

    popen: subprocess.Popen[bytes]
    lines: dict[str, list[str]] = field(default_factory=lambda: {"out": [], "err": []})
    _news: threading.Condition = field(default_factory=threading.Condition)
    _readers: list[threading.Thread] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to read."""
        for name, pipe in (("out", self.popen.stdout), ("err", self.popen.stderr)):
            if pipe is None:
                continue
            reader = threading.Thread(target=self._read, args=(name, pipe), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, name: str, pipe: Any) -> None:
        for line in pipe:
            with self._news:
                self.lines[name].append(line.decode("utf-8", "replace").rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def await_line(self, wanted: Callable[[str], bool], name: str = "err") -> str:
        """The first line that is wanted; fails when the process ends or takes too long."""

        def search() -> str | None:
            return next((line for line in self.lines[name] if wanted(line)), None)

        with self._news:
            self._news.wait_for(lambda: search() is not None or self.popen.poll() is not None, READY_SECONDS)
            line = search()
        assert line is not None, f"not ready: {self.popen.poll()} {self.lines}"
        return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal, if it still runs; its exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            status = self.popen.wait(15)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.popen.stdout, self.popen.stderr, self.popen.stdin):
            if pipe is not None:
                pipe.close()
        return status


@dataclass
class Installation:
    """Our commands in a place that every user may run them from."""

    bin: Path
    running: list[Running] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)

    def command(self, *words: str | bytes) -> list[str | bytes]:
        """The words of one of our commands, by its full path."""
        return [str(self.bin / os.fsdecode(words[0])), *words[1:]]

    def run(
        self,
        *words: str | bytes,
        user: User | None = None,
        env: dict[str, str] | dict[bytes, bytes] | None = None,
        stdin: bytes = b"",
        secret_output: bool = False,
        **more: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end. What it writes joins the search for the canary, unless a value is its purpose."""
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
            env=environment() if env is None else env,
            **(user.arguments() if user else {}),
            **more,
        )
        outputs = [done.stderr] if secret_output else [done.stdout, done.stderr]
        self.transcript += [output.decode("utf-8", "replace") for output in outputs]
        return done

    def start(self, *words: str, user: User | None = None, env: dict[str, str] | None = None, **more: Any) -> Running:
        """Start a command that stays."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        popen = subprocess.Popen(
            self.command(*words),
            env=environment() if env is None else env,
            **(user.arguments() if user else {}),
            **{**streams, **more},
        )
        running = Running(popen)
        running.watch()
        self.running.append(running)
        return running

    def stop_all(self) -> None:
        """End what a test left, and keep what it wrote."""
        for running in self.running:
            running.stop()
            self.transcript += running.lines["out"] + running.lines["err"]
        self.running.clear()


def install(place: Path, project: Path) -> Installation:
    """The wheel of the project, built and installed into an environment of its own."""
    venv.create(place, with_pip=True)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    words = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", str(project)]
    subprocess.run([place / "bin" / "python", *words], check=True, env=environ, capture_output=True)
    return Installation(place / "bin")


@dataclass(frozen=True)
class Local:
    """A running nexus-local with one service, and how to talk to it."""

    installation: Installation
    process: Running
    data: Path
    endpoint: str
    keys: dict[str, str]
    user: User | None

    def admin(self, *words: str | bytes, stdin: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
        """An administration command on this server's directory, as its user; must succeed."""
        done = self.installation.run(
            "nexus-local", *words, "--data", str(self.data), stdin=stdin, user=self.user, **more
        )
        assert done.returncode == 0, done.stderr
        return done


def start_local(
    installation: Installation,
    data: Path,
    *,
    user: User | None = None,
    service: str = "shop",
    listen: str = "127.0.0.1:0",
) -> Local:
    """A nexus-local with a backend service."""
    process = installation.start("nexus-local", "serve", "--data", str(data), "--listen", listen, user=user)
    endpoint = json.loads(process.await_line(lambda line: "endpoint" in line, "out"))["endpoint"]
    made = installation.run(
        "nexus-local", "service", "create", service, "--json", "--data", str(data), user=user, secret_output=True
    )
    assert made.returncode == 0, made.stderr
    return Local(installation, process, data, endpoint, json.loads(made.stdout), user)


def start_agent(installation: Installation, config: Path, *words: str, user: User | None = None) -> Running:
    """An agent that listens."""
    process = installation.start("nexus-agent", "run", "--config", str(config), *words, user=user)
    process.await_line(lambda line: '"listening"' in line)
    return process


def settings_file(directory: Path, text: str, user: User | None = None) -> Path:
    """An agent.toml that its user may read."""
    path = directory / "agent.toml"
    path.write_text(text)
    if user is not None:
        os.chown(path, user.uid, user.gid)
    return path


def private_file(path: Path, text: str, user: User | None = None) -> Path:
    """A file of mode 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    if user is not None:
        os.chown(path, user.uid, user.gid)
    return path


def words_of(pid: int) -> Sequence[bytes]:
    """The command line of a process, as everybody on the machine can see it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
