"""Where a key comes from."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import STRANGER
from nexus_agent.errors import BadSettings
from nexus_agent.identity import Credential
from nexus_agent.model import Sensitive
from nexus_agent.settings import CredentialSource, SourceKind
from rig.canary import CANARY
from rig.processes import private_file


def of_file(path: Path) -> Credential:
    """A credential in a file."""
    return Credential(CredentialSource(SourceKind.FILE, f"file:{path}", path=path), "shop")


def test_a_file_is_read_anew_each_time(run_dir: Path) -> None:
    """A rotated key is used at once; blanks around it are no part of it."""
    path = private_file(run_dir / "key", "  wxs_one\n")
    credential = of_file(path)
    assert (credential.read().reveal(), credential.public, credential.known) == ("wxs_one", False, True)
    private_file(path, "wxp_two")
    assert (credential.read().reveal(), credential.public) == ("wxp_two", True)


def test_a_descriptor_is_read_once() -> None:
    """A pipe has its content only once."""
    read, write = os.pipe()
    os.write(write, b"wxs_key\n")
    os.close(write)
    credential = Credential(CredentialSource(SourceKind.DESCRIPTOR, f"fd:{read}", descriptor=read), "shop")
    assert credential.read().reveal() == credential.read().reveal() == "wxs_key"
    with pytest.raises(BadSettings, match="fd:987: Bad file descriptor"):
        Credential(CredentialSource(SourceKind.DESCRIPTOR, "fd:987", descriptor=987), "shop").read()


def test_a_variable_is_what_the_settings_found() -> None:
    """And nothing of it shows."""
    credential = Credential(CredentialSource(SourceKind.VALUE, "env:K", value=Sensitive(CANARY)), "shop")
    assert credential.read().reveal() == CANARY


def test_files_that_are_not_believed(run_dir: Path) -> None:
    """Others may read it, a symlink, no file, nothing in it, two keys, somebody else's: each is named."""
    path = private_file(run_dir / "key", CANARY)
    link = run_dir / "link"
    link.symlink_to(path)
    (run_dir / "readable").write_text(CANARY)
    (run_dir / "readable").chmod(0o640)
    os.mkfifo(run_dir / "pipe", 0o600)
    cases = {
        link: "Too many levels",
        run_dir / "readable": "others may read it",
        run_dir / "none": "there is no such file",
        run_dir / "pipe": "is no regular file",
        private_file(run_dir / "empty", " \n"): "is empty",
        private_file(run_dir / "two", f"{CANARY}\n{CANARY}"): "more than one key",
        private_file(run_dir / "bytes", "ü"): "more than one key",
    }
    if os.geteuid() == 0:
        cases[private_file(run_dir / "other", CANARY, STRANGER)] = "belongs to another user"
    for wrong, said in cases.items():
        with pytest.raises(BadSettings, match=said) as caught:
            of_file(wrong).read()
        assert str(wrong) in str(caught.value)
        assert CANARY not in str(caught.value)


def test_a_pipe_that_stays_open_is_read_to_the_end_of_its_line() -> None:
    """Its writer may keep its side; one that says nothing is not waited for for ever."""
    read, write = os.pipe()
    os.write(write, b"wxs_key\n")
    assert Credential(CredentialSource(SourceKind.DESCRIPTOR, "fd:3", descriptor=read), "shop").read().reveal()
    silent, mute = os.pipe()
    with pytest.raises(BadSettings, match="nothing came"):
        Credential(CredentialSource(SourceKind.DESCRIPTOR, "fd:3", descriptor=silent), "shop", patience=0.01).read()
    os.close(write)
    os.close(mute)


def test_a_credential_of_systemd_may_have_an_acl(tmp_path: Path) -> None:
    """Which shows as bits of the group; anywhere else those are refused."""
    path = tmp_path / "k"
    path.write_text("wxs_key")
    path.chmod(0o440)
    assert Credential(CredentialSource(SourceKind.CREDENTIAL, "credential:k", path=path), "shop").read().reveal()
    with pytest.raises(BadSettings, match="others may read"):
        Credential(CredentialSource(SourceKind.FILE, "file:k", path=path), "shop").read()
    path.chmod(0o444)
    with pytest.raises(BadSettings, match="others may read"):
        Credential(CredentialSource(SourceKind.CREDENTIAL, "credential:k", path=path), "shop").read()


@pytest.mark.parametrize("value", ["a b", "a\nb", "\udcff", "ä"])
def test_a_variable_is_checked_as_a_file_is(value: str) -> None:
    """It holds one key and nothing else."""
    with pytest.raises(BadSettings, match="holds more than one key"):
        Credential(CredentialSource(SourceKind.VALUE, "env:K", value=Sensitive(value)), "shop").read()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Named as such, and nobody waits for it."""
    make(tmp_path / "k")
    (tmp_path / "k").chmod(0o700)
    with pytest.raises(BadSettings, match="is no regular file"):
        Credential(CredentialSource(SourceKind.FILE, "file:k", path=tmp_path / "k"), "shop").read()
