"""The router of toril's own API with the middleware of its routes, and the lock tokens made from its API tokens."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute

from toril.config.settings import GatewayPolicy, Settings
from toril.engine.lock_tokens import LockTokens
from toril.mcp.routes import McpRoutes
from toril.redis.absent import NoRedis
from toril.web.access_control import AccessControl, Authentication
from toril.web.audit import Audit, AuditLog
from toril.web.request import Request
from toril.web.routing import IndexedRouter, Route
from toril.web.websocket import OpenSockets, SocketLifetime

log = structlog.get_logger(__name__)


def api_router(
    routes: Sequence[BaseRoute], access: AccessControl, sockets: OpenSockets, audit: AuditLog
) -> IndexedRouter:
    """Return a router of these routes, which checks who may use them and writes changes to the audit log."""
    guards = [
        Middleware(SocketLifetime, sockets),
        Middleware(Audit, audit),
        Middleware(Authentication, access),
    ]
    return IndexedRouter(routes, middleware=guards)


def refused_without_redis(routes: Sequence[Route]) -> list[Route]:
    """Return the same routes, answering callers that may use them with `NoRedis`."""
    return [
        _WithoutRedis(
            one.path, _refuse, method=one.method, access=one.access, right=one.right, own=one.own,
            token_in_url=one.token_in_url, door=one.door, by_hand=one.by_hand, about=one.about, name=one.name,
        )
        for one in routes
    ]  # fmt: skip


class _WithoutRedis(Route):
    """A route that needs Redis, where there is none."""

    serves = False


async def _refuse(request: Request) -> Response:
    """Raise `NoRedis`."""
    raise NoRedis


def agent_routes(settings: Settings, version: str) -> list[Route]:
    """Return the route of the tools for agents, if they are switched on."""
    return McpRoutes(version, settings.cors.origins).routes() if settings.mcp.enabled else []


def lock_tokens(policy: GatewayPolicy, instance_id: str) -> LockTokens:
    """Return an instance's lock tokens, which all instances with the same API tokens recognize."""
    named = [grant.sha256 for grant in policy.tokens]
    return LockTokens([*(token.encode(errors="replace") for token in policy.auth_tokens), *named], instance_id)


def warn_of_no_tokens(settings: Settings) -> None:
    """Log a warning where the API is served and no token is configured: every request is then refused."""
    has_api = not settings.proxy.upstreams or settings.proxy.api_path is not None
    if has_api and not any(settings.gateway.auth_tokens) and not settings.gateway.tokens:
        log.warning("auth.no_tokens", hint="no API token is configured (AUTH_TOKENS, tokens): every request is refused")
