"""File secrets as files: whatever generation is in the store, whole, on tmpfs."""

import asyncio

from structlog.typing import FilteringBoundLogger

from nexus_agent.generation import Files
from nexus_agent.model import SecretType, Sensitive
from nexus_agent.store import Delivered, State, Store


class FileSecrets:
    """Keeps the file secrets of one service on disk in step with its store. What was there before a change stays for
    `grace` seconds, for readers that have just opened it."""

    def __init__(self, store: Store, files: Files, log: FilteringBoundLogger, grace: float = 30.0) -> None:
        self._store = store
        self._files = files
        self._log = log
        self._grace = grace
        self._forget_at: float | None = None

    async def run(self) -> None:
        """Write each new generation, for ever. One that could not be written is tried again at the next answer."""
        state = self._store.current()
        while True:
            if state.snapshot is not None and not state.has_files:
                self._store.delivered(self._deliver(state))
                state = self._store.current()
            try:
                async with asyncio.timeout_at(self._forget_at):
                    state = await self._store.changed(state)
            except TimeoutError:
                self._forget()

    def _forget(self) -> None:
        self._forget_at = None
        try:
            self._files.forget_previous()
        except OSError as error:  # the next change tries again
            self._log.warning("files_not_swept", problem=error.strerror)

    def _deliver(self, state: State) -> Delivered:
        secrets = state.snapshot.secrets if state.snapshot else {}
        contents = {
            key: Sensitive(secret.value.reveal().encode())
            for key, secret in secrets.items()
            if secret.type is SecretType.FILE
        }
        before = state.files
        try:
            changed = self._files.write(state.generation, contents)
        except OSError as error:
            problem = f"file secrets cannot be written: {error.strerror}"
            if before.problem != problem:
                self._log.error("files_failed", problem=problem)
            return Delivered(before.generation, self._files.directory, problem)
        # Also at the first time: what an earlier run left is not to stay for ever.
        if changed or before.generation == 0:
            self._forget_at = asyncio.get_running_loop().time() + self._grace
        if changed:
            self._log.info("files_written", generation=state.generation, files=len(contents))
        return Delivered(state.generation, self._files.directory)
