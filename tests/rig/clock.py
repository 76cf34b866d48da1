"""Time that a test owns: it says when a sleep begins, and moves when it is told to."""

import asyncio
import heapq


class Clock:
    """A clock that stands still. `chance` is what the next random numbers are."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.fixed_chance = chance
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self._began = asyncio.Event()

    def monotonic(self) -> float:
        """The clock's time."""
        return self.now

    def wall(self) -> float:
        """The same as Unix time, some day in 2026."""
        return 1_780_000_000.0 + self.now

    def chance(self) -> float:
        """The chance that the test wants."""
        return self.fixed_chance

    async def sleep(self, seconds: float) -> None:
        """Sleep until the test has moved the clock that far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.now + seconds, self._count, future))
        self._began.set()
        await future

    async def settle(self) -> None:
        """Let everything run that can; a clock that stands still makes this finite."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def asleep(self) -> float:
        """Wait until everything that can run has run and somebody sleeps; returns how long the first one still will."""
        while True:
            await self.settle()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if self._sleepers:
                return self._sleepers[0][0] - self.now
            self._began.clear()
            await self._began.wait()

    async def advance(self, seconds: float) -> None:
        """Move on, waking each sleeper at its time."""
        end = self.now + seconds
        while await self.asleep() <= end - self.now:
            self.now, _, future = heapq.heappop(self._sleepers)
            future.set_result(None)
        self.now = end
        await self.asleep()
