"""A queue as a whole: pause, resume, who works on it; and the state of a job. Called by `toril.gateway`."""

from __future__ import annotations

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import pack

# The script moves 7,000 jobs a call out of a `paused` list that BullMQ 5 has left; this is more than Redis holds.
_MOST_RESUMES = 100_000


class Control:
    """Answers and does what BullMQ's Queue does for a whole queue."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix

    async def pause(self, queue: str) -> None:
        """No worker takes jobs any more."""
        await self._pause(queue, "wait", "paused", "paused")

    async def resume(self, queue: str) -> None:
        """Workers take jobs again; jobs that BullMQ 5 has set aside come back."""
        left = await self._pause(queue, "paused", "wait", "resumed")
        for _ in range(_MOST_RESUMES):
            if not left:
                return
            left = await self._pause(queue, "paused", "wait", "resumed", tell=False)

    async def _pause(self, queue: str, source: str, target: str, event: str, *, tell: bool = True) -> int:
        keys = QueueKeys(self._prefix, queue)
        script = self._scripts.pause
        head = script.head(keys.keys(source, target, "meta", "prioritized", "events", "delayed", "marker"), 2)
        left = await self._scripts.run(keys.prefix, script, head + _arguments(event, "01"[tell]))
        return int(left or 0)

    async def state(self, queue: str, job_id: str) -> str:
        """The state that a job is in."""
        keys = QueueKeys(self._prefix, queue)
        script = self._scripts.get_state
        parts = ("completed", "failed", "delayed", "active", "wait", "paused", "waiting-children", "prioritized")
        reply = await self._scripts.run(keys.prefix, script, script.head(keys.keys(*parts), 1) + _arguments(job_id))
        return str(reply.decode())

    async def workers(self, queue: str) -> list[dict[str, str]]:
        """The connections whose name says that they work on this queue, as Node's `getWorkers` shows them."""
        keys = QueueKeys(self._prefix, queue)
        wanted = keys.client_name()
        found = []
        for link in self._scripts.links.all():
            for line in (await link.call("CLIENT", "LIST")).decode(errors="replace").splitlines():
                client = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
                name = client.get("name", "")
                if name == wanted or name.startswith(f"{wanted}:w:"):
                    found.append(client | {"name": queue, "rawname": name})
        return found


def _arguments(*values: str) -> bytes:
    return pack(*values).partition(b"\r\n")[2]
