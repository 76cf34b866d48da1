"""May this caller read what the agent holds? Pure: facts in, yes or no out."""

from dataclasses import dataclass

from nexus_agent.peer import OVERFLOW_UID, Caller


@dataclass(frozen=True, slots=True)
class Policy:
    """Root, the agent's own uid and the members of the socket's group may read everything; every other uid nothing."""

    own_uid: int
    group: int | None = None

    def allows(self, caller: Caller) -> bool:
        """Whether `caller` may read. A uid without a name in this namespace never may, whatever else it shows."""
        if caller.uid == OVERFLOW_UID:
            return False
        return caller.uid in (0, self.own_uid) or (self.group is not None and self.group in caller.gids)
