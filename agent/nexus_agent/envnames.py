"""From keys to environment names, in one place, so that every program that asks gets the same ones.

`stripe.secret_key` becomes `STRIPE_SECRET_KEY`. Two keys that give one name, a name that changes how programs run, and
a value that no environment can hold are errors that name the keys and the way out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from typing import Literal

from nexus_agent.errors import BadRequest, ForbiddenName, NameCollision, NotFound, TooLarge
from nexus_agent.model import Sensitive

# execve(2): MAX_ARG_STRLEN is 32 pages, the final NUL included.
STRING_MAX_BYTES = 131_071

# What decides which code a program loads, whom it trusts or what its supervisor hears. A store of secrets has no
# business there unless the caller says so by name.
FORBIDDEN = tuple(
    """LD_* DYLD_* GLIBC_TUNABLES GCONV_PATH LOCPATH MALLOC_* BASH_ENV ENV BASH_FUNC_* SHELLOPTS BASHOPTS PS4 IFS
    PROMPT_COMMAND PATH SHELL HOME TMPDIR PYTHON* PERL5* RUBYOPT RUBYLIB NODE_OPTIONS NODE_PATH NODE_EXTRA_CA_CERTS
    *JAVA*_OPTIONS CLASSPATH PHPRC PHP_INI_SCAN_DIR LUA_INIT DOTNET_STARTUP_HOOKS CORECLR_* GIT_SSH* GIT_EXEC_PATH
    GIT_CONFIG* GIT_ASKPASS GIT_EDITOR GIT_PAGER GIT_PROXY_COMMAND GIT_EXTERNAL_DIFF GIT_TEMPLATE_DIR SSL_CERT_*
    *_CA_BUNDLE OPENSSL_* *_proxy *_PROXY EDITOR PAGER BROWSER NOTIFY_SOCKET LISTEN_* WATCHDOG_* CREDENTIALS_DIRECTORY
    NEXUS_*""".split()  # noqa: SIM905  # sixty strings in quotes would hide the words
)

# One expression for all of them: every start of a program waits for this.
_FORBIDDEN = re.compile("|".join(map(translate, FORBIDDEN)))

Kind = Literal["secret", "config", "flag"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that may become an environment string. `text` is a file secret's path, or the value itself."""

    kind: Kind
    key: str
    text: Sensitive[str]
    type: str = ""
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller wants: which keys (globs), under which names, and which forbidden names it lets through."""

    prefix: str = ""
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    upper_case: bool = True


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment string of a child, and where it comes from."""

    name: str
    entry: Entry

    def assignment(self) -> bytes:
        """`NAME=VALUE` in the bytes that exec wants."""
        return f"{self.name}={self.entry.text.reveal()}".encode()


def environment_name(key: str, upper_case: bool = True) -> str:
    """The environment name of a key: upper case unless told otherwise, `_` for whatever a shell would not accept."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", key.upper() if upper_case else key)
    return f"_{name}" if name[:1].isdigit() else name


def variables(entries: Iterable[Entry], selection: Selection) -> tuple[Variable, ...]:
    """The environment strings of what `selection` wants of `entries`, in the order of `entries`.

    A secret wins over a config of the same key, and a config over a flag: they are one thing in two shapes. Raises
    `NotFound` for a required or renamed key that is not there, `NameCollision`, `ForbiddenName`, `TooLarge` and
    `BadRequest`, each naming every key that is at fault.
    """
    chosen = _chosen(entries, selection)
    _check_present(chosen, selection)
    named = [Variable(_name(entry.key, selection), entry) for entry in chosen]
    _check_names(named, selection)
    _check_collisions(named)
    _check_strings(named)
    return tuple(named)


def _chosen(entries: Iterable[Entry], selection: Selection) -> list[Entry]:
    def wanted(key: str) -> bool:
        inside = not selection.only or _matches(key, selection.only)
        return inside and not _matches(key, selection.exclude)

    strongest: dict[str, Entry] = {}
    rank = {"secret": 0, "config": 1, "flag": 2}
    for entry in sorted(entries, key=lambda entry: rank[entry.kind]):
        if wanted(entry.key):
            strongest.setdefault(entry.key, entry)
    return list(strongest.values())


def _matches(text: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)


def _name(key: str, selection: Selection) -> str:
    if key in selection.renamed:
        return selection.renamed[key]
    return environment_name(selection.prefix + key, selection.upper_case)


def _check_present(chosen: Sequence[Entry], selection: Selection) -> None:
    present = {entry.key for entry in chosen}
    missing = sorted({*selection.require, *selection.renamed} - present)
    if missing:
        raise NotFound(
            f"not there: {', '.join(missing)}",
            "set the key in Nexus, or correct require and map; keys are case-sensitive",
        )


def _check_names(named: Sequence[Variable], selection: Selection) -> None:
    unusable = sorted(v.entry.key for v in named if not v.name or "=" in v.name or not v.name.isprintable())
    if unusable:
        hint = "a name is not empty, and holds printable characters but no '='"
        raise BadRequest(f"no environment name for {', '.join(unusable)}", hint)
    forbidden = sorted(
        f"{v.name} (from {v.entry.kind} {v.entry.key})"
        for v in named
        if _FORBIDDEN.match(v.name) and v.name not in selection.allowed
    )
    if forbidden:
        raise ForbiddenName(
            f"would change how programs run: {', '.join(forbidden)}",
            "rename the key in Nexus; a request to /env may also say exclude=KEY, map=KEY=NAME or allow=NAME",
        )


def _check_collisions(named: Sequence[Variable]) -> None:
    keys: dict[str, list[str]] = {}
    for variable in named:
        keys.setdefault(variable.name, []).append(f"{variable.entry.kind} {variable.entry.key}")
    clashes = [f"{name} from {' and '.join(sorted(origins))}" for name, origins in keys.items() if len(origins) > 1]
    if clashes:
        raise NameCollision(
            f"one name from two keys: {'; '.join(sorted(clashes))}",
            "rename one of them in Nexus; a request to /env may also say map=KEY=NAME or exclude=KEY",
        )


def _check_strings(named: Sequence[Variable]) -> None:
    with_nul = sorted(f"{v.entry.kind} {v.entry.key}" for v in named if "\0" in v.entry.text.reveal())
    if with_nul:
        raise ForbiddenName(
            f"a value with a NUL byte fits in no environment: {', '.join(with_nul)}",
            "keep it as a file secret in Nexus; a request to /env may also say exclude=KEY",
        )
    # The final NUL of the string counts as well.
    too_long = sorted(f"{v.entry.kind} {v.entry.key}" for v in named if len(v.assignment()) + 1 > STRING_MAX_BYTES)
    if too_long:
        raise TooLarge(
            f"over {STRING_MAX_BYTES} bytes with its name, too long for an environment: {', '.join(too_long)}",
            "keep it as a file secret in Nexus; a request to /env may also say exclude=KEY",
        )
