"""Makes the consumers of this process follow the fleet's registered workers.

It follows the registry's announcements. Where some may have been missed (a broken connection, a trimmed stream,
documents removed without an announcement), it compares all documents. Each step reads a document again and compares it
with the one that runs, so the order of announcements does not matter, and a broken document stops nothing.

If Redis has lost the registry (FLUSHALL, a restart without its data), the workers go on, and their documents are put
back from what runs here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from toril.core.destination import Destination
from toril.core.errors import InvalidRequest, StoreError
from toril.engine.supervisor import Supervisor
from toril.queues.ports import RegistryState, WorkerRegistry

log = structlog.get_logger(__name__)

COMPARE_S = 60.0
LOOK_S = 1.5
"""How often to check whether documents are gone without an announcement. A wait for an announcement may be added."""
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
        # The state of the registry when it was last read; None before the first time.
        self._state: RegistryState | None = None
        self._seen: str | None = None
        # How many documents there are beside those that are followed: their names are no text.
        self._others = 0
        self._looked_at = 0.0
        self._lost = False
        self._listeners: list[Callable[[], None]] = []
        # Queues whose document is not valid.
        self._unfit: set[str] = set()
        # Held from reading documents to applying them: what was read before a change must not be applied after it.
        self._applying = asyncio.Lock()

    async def faults(self) -> list[str]:
        """Return why the registered workers are not known for now; empty if they are."""
        if not self.in_step:
            return ["the registered workers have not been read yet"]
        self._notice(await self._registry.state(self._seen))
        return ["Redis has lost the registered workers; they are being put back"] if self._lost else []

    def warnings(self) -> list[str]:
        """Return what an operator has to know: that registered workers cannot run. Paused ones are left out."""
        count = sum(not self._running[queue][1] for queue in self._unfit)
        if not count:
            return []
        return [f"{count} registered worker(s) cannot run: GET /workers?state=invalid names them"]

    async def catch_up(self, queue: str) -> None:
        """Apply what is registered for this queue now, without waiting for its announcement.

        If its worker is gone, paused or another one, no job begins here for the previous one once this has returned.
        """
        await self._read_and_apply([queue])

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call this when Redis has lost its data, whether or not there were registered workers."""
        self._listeners.append(listener)

    def missed(self) -> None:
        """Compare all documents soon, because announcements may have been missed."""
        self._missed = True

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        position: str | None = None
        compared_at = 0.0
        while True:
            try:
                if position is None:
                    # The position first, then the documents: a change in between is announced after that position.
                    position = await self._registry.position()
                    self._missed = True
                if self._missed or loop.time() - self._looked_at > LOOK_S:
                    if await self._look():
                        position = await self._registry.position()
                    self._looked_at = loop.time()
                    self._seen = position
                if self._missed or loop.time() - compared_at > COMPARE_S:
                    self._missed = False
                    async with self._applying:
                        documents = await self._registry.all()
                        self._compare(documents, await self._registry.paused())
                    # Never below zero, or a document that was removed in between would go unnoticed.
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
        async with self._applying:
            self._apply(queues, await self._registry.some(queues), await self._registry.paused())

    async def _look(self) -> bool:
        """Check whether the registry was lost; if so, put its documents back and return True."""
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
        """Remember and log that the registry was lost, if it was."""
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
            # Also remembered if it cannot run, so that it is logged once.
            self._running[queue] = wanted
            if self._start(queue, *wanted):
                self._unfit.discard(queue)
            else:
                self._unfit.add(queue)

    def _start(self, queue: str, document: bytes, paused: bool) -> bool:
        """Start a worker, or pause it; return False if its document cannot run."""
        try:
            destination = self._read(document)
            if destination.queue != queue:
                raise InvalidRequest(f"it says that its queue is {destination.queue!r}")
        except InvalidRequest as exc:
            log.error("worker.cannot_run", queue=queue, error=exc.message)
            self._supervisor.stop(queue)
            return False
        except Exception:
            # A document that another program has stored must not keep all the others from being followed.
            log.exception("worker.cannot_run", queue=queue)
            self._supervisor.stop(queue)
            return False
        if paused:
            self._supervisor.pause(destination)
        else:
            self._supervisor.start(destination)
        return True
