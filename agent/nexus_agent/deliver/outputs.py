"""File secrets as files: whatever generation is in the store, whole, on tmpfs."""

from structlog.typing import FilteringBoundLogger

from nexus_agent.generation import Files
from nexus_agent.model import SecretType, Sensitive
from nexus_agent.store import Delivered, State, Store


class FileSecrets:
    """Keeps the file secrets of one service on disk in step with its store."""

    def __init__(self, store: Store, files: Files, log: FilteringBoundLogger) -> None:
        self._store = store
        self._files = files
        self._log = log

    async def run(self) -> None:
        """Write each new generation, for ever. One that could not be written is tried again at the next answer."""
        state = self._store.current()
        while True:
            if state.snapshot is not None and not state.has_files:
                self._store.delivered(self._deliver(state))
                state = self._store.current()
            state = await self._store.changed(state)

    def _deliver(self, state: State) -> Delivered:
        secrets = state.snapshot.secrets if state.snapshot else {}
        contents = {
            key: Sensitive(secret.value.reveal().encode())
            for key, secret in secrets.items()
            if secret.type is SecretType.FILE
        }
        before = state.files
        try:
            if self._files.write(state.generation, contents):
                self._log.info("files_written", generation=state.generation, files=len(contents))
        except OSError as error:
            problem = f"file secrets cannot be written: {error.strerror}"
            if before.problem != problem:
                self._log.error("files_failed", problem=problem)
            return Delivered(before.generation, self._files.directory, problem)
        return Delivered(state.generation, self._files.directory)
