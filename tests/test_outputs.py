"""File secrets in step with the store: each generation, failures that end, and what was before."""

import asyncio
import shutil
from pathlib import Path

import pytest

from nexus_agent import log
from nexus_agent.deliver.outputs import FileSecrets
from nexus_agent.generation import Access, Files
from nexus_agent.model import Secret, SecretType, Sensitive, Snapshot
from nexus_agent.store import State, Store


def snapshot(**files: str) -> Snapshot:
    """File secrets and a text."""
    secrets = {key: Secret(Sensitive(text), 1, SecretType.FILE) for key, text in files.items()}
    return Snapshot({**secrets, "text": Secret(Sensitive("x"), 1)})


def names(directory: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(path.name for path in directory.iterdir())


async def until_delivered(store: Store) -> State:
    """The state whose files are in place, or could not be."""
    state = store.current()
    while not (state.has_files or state.files.problem):
        state = await store.changed(state)
    return state


async def test_each_generation_and_what_was_before_it(run_dir: Path) -> None:
    """The previous one stays for readers that have just opened it, and then goes by itself."""
    store = Store(State("shop", "test", "https://h"))
    target = run_dir / "files"
    delivering = asyncio.create_task(FileSecrets(store, Files(target, Access()), log.get("t"), grace=0.05).run())
    async with asyncio.timeout(10):
        store.publish(snapshot(a="1"), 1.0)
        await until_delivered(store)
        assert names(target) == ["..1000", "..data", "a"]
        store.publish(snapshot(b="2"), 2.0)
        await until_delivered(store)
        assert names(target) == ["..1000", "..2000", "..data", "b"]
        while (target / "..1000").exists():  # noqa: ASYNC110  # a file system tells nobody that something is gone
            await asyncio.sleep(0)
        assert names(target) == ["..2000", "..data", "b"]
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)


@pytest.mark.parametrize("taken", ["files", "."], ids=["its own", "that of its parent"])
async def test_a_failure_is_told_and_ends_by_itself(run_dir: Path, taken: str) -> None:
    """The directory's place is taken; at the next answer of Nexus it is free again."""
    store = Store(State("shop", "test", "https://h"))
    target = run_dir / "shop" / "files"
    in_the_way = target.parent / taken
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("in the way")
    delivering = asyncio.create_task(FileSecrets(store, Files(target, Access()), log.get("t")).run())
    async with asyncio.timeout(10):
        store.publish(snapshot(a="1"), 1.0)
        assert "cannot be written" in (await until_delivered(store)).files.problem
        in_the_way.unlink()
        store.validated(2.0)
        while not store.current().has_files:
            await store.changed(store.current())
    assert (target / "a").read_text() == "1"
    assert store.current().files.problem == ""
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)


@pytest.mark.parametrize("kinds", [(SecretType.TEXT, SecretType.FILE), (SecretType.FILE, SecretType.TEXT)])
async def test_a_secret_that_becomes_a_file_or_is_none_any_more(
    run_dir: Path, kinds: tuple[SecretType, SecretType]
) -> None:
    """The file comes and goes with the type."""
    store = Store(State("shop", "test", "https://h"))
    target = run_dir / "files"
    delivering = asyncio.create_task(FileSecrets(store, Files(target, Access()), log.get("t")).run())
    async with asyncio.timeout(10):
        for at, kind in enumerate(kinds, start=1):
            store.publish(Snapshot({"k": Secret(Sensitive("v"), at, kind)}), float(at))
            await until_delivered(store)
            assert (target / "k").exists() is (kind is SecretType.FILE)
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)


async def test_a_directory_that_is_gone_ends_nobody(run_dir: Path) -> None:
    """Somebody has removed it before its rests were swept: the next change makes it again."""
    store = Store(State("shop", "test", "https://h"))
    target = run_dir / "files"
    swept = asyncio.Event()

    class Watched(Files):
        def forget_previous(self) -> None:
            """As it is, and told."""
            swept.set()
            super().forget_previous()

    delivering = asyncio.create_task(FileSecrets(store, Watched(target, Access()), log.get("t"), grace=0.01).run())
    async with asyncio.timeout(10):
        store.publish(snapshot(a="1"), 1.0)
        await until_delivered(store)
        shutil.rmtree(target)
        await swept.wait()
        store.publish(snapshot(b="2"), 2.0)
        await until_delivered(store)
    assert (target / "b").read_text() == "2"
    assert not delivering.done()
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)
