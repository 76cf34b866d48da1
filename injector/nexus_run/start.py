"""The start of a program: its environment from the agent, and then nothing of us is left.

The usual way needs three built-in modules and nothing else; what only a failure needs is imported where it happens.
Everything is bytes, as an environment is. `bin/nexus-run` runs this file, compiled but not imported, under any CPython
from 3.9 on: the annotations are those that such a one understands.
"""

import posix
import sys
from _socket import AF_UNIX, SO_PEERCRED, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET, socket

SECONDS = 10
# Twice what the largest snapshot of a service could give.
MOST_BYTES = 16 * 1024 * 1024
# Ours, never the program's.
OWN = (b"NEXUS_API_KEY", b"WESTYX_DEV_TOKEN")
OPTIONS = (b"socket", b"agent-uid", b"service", b"configs", b"flags")
SWITCHES = (b"configs", b"flags")
PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~"
MSG_WAITALL = 0x100
MOST_LINKS = 40
MOST_STOPS = 3
# What execvp(3) goes on after, as another place may have it: ENOENT, EACCES, ENOTDIR, ENAMETOOLONG.
ELSEWHERE = (2, 13, 20, 36)


class Failed(Exception):
    """Why no program is started: a stable code, what is wrong, what to do, and the exit status."""

    def __init__(self, code: str, what: str, hint: str = "", status: int = 125) -> None:
        super().__init__(code)
        self.words = (code, what, hint)
        self.status = status


class Block:
    """An environment as execve takes it from Python: a mapping that may have a name twice, as a real one may."""

    def __init__(self, strings: "list[bytes]") -> None:
        self.pairs = [string.partition(b"=")[::2] for string in strings]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, name: bytes) -> bytes:
        return dict(self.pairs)[name]

    def keys(self) -> "list[bytes]":
        """The names, in order."""
        return [name for name, _ in self.pairs]

    def values(self) -> "list[bytes]":
        """The values, in the order of their names."""
        return [value for _, value in self.pairs]


def read(path: str) -> bytes:
    """A whole file."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    content = b""
    while piece := posix.read(descriptor, 65536):
        content += piece
    posix.close(descriptor)
    return content


def text(raw: bytes) -> str:
    """Bytes of the caller's, for a message."""
    return raw.decode("utf-8", "backslashreplace")


def twin(name: bytes) -> bytes:
    """The variable that stands for an option."""
    return b"NEXUS_RUN_" + name.upper().replace(b"-", b"_")


def parse(words: "list[bytes]", inherited: "dict[bytes, bytes]") -> "tuple[dict[bytes, bytes], list[bytes]]":
    """The options, by name, and the command. An option that is not known is an error, never ignored."""
    twins = {twin(name): name for name in OPTIONS}
    options = {}
    for variable in inherited:
        if variable[:10] == b"NEXUS_RUN_":
            if variable not in twins:
                raise Failed("usage", "there is no option for " + text(variable), "nexus-run --help lists them")
            options[twins[variable]] = inherited[variable]
    position = 0
    while position < len(words) and words[position][:1] == b"-":
        word, equals, value = words[position].partition(b"=")
        position += 1
        if word == b"--" and not equals:
            break
        if word in (b"-h", b"--help", b"--version") and not equals:
            tell(word)
        name = word[2:]
        if word[:2] != b"--" or name not in OPTIONS:
            raise Failed("usage", "there is no option " + text(word), "nexus-run --help lists them; -- ends them")
        if not equals and name not in SWITCHES and position == len(words):
            raise Failed("usage", text(word) + " needs a value", "nexus-run --help")
        if not equals:
            value = b"1" if name in SWITCHES else words[position]
            position += name not in SWITCHES
        options[name] = value
    if position == len(words):
        raise Failed("usage", "no command", "nexus-run [OPTIONS] [--] COMMAND [ARGUMENT...]")
    for name in SWITCHES:
        if options.get(name, b"0") not in (b"0", b"1"):
            names = "--" + text(name) + " or " + text(twin(name))
            raise Failed("usage", names + " is neither 0 nor 1", "leave it out or set it to 1")
    return options, words[position:]


def tell(word: bytes) -> None:
    """Print what was asked for, and end."""
    if PLACE:
        sys.path.insert(0, PLACE)
    from nexus_run import about

    try:
        posix.write(1, (about.VERSION_LINE if word == b"--version" else about.HELP).encode())
    except OSError as error:
        raise Failed("output", "standard output cannot be written: " + str(error.strerror)) from None
    posix._exit(0)


def find_socket(options: "dict[bytes, bytes]", inherited: "dict[bytes, bytes]") -> bytes:
    """The path that was given, the one of this user's own agent if that is there, or the one of the machine's."""
    if b"socket" in options:
        return options[b"socket"]
    own = inherited.get(b"XDG_RUNTIME_DIR", b"/run") + b"/nexus-agent/agent.sock"
    return own if posix.access(own, 0) else b"/run/nexus-agent/agent.sock"


def request(options: "dict[bytes, bytes]") -> bytes:
    """What is sent: no secret, and nothing that anybody might not know."""
    service = b"".join(b"%c" % c if c in PLAIN else b"%%%02X" % c for c in options.get(b"service", b"-"))
    query = b"&".join(name + b"=1" for name in SWITCHES if options.get(name) == b"1")
    return (
        b"GET /v1/%s/env%s HTTP/1.1\r\nHost: nexus-agent\r\nAccept: application/x-env0\r\nConnection: close\r\n\r\n"
        % (service, b"?" + query if query else b"")
    )


def ask(path: bytes, agent_uid: "bytes | None", question: bytes) -> bytes:
    """The agent's answer, once it is certain that it is one that may be believed."""
    directory, slash, name = path.rpartition(b"/")
    if not name:
        raise Failed("usage", "--socket: " + (text(path) or "nothing") + " is no path of a socket", "name the agent's")
    uids = (0, posix.geteuid(), number_of_user(agent_uid) if agent_uid is not None else -1)
    try:
        # The directory is held open, so that what is checked is what is used; its path is short, however deep it lies.
        holder = posix.open(directory or slash or b".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        connection = socket(AF_UNIX, SOCK_STREAM)
        # The kernel's own limits, in a struct timeval: only a connect that blocks waits for a place in the queue.
        limit = SECONDS.to_bytes(8, sys.byteorder) + bytes(8)
        connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, limit)
        connection.setsockopt(SOL_SOCKET, SO_RCVTIMEO, limit)
        connection.connect(b"/proc/self/fd/%d/%s" % (holder, name))
        connection.sendall(question)  # answered while the rest is looked at
        uid = int.from_bytes(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], sys.byteorder)
        if uid not in uids and not believed(uid, holder, directory):
            what = text(path) + " is served by uid %d" % uid
            raise Failed("agent_not_trusted", what, "if that is the agent's user, say so with --agent-uid")
        posix.close(holder)
        answer = b""
        for _ in range(MOST_STOPS):
            piece = connection.recv(MOST_BYTES, MSG_WAITALL)  # all of it, in ten seconds; a part when this was stopped
            answer += piece
            if not piece:
                break
    except OSError as error:
        reason = "nothing for %d s" % SECONDS if error.errno == 11 else error.strerror or str(error)
        what = "no agent answers on " + text(path) + ": " + reason
        hint = "start it with 'nexus-agent run', or name its socket with --socket"
        raise Failed("agent_unreachable", what, hint) from None
    connection.close()
    return answer


def believed(uid: int, holder: int, given: bytes) -> bool:
    """Whether the socket's directory is this user's, and none but root could have put it, or a link on the way to it,
    where it is."""
    status = posix.fstat(holder)
    ways = [given.rstrip(b"/")]
    if uid != status.st_uid or status.st_mode & 0o022 or given[:1] != b"/":
        return False
    for way in ways:  # the one that was given, and that of each link on it
        while len(way) > 1:
            parent = way[: way.rindex(b"/")] or b"/"
            above = posix.stat(parent)
            if above.st_uid != 0 or above.st_mode & 0o022 or len(ways) > MOST_LINKS:
                return False
            try:
                target = posix.readlink(way)
            except OSError:
                target = b""  # it is none
            if target:
                ways.append(target if target[:1] == b"/" else parent + b"/" + target)
            way = parent
    return True


def number_of_user(name: bytes) -> int:
    """A uid as a number or by name."""
    if name.isdigit() and len(name) <= 10:
        return int(name)
    import pwd

    try:
        return pwd.getpwnam(name.decode("utf-8", "surrogateescape")).pw_uid
    except (KeyError, ValueError):
        raise Failed("usage", "--agent-uid: there is no user " + text(name), "give the number") from None


def strings_of(answer: bytes) -> "list[bytes]":
    """The strings NAME=VALUE of an answer, whole or not at all."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines}
    if headers.get(b"content-length") != b"%d" % len(body):
        if status[:5] != b"HTTP/":
            raise no_agent()
        raise Failed("bad_answer", "the agent's answer was cut short", "try again")
    if status.split(b" ")[1:2] != [b"200"]:
        raise problem(body)
    strings = body.split(b"\0") if body else []
    if headers.get(b"content-type") != b"application/x-env0" or not all(s.find(b"=") > 0 for s in strings):
        raise no_agent()
    return strings


def problem(body: bytes) -> Failed:
    """The agent's refusal (RFC 9457), in its own words."""
    import json

    try:
        document = json.loads(body)
        return Failed(str(document["code"]), str(document["detail"]), str(document.get("hint", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return no_agent()


def no_agent() -> Failed:
    """Somebody else answers."""
    return Failed("bad_answer", "what answers is no nexus-agent", "name the agent's socket with --socket")


def environment(inherited: "list[bytes]", secrets: "list[bytes]") -> "list[bytes]":
    """What is inherited, in its order and with what it has twice, less what is ours or replaced; then the secrets."""
    dropped = {string.partition(b"=")[0] for string in secrets}
    dropped.update(OWN)
    kept = [s for s in inherited if s.partition(b"=")[0] not in dropped and s[:10] != b"NEXUS_RUN_"]
    return kept + secrets


def become(command: "list[bytes]", strings: "list[bytes]") -> Failed:
    """Replace this process by the command. Comes back only with the reason why that cannot be done."""
    program = command[0]
    path = next((string[5:] for string in strings if string[:5] == b"PATH="), b"/bin:/usr/bin")
    places = [b""] if b"/" in program else path.split(b":")
    plain = all(string.find(b"=") > 0 for string in strings)
    block = Block(strings)
    signals = sys.modules["_signal"]  # Python has loaded it, to ignore these two; exec would hand that on
    signals.signal(signals.SIGPIPE, signals.SIG_DFL)
    signals.signal(signals.SIGXFSZ, signals.SIG_DFL)
    worst = 2
    for place in places if program else ():
        candidate = place + b"/" + program if place else program
        try:
            if plain:
                posix.execve(candidate, command, block)  # type: ignore[arg-type]  # it needs keys and values in order
            else:
                exec_any(candidate, command, strings)
        except OSError as error:
            if error.errno == 2 and posix.access(candidate, 0):
                what = text(candidate) + " names an interpreter that is not there"
                return Failed("not_found", what, "check its first line", 127)
            if error.errno not in ELSEWHERE:
                return why(error.errno or 0, program)
            worst = 13 if error.errno == 13 else worst
    return why(worst, program)


def exec_any(candidate: bytes, command: "list[bytes]", strings: "list[bytes]") -> None:
    """execve(2) itself, for inherited strings without a name or without '=', which Python refuses to pass on."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    arrays = [(ctypes.c_char_p * (len(items) + 1))(*items, None) for items in (command, strings)]
    libc.execve(candidate, *arrays)
    number = ctypes.get_errno()
    raise OSError(number, posix.strerror(number))


def why(number: int, program: bytes) -> Failed:
    """An error of exec in words, with the status that shells and env(1) give it."""
    name = text(program) or "without a name"
    if number in (2, 20, 36):
        return Failed("not_found", "there is no program " + name, "check the name and PATH", 127)
    if number == 7:
        return Failed("too_large", "environment and arguments are more than the system takes", "leave keys out")
    if number == 8:
        return Failed("not_executable", name + " is no program", "a script needs a first line #!...", 126)
    return Failed("not_executable", name + ": " + posix.strerror(number), "check its mode and its mount", 126)


def run() -> Failed:
    """Do what the command line says. Comes back, or raises `Failed`, when that cannot be done."""
    try:
        # /proc has both as they were handed over: Python decodes the words, and adds LC_CTYPE to the environment.
        words = read("/proc/self/cmdline").split(b"\0")[-len(sys.argv) : -1]
        inherited = read("/proc/self/environ").split(b"\0")[:-1]
    except OSError:
        return Failed("no_proc", "/proc/self cannot be read", "mount /proc")
    first: dict[bytes, bytes] = {}
    for string in inherited:
        name, _, value = string.partition(b"=")
        first.setdefault(name, value)
    options, command = parse(words, first)
    answer = ask(find_socket(options, first), options.get(b"agent-uid"), request(options))
    return become(command, environment(inherited, strings_of(answer)))


def main() -> None:
    """Become the command, or say in one line why not, and end with the status for that."""
    signals = sys.modules["_signal"]
    if signals.getsignal(signals.SIGINT) != signals.SIG_IGN:
        signals.signal(signals.SIGINT, signals.SIG_DFL)  # Ctrl-C ends this as it would end the command
    try:
        failed = run()
    except Failed as error:
        failed = error
    except Exception as error:  # the last line: its text may hold data
        failed = Failed("internal", type(error).__name__, "please report this")
    line = ": ".join(part for part in ("nexus-run", *failed.words) if part)
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    try:
        posix.write(2, shown.encode() + b"\n")
    except OSError:
        pass  # whoever closed it wants to hear nothing
    posix._exit(failed.status)


# Where the package lies, when this was not imported from it.
PLACE: str = globals().get("PLACE", "")
if __name__ == "__main__":
    main()
