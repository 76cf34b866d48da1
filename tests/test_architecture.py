"""The floors and the owners, read from the code's own imports and calls."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "nexus_agent": 0,
    "nexus_agent.errors": 0,
    "nexus_agent.model": 0,
    "nexus_agent.exactjson": 0,
    "nexus_agent.outcomes": 0,
    "nexus_agent.cadence": 0,
    "nexus_agent.template": 0,
    "nexus_agent.directories": 0,
    "nexus_agent.envnames": 0,
    "nexus_agent.settings_fields": 0,
    "nexus_agent.settings_report": 0,
    "nexus_agent.wire": 1,
    "nexus_agent.generation": 1,
    "nexus_agent.peer": 1,
    "nexus_agent.policy": 2,
    "nexus_agent.listener": 1,
    "nexus_agent.http_server": 1,
    "nexus_agent.signals": 1,
    "nexus_agent.settings": 1,
    "nexus_agent.log": 1,
    "nexus_agent.upstream": 2,
    "nexus_agent.identity": 2,
    "nexus_agent.store": 2,
    "nexus_agent.sync": 3,
    "nexus_agent.deliver": 3,
    "nexus_agent.deliver.documents": 3,
    "nexus_agent.deliver.responses": 3,
    "nexus_agent.deliver.api": 3,
    "nexus_agent.deliver.face": 3,
    "nexus_agent.deliver.door": 3,
    "nexus_agent.deliver.outputs": 3,
    "nexus_agent.daemon": 4,
    "nexus_agent.cli": 5,
    "nexus_agent.cli.ask": 5,
    "nexus_agent.cli.checking": 5,
    "nexus_agent.cli.seed": 5,
    "nexus_agent.cli.trial": 5,
}
# Everybody may know what an error and a value is.
COMMON = {"nexus_agent", "nexus_agent.errors", "nexus_agent.model", "nexus_agent.exactjson"}
# One idea in several files: the socket API, and the commands.
SAME_FLOOR = {
    ("nexus_agent.cadence", "nexus_agent.outcomes"),
    ("nexus_agent.deliver.responses", "nexus_agent.deliver.documents"),
    ("nexus_agent.deliver.api", "nexus_agent.deliver.responses"),
    ("nexus_agent.deliver.face", "nexus_agent.deliver.responses"),
    ("nexus_agent.deliver.api", "nexus_agent.deliver.documents"),
    ("nexus_agent.deliver.face", "nexus_agent.deliver.api"),
    ("nexus_agent.deliver.face", "nexus_agent.deliver.documents"),
    ("nexus_agent.deliver.api", "nexus_agent.deliver"),
    ("nexus_agent.deliver.face", "nexus_agent.deliver"),
    ("nexus_agent.deliver.face", "nexus_agent.deliver.door"),
    ("nexus_agent.cli", "nexus_agent.cli.ask"),
    ("nexus_agent.cli", "nexus_agent.cli.checking"),
    ("nexus_agent.cli", "nexus_agent.cli.trial"),
    ("nexus_agent.cli.trial", "nexus_agent.cli.seed"),
    ("nexus_agent.cli.trial", "nexus_agent.cli"),
}
LOCAL_MAY_USE = COMMON | {
    "nexus_agent.wire",
    "nexus_agent.directories",
    "nexus_agent.template",
    "nexus_agent.log",
    "nexus_agent.listener",
    "nexus_agent.http_server",
    "nexus_agent.signals",
    "nexus_agent.cli",
}
DELIVERERS_MAY_NOT_USE = {"nexus_agent.sync", "nexus_agent.upstream", "nexus_agent.identity", "nexus_agent.settings"}


def modules(package: Path) -> dict[str, ast.Module]:
    """Each module of a package by its full name."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


CODE = {
    **modules(ROOT / "agent" / "nexus_agent"),
    **modules(ROOT / "agent" / "nexus_local"),
    **modules(ROOT / "injector" / "nexus_run"),
}


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of what is imported, by modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in CODE else node.module


def calls(tree: ast.AST) -> Iterator[str]:
    """The dotted names of what is called or read, such as `os.environ`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def wrong_imports(name: str, tree: ast.AST) -> list[str]:
    """What a module of the agent imports although it lies above or beside it."""
    ours = [target for target in imports(tree) if target.startswith("nexus_agent")]
    return [
        target
        for target in ours
        if target not in COMMON
        and (name, target) not in SAME_FLOOR
        and not (FLOORS[target] < FLOORS[name] or (name, target) == ("nexus_agent.policy", "nexus_agent.peer"))
    ]


def test_every_module_has_a_floor() -> None:
    """A new module takes its place here first."""
    assert {name for name in CODE if name.startswith("nexus_agent")} == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_point_down(name: str) -> None:
    """Never up, and never to a neighbour."""
    assert wrong_imports(name, CODE[name]) == []


def test_an_import_that_points_up_is_found() -> None:
    """The control."""
    assert wrong_imports("nexus_agent.wire", ast.parse("from nexus_agent import sync")) == ["nexus_agent.sync"]
    assert wrong_imports("nexus_agent.peer", ast.parse("import nexus_agent.settings")) == ["nexus_agent.settings"]


def test_deliverers_know_only_the_store() -> None:
    """They are handed `refresh` as a callable, and never talk to Nexus themselves."""
    for name in FLOORS:
        if name.startswith("nexus_agent.deliver"):
            assert not DELIVERERS_MAY_NOT_USE & set(imports(CODE[name])), name


def test_the_embedded_nexus_uses_only_the_agents_foundation() -> None:
    """And the agent knows of it only where `dev` puts both together."""
    for name, tree in CODE.items():
        if name.startswith("nexus_local"):
            used = {target for target in imports(tree) if target.startswith("nexus_agent")}
            assert used <= LOCAL_MAY_USE, name
        elif name not in ("nexus_agent.cli.trial", "nexus_agent.cli.seed"):
            assert not [target for target in imports(tree) if target.startswith("nexus_local")], name


def test_the_wrapper_uses_the_standard_library_only() -> None:
    """The package as a whole, and what starts a program three built-in modules; others only off its usual way."""
    for name, tree in CODE.items():
        if name.startswith("nexus_run"):
            used = {target.partition(".")[0] for target in imports(tree)} - {"nexus_run"}
            assert used <= sys.stdlib_module_names
    assert set(imports(ast.parse((ROOT / "injector" / "nexus-run").read_text()))) == {"sys", "posix"}
    start = CODE["nexus_run.start"]
    top = {target for node in start.body if isinstance(node, ast.Import | ast.ImportFrom) for target in imports(node)}
    assert top == {"sys", "posix", "_socket"}
    late = {
        node.name: set(imports(node)) for node in start.body if isinstance(node, ast.FunctionDef) and set(imports(node))
    }
    assert late == {
        "tell": {"nexus_run.about"},
        "number_of_user": {"pwd"},
        "problem": {"json"},
        "exec_any": {"ctypes"},
    }


@pytest.mark.parametrize(
    ("what", "owners"),
    [
        (r"os\.(environ|getenv)", {"nexus_agent.settings", "nexus_local.cli"}),
        (r"sys\.exit", {"nexus_agent.cli", "nexus_agent.signals"}),
        (r"posix\._exit", {"nexus_run.start"}),
        (r"(time\.(time|monotonic)|random\.\w+)", {"nexus_agent.daemon", "nexus_agent.upstream"}),
        (r"datetime\.now", {"nexus_local.database", "nexus_agent.cli.seed"}),
    ],
)
def test_each_side_effect_has_one_owner(what: str, owners: set[str]) -> None:
    """Environment, exit, time and chance."""
    users = {name for name, tree in CODE.items() if any(re.fullmatch(what, call) for call in calls(tree))}
    assert users == owners


def test_files_are_written_in_few_places() -> None:
    """Whatever writes is named here."""
    writers = r"(write_text|write_bytes|mkdir|symlink_to|rename|unlink|rmtree|fchown|chown|fchmod|chmod|link)"
    found = {
        name
        for name, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.fullmatch(writers, node.attr)
    }
    assert found == {
        "nexus_agent.directories",
        "nexus_agent.generation",
        "nexus_agent.listener",
        "nexus_agent.cli.trial",
        "nexus_local.database",
        "nexus_local.vault",
    }


@pytest.mark.parametrize("name", CODE)
def test_files_and_functions_stay_small(name: str) -> None:
    """350 lines and 40: what grows past that has two ideas in it."""
    tree = CODE[name]
    assert max((getattr(node, "end_lineno", 0) for node in tree.body), default=0) <= 350
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 42, f"{node.name} in {name}"


def test_help_loads_nothing_heavy() -> None:
    """Start-up is imports: `--help` needs none of the libraries of a run."""
    program = "import sys; from nexus_agent import cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.decode().split()
    assert not {"aiohttp", "pydantic", "structlog", "cryptography", "asyncio", "rich"} & set(loaded)
    assert "click" in loaded  # the control: something was loaded
