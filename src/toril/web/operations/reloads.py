"""`POST /reload`: reads the configuration again, as SIGHUP and a change of the file do."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from toril.core.access import Right
from toril.core.errors import ConfigInvalid, Forbidden
from toril.core.rollout import Reloads
from toril.web import shapes
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

_RELOAD = About((Reply(shapes.Reloaded, "The result of the reload"),), errors=(ConfigInvalid,))


class ReloadRoutes:
    """The route that asks for a reload. A reload affects all targets, so the token needs the right on all of them."""

    def __init__(self, reloads: Reloads) -> None:
        self._reloads = reloads

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/reload", self.reload, method="POST", right=Right.TARGETS_MANAGE, own=True, about=_RELOAD),
        ]

    async def reload(self, request: Request) -> Response:
        """Reload the configuration and the secret files. An invalid configuration changes nothing."""
        if not request.caller.all_queues:
            raise Forbidden
        rollout = await self._reloads.reload()
        return json_response(
            msgspec.json.encode(
                shapes.Reloaded(
                    config_generation=rollout.generation,
                    applied=list(rollout.applied),
                    pending_rollout=list(rollout.pending),
                    secrets_kept=list(rollout.secrets_kept),
                )
            )
        )
