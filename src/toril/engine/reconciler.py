"""Makes what runs here follow what is registered: the fleet's worker documents → this process's consumers.

Follows the registry's announcements; where some may have been missed (a broken connection, a trimmed stream, documents
removed without an announcement) it compares everything. Each step reads a document anew and compares it with the one
that runs, so the order of announcements does not matter, and no document can stop the following.

Where Redis has lost the registry itself (FLUSHALL, a restart without its data), its workers go on, and their documents
are put back from what runs here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from toril.core.destinations.base import Destination
from toril.core.errors import InvalidRequest, StoreError
from toril.core.ports.work import RegistryState, WorkerRegistry
from toril.engine.supervisor import Supervisor

log = structlog.get_logger(__name__)

COMPARE_S = 60.0
LOOK_S = 1.5
"""How often to see whether documents are gone, or lost, without an announcement. A wait for one may come on top."""
_SHOWN = 20
_RETRY_S = 0.25


class Reconciler:
    """Keeps one supervisor in step with the registry.

    Args:
        registry: the fleet's documents.
        supervisor: starts and stops consumers.
        read: makes a destination of a document, or raises `InvalidRequest`.
    """

    def __init__(self, registry: WorkerRegistry, supervisor: Supervisor, read: Callable[[bytes], Destination]) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._read = read
        # The document of each worker, and whether it is paused.
        self._running: dict[str, tuple[bytes, bool]] = {}
        self._missed = True
        self.in_step = False
        # What the registry was when it was last looked at; None before the first time.
        self._state: RegistryState | None = None
        self._seen: str | None = None
        # How many documents there are beside those that are followed: names that are no text.
        self._others = 0
        self._looked_at = 0.0
        self._lost = False
        self._listeners: list[Callable[[], None]] = []
        # Queues whose document cannot run.
        self._unfit: set[str] = set()
        # Held from reading documents to acting by them: what was read before a change is not acted by after it.
        self._acting = asyncio.Lock()

    async def faults(self) -> list[str]:
        """Return what keeps the registered workers from being known; empty when nothing does."""
        if not self.in_step:
            return ["the registered workers have not been read yet"]
        self._notice(await self._registry.state(self._seen))
        return ["Redis has lost the registered workers; they are being put back"] if self._lost else []

    def warnings(self) -> list[str]:
        """Return what an operator has to look at: registered workers that cannot run, unless they are paused."""
        count = sum(not self._running[queue][1] for queue in self._unfit)
        if not count:
            return []
        return [f"{count} registered worker(s) cannot run: GET /workers?state=invalid names them"]

    async def catch_up(self, queue: str) -> None:
        """Do now what is registered for this queue, without waiting for its announcement."""
        await self._read_and_apply([queue])

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call this when Redis has lost its data, registered workers or not."""
        self._listeners.append(listener)

    def missed(self) -> None:
        """Announcements may have been missed: compare everything."""
        self._missed = True

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        position: str | None = None
        compared_at = 0.0
        while True:
            try:
                if position is None:
                    # First the position, then the documents: what changes in between is announced after it.
                    position = await self._registry.position()
                    self._missed = True
                if self._missed or loop.time() - self._looked_at > LOOK_S:
                    if await self._look():
                        position = await self._registry.position()
                    self._looked_at = loop.time()
                    self._seen = position
                if self._missed or loop.time() - compared_at > COMPARE_S:
                    self._missed = False
                    async with self._acting:
                        documents = await self._registry.all()
                        self._compare(documents, await self._registry.paused())
                    # Never less than none: a document that was removed in between would go unnoticed.
                    self._others = max(0, (await self._registry.state(position)).count - len(documents))
                    compared_at = loop.time()
                    self.in_step = True
                position, queues, gap = await self._registry.changed_since(position)
                self._seen = position
                if gap:
                    self._missed = True
                elif queues:
                    await self._read_and_apply(queues)
            except StoreError as exc:
                log.debug("reconciler.failed", error=exc.message)
                position = None
                await asyncio.sleep(_RETRY_S)

    async def _read_and_apply(self, queues: list[str]) -> None:
        async with self._acting:
            self._apply(queues, await self._registry.some(queues), await self._registry.paused())

    async def _look(self) -> bool:
        """See whether the registry is the one that was there before; if not, put its documents back and return True."""
        state = await self._registry.state(self._seen)
        self._notice(state)
        found_lost = self._lost
        if found_lost:
            documents = {queue: document for queue, (document, _) in self._running.items()}
            paused = {queue for queue, (_, is_paused) in self._running.items() if is_paused}
            queues = await self._registry.put_back(documents, paused, self._seen)
            log.error("registry.put_back", workers=len(queues), queues=queues[:_SHOWN])
            self._lost = False
            self._missed = True
        elif state.count != len(self._running) + self._others:
            self._missed = True
        self._state = state
        return found_lost

    def _notice(self, state: RegistryState) -> None:
        """Remember and log it if this is not the registry that was there before."""
        before = self._state
        if self._lost or before is None or (state.mark == before.mark and not state.behind):
            return
        for listener in self._listeners:
            listener()
        if not self._running:
            return
        self._lost = True
        log.error(
            "registry.lost",
            workers=len(self._running),
            hint="Redis has lost data (FLUSHALL, restart, failover); the registered workers are put back, jobs are not",
        )

    def _compare(self, documents: dict[str, bytes], paused: set[str]) -> None:
        self._apply({*self._running, *documents}, documents, paused)

    def _apply(self, queues: Iterable[str], documents: dict[str, bytes], paused: set[str]) -> None:
        for queue in queues:
            document = documents.get(queue)
            wanted = None if document is None else (document, queue in paused)
            if wanted == self._running.get(queue):
                continue
            if wanted is None:
                del self._running[queue]
                self._unfit.discard(queue)
                self._supervisor.stop(queue)
                continue
            # Remembered also where it cannot run: it is complained of once.
            self._running[queue] = wanted
            if self._start(queue, *wanted):
                self._unfit.discard(queue)
            else:
                self._unfit.add(queue)

    def _start(self, queue: str, document: bytes, paused: bool) -> bool:
        """Start a worker, or pause it; False where its document cannot run."""
        try:
            destination = self._read(document)
            if destination.queue != queue:
                raise InvalidRequest(f"it says that its queue is {destination.queue!r}")
        except InvalidRequest as exc:
            log.error("worker.cannot_run", queue=queue, error=exc.message)
            self._supervisor.stop(queue)
            return False
        except Exception:
            # Whatever somebody else has stored must not end the following of all the others.
            log.exception("worker.cannot_run", queue=queue)
            self._supervisor.stop(queue)
            return False
        if paused:
            self._supervisor.pause(destination)
        else:
            self._supervisor.start(destination)
        return True
