"""What `toril groups release` does on Redis itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import uvloop
from msgspec import Struct

from toril.cli.exit_codes import FAILED
from toril.cli.operate.faults import CommandFailed
from toril.cli.operate.operator import counted
from toril.cli.operate.output import Output
from toril.config.loading import config_file
from toril.config.reloading import ConfigFile
from toril.config.settings import Settings
from toril.core.errors import StoreError
from toril.instance.releasing import groups_of
from toril.telemetry.logs import configure


class _Released(Struct, frozen=True):
    """How many jobs were held, how many of them were released, and how many are held now."""

    held: int
    released: int
    left: int


def release(out: Output, queue: str, config: Path | None, *, dry_run: bool) -> int:
    """Release the held jobs of a queue and say how many; return the exit status: 1 if some are held again."""
    settings = ConfigFile(os.environ, config_file(config, os.environ)).read()
    if settings.without_redis:
        raise CommandFailed(
            "the configuration has redis: none, so there is nothing that another program could work on: "
            "what waits in groups is in the ledger, and toril delivers it when it runs again"
        )
    configure(settings.log)
    with out.progress() as bars:
        bar = bars.add_task(f"release jobs of {queue}", total=None)
        try:
            done = uvloop.run(
                _released(
                    settings,
                    queue,
                    lambda total, released: bars.update(bar, total=total, completed=released),
                    dry_run=dry_run,
                )
            )
        except StoreError as exc:
            raise CommandFailed(" ".join(exc.message.split())) from exc
    if done is None:
        raise CommandFailed(
            f"no queue is called {queue!r} in {settings.redis}, with the prefix {settings.store.queue_prefix!r}"
        )
    if out.as_json:
        out.document(
            {"queue": queue, "held": done.held, "released": done.released, "left": done.left, "dry_run": dry_run}
        )
    elif dry_run:
        out.line(f"{counted(done.held, 'job')} would be released")
    else:
        out.line(f"{counted(done.released, 'job')} released")
    if done.left and not dry_run:
        out.note(
            f"{counted(done.left, 'job')} {'is' if done.left == 1 else 'are'} held again: "
            f"a toril works on {queue}; stop it first"
        )
        return FAILED
    return 0


async def _released(
    settings: Settings, queue: str, told: Callable[[int, int], object], *, dry_run: bool
) -> _Released | None:
    async with groups_of(settings) as groups:
        held = await groups.held(queue)
        if held is None:
            return None
        if dry_run:
            return _Released(held, 0, held)
        released = await groups.release(queue, lambda released: told(held, released))
        return _Released(held, released, await groups.held(queue) or 0)
