"""Fixtures of the whole suite: an installation, private directories in memory, and the watch over the canary."""

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rig import canary
from rig.clock import Clock
from rig.processes import Installation, User, install
from rig.recorded import Recorded

ROOT = Path(__file__).parent.parent
AGENT = User(64_101, 64_101, (64_100,))
APP = User(64_102, 64_102, (64_100,))
STRANGER = User(64_103, 64_103)
SHARED_GROUP = 64_100

_transcripts: list[list[str]] = []
_reports: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long` runs the long forms as well."""
    parser.addoption("--long", action="store_true", help="the long forms: many more rounds of the same tests")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How many times as much the long form does."""
    return 100 if request.config.getoption("--long") else 1


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The wheel, built and installed as a user would, where every uid of this machine may run it."""
    place = Path(tempfile.mkdtemp(prefix="nexus-installed-"))
    place.chmod(0o755)
    try:
        installed = install(place / "env", ROOT)
        _transcripts.append(installed.transcript)
        yield installed
    finally:
        shutil.rmtree(place)


@pytest.fixture
def commands(installation: Installation, run_dir: Path) -> Iterator[Installation]:
    """The installation; whatever a test starts with it is ended with the test, before its directory goes."""
    yield installation
    installation.stop_all()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A private directory in memory that other users may pass through."""
    place = Path(tempfile.mkdtemp(prefix="nexus-test-", dir="/dev/shm"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def clock() -> Clock:
    """Time that stands still until the test moves it."""
    return Clock()


@pytest.fixture
async def recorded() -> AsyncIterator[Recorded]:
    """A recorded Nexus on loopback."""
    server = Recorded()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def roles(installation: Installation) -> None:
    """Skips where processes of other users cannot be started."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to start processes of other users")
    base = Path(sysconfig.get_path("stdlib"))
    passable = all(parent.stat().st_mode & 0o001 for parent in (base, *base.parents))
    if not passable:
        pytest.skip(f"other users cannot run {sys.executable}: install python3 and python3-venv from the system")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what each test printed and what each failure shows."""
    _reports.extend(text for _, text in report.sections)
    if report.failed:
        _reports.append(str(report.longrepr))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Look for the canary in everything that came out; finding it fails the run."""
    leaks = [f"transcript: {line[:200]}" for lines in _transcripts for line in lines if canary.found_in(line.encode())]
    leaks += [f"report: {text[:200]}" for text in _reports if canary.found_in(text.encode())]
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None:
        leaks += [f"file: {path}" for path in canary.search(factory.getbasetemp())]
    if leaks:
        sys.stderr.write("\nthe canary was seen:\n" + "\n".join(leaks) + "\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
