"""The words of the command line and their twins in the environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nexus_run.failure import Failed, shown

HELP = """\
Usage: nexus-run [OPTIONS] [--] COMMAND [ARGUMENT...]

Start COMMAND with the secrets of a service in its environment, and become it: same process, same terminal, its own
exit status. The values come from a running nexus-agent. Options end at the first word that is none.

Select
  --service NAME     which service; needed when the agent keeps several     [NEXUS_RUN_SERVICE]
  --configs          configs as well; a secret wins over a config           [NEXUS_RUN_CONFIGS=1]
  --flags            feature flags as well, as true or false                [NEXUS_RUN_FLAGS=1]

Agent
  --socket PATH      its socket [$XDG_RUNTIME_DIR/nexus-agent/agent.sock if it is there,
                     else /run/nexus-agent/agent.sock]                      [NEXUS_RUN_SOCKET]
  --agent-uid USER   believe an agent of this user (name or number) as well as root's and your own
                                                                            [NEXUS_RUN_AGENT_UID]

  -h, --help         this text
  --version          the version

stripe.secret_key becomes STRIPE_SECRET_KEY; a file secret gives the path of its file. Secrets win over what is
inherited. NEXUS_API_KEY, WESTYX_DEV_TOKEN and NEXUS_RUN_* are not handed on.

Exit status: COMMAND's own; 127 COMMAND not found, 126 not executable, 125 anything of ours before its start.
There is no shell: a script needs its own first line #!..."""

_VALUES = (b"socket", b"agent-uid", b"service")
_SWITCHES = (b"configs", b"flags")


@dataclass(frozen=True)
class Options:
    """What was asked for. `wanted` names what is wanted besides secrets; `asks` is "help" or "version" or empty."""

    socket: "bytes | None" = None
    agent_uid: "bytes | None" = None
    service: bytes = b"-"
    wanted: tuple[bytes, ...] = ()
    command: tuple[bytes, ...] = ()
    asks: str = ""


def parse(words: Sequence[bytes], inherited: Mapping[bytes, bytes]) -> Options:
    """The options, and the command behind them. An option that is not known is an error, never ignored."""
    values: dict[bytes, bytes] = {}
    for name in (*_VALUES, *_SWITCHES):
        if _twin(name) in inherited:
            values[name] = inherited[_twin(name)]
    rest = list(words)
    while rest and rest[0].startswith(b"-"):
        word, equals, value = rest.pop(0).partition(b"=")
        if word == b"--" and not equals:
            break
        if word in (b"-h", b"--help", b"--version") and not equals:
            return Options(asks="version" if word == b"--version" else "help")
        name = word[2:] if word.startswith(b"--") else b""
        if name in _SWITCHES:
            values[name] = value if equals else b"1"
        elif name not in _VALUES:
            raise Failed("usage", f"there is no option {shown(word)}", "nexus-run --help lists them; -- ends them")
        elif equals or rest:
            values[name] = value if equals else rest.pop(0)
        else:
            raise Failed("usage", f"{shown(word)} needs a value", "nexus-run --help")
    if not rest:
        raise Failed("usage", "no command", "nexus-run [OPTIONS] [--] COMMAND [ARGUMENT...]")
    wanted = tuple(name for name in _SWITCHES if _is_on(name, values.get(name)))
    service = values.get(b"service", b"-")
    return Options(values.get(b"socket"), values.get(b"agent-uid"), service, wanted, tuple(rest))


def _twin(name: bytes) -> bytes:
    return b"NEXUS_RUN_" + name.upper().replace(b"-", b"_")


def _is_on(name: bytes, value: "bytes | None") -> bool:
    if value not in (None, b"0", b"1"):
        twin = shown(_twin(name))
        raise Failed("usage", f"--{shown(name)} or {twin} is neither 0 nor 1", "leave it out or set it to 1")
    return value == b"1"
