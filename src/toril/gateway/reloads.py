"""`POST /reload`: reads the configuration again, as SIGHUP and a change of the file do."""

from __future__ import annotations

import msgspec

from toril.core.access import Right
from toril.core.errors import ConfigInvalid, Forbidden
from toril.core.rollout import Reloads
from toril.gateway import shapes, wire
from toril.gateway.description import About, Reply
from toril.gateway.routing import Access, Answer, Request, Route

_RELOAD = About((Reply(shapes.Reloaded, "What came of it"),), errors=(ConfigInvalid,))


class ReloadRoutes:
    """Asks for a reload. It concerns all targets, so the right has to hold for all of them."""

    def __init__(self, reloads: Reloads) -> None:
        self._reloads = reloads

    def routes(self) -> list[Route]:
        """The routes of this module."""
        return [
            Route("POST", "/reload", Access.TOKEN, self.reload, Right.TARGETS_MANAGE, own=True, about=_RELOAD),
        ]

    async def reload(self, request: Request) -> Answer:
        """Read the configuration and the secret files again; what is not valid changes nothing."""
        if not request.caller.all_queues:
            raise Forbidden
        rollout = await self._reloads.reload()
        return wire.json_answer(
            msgspec.json.encode(
                shapes.Reloaded(
                    config_generation=rollout.generation,
                    applied=list(rollout.applied),
                    pending_rollout=list(rollout.pending),
                    secrets_kept=list(rollout.secrets_kept),
                )
            )
        )
