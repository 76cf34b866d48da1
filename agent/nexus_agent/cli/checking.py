"""`nexus-agent check`: everything that could keep an agent from working, found before it is started."""

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from nexus_agent import exactjson, settings
from nexus_agent.directories import require_own
from nexus_agent.errors import NexusError
from nexus_agent.generation import is_tmpfs, require_tmpfs
from nexus_agent.identity import Credential
from nexus_agent.model import ServiceKind
from nexus_agent.settings import Service, Settings
from nexus_agent.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `problem` is empty when it is right."""

    subject: str
    result: str
    problem: str = ""


def run(config: Path | None, as_json: bool) -> int:
    """Print every finding; the exit status is 1 when one of them is a problem. Raises `BadSettings` for the file."""
    loaded = settings.load(config)
    findings = [_runtime(loaded), _socket(loaded), *asyncio.run(_services(loaded))]
    if as_json:
        click.echo(exactjson.dump({"findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            mark = "FAIL" if finding.problem else "ok"
            click.echo(f"{mark:<5} {finding.subject}: {finding.problem or finding.result}")
    return 1 if any(finding.problem for finding in findings) else 0


def _runtime(loaded: Settings) -> Finding:
    subject = f"runtime directory {loaded.runtime_directory}"
    if not loaded.runtime_directory.exists():  # made here, it would belong to the wrong user
        if not (loaded.allow_disk or is_tmpfs(_nearest(loaded.runtime_directory))):
            return Finding(subject, "", "would be made on a disk: choose a place on tmpfs, or set runtime.allow_disk")
        return Finding(subject, "not there yet, the agent makes it")
    if owner := _of_another(loaded.runtime_directory):
        return Finding(subject, owner)
    try:
        require_tmpfs(loaded.runtime_directory, loaded.allow_disk)
    except NexusError as error:
        return Finding(subject, "", f"{error.detail}: {error.hint}")
    return Finding(subject, "usable")


def _socket(loaded: Settings) -> Finding:
    subject = f"socket {loaded.socket.path}"
    directory = loaded.socket.path.parent
    if not directory.exists():
        return Finding(subject, "its directory is not there yet, the agent makes it")
    if owner := _of_another(directory):
        return Finding(subject, owner)
    try:
        require_own(directory, "choose a directory of the agent's user with socket.path")
    except NexusError as error:
        return Finding(subject, "", f"{error.detail}: {error.hint}")
    return Finding(subject, "in a directory where nobody can replace it")


def _of_another(directory: Path) -> str:
    """Root may look at the settings of an agent that runs as somebody else, but cannot tell what that one may do."""
    owner = directory.stat().st_uid
    return f"belongs to uid {owner}: check as that user to be sure" if os.geteuid() == 0 != owner else ""


def _nearest(directory: Path) -> Path:
    """The directory itself or the first one above it that is there."""
    return next(place for place in (directory, *directory.parents) if place.exists())


async def _services(loaded: Settings) -> list[Finding]:
    groups = await asyncio.gather(*(_service(service) for service in loaded.services))
    return [finding for group in groups for finding in group]


async def _service(service: Service) -> list[Finding]:
    subject = f"service {service.name}"
    credential = Credential(service.credential, service.name)
    try:
        public, known = credential.public, credential.known
        async with Upstream(service.endpoint, credential.read, service.ca_file, service.proxy) as upstream:
            answer = await upstream.fetch()
    except NexusError as error:
        return [Finding(subject, "", str(error))]
    prefix = "secret" if known else "of a kind that Nexus does not document"
    if public:
        prefix = "public, so configs and flags but no secrets"
    findings = [Finding(f"{subject}: key", f"{prefix}, from {service.credential.label}")]
    if answer.snapshot is None:
        return [*findings, Finding(f"{subject}: {service.endpoint}", "", answer.problem)]
    snapshot = answer.snapshot
    counts = f"{len(snapshot.secrets)} secrets, {len(snapshot.configs)} configs, {len(snapshot.flags)} flags"
    findings.append(Finding(f"{subject}: {service.endpoint}", f"answers with {counts}"))
    if snapshot.kind is ServiceKind.FRONTEND:
        findings.append(Finding(f"{subject}: kind", "frontend, so configs and flags but no secrets"))
    return findings
