"""toril as a Starlette application, for any ASGI server, and to be mounted in an application of yours.

    uvicorn --factory toril.asgi:create_app

    inner = create_app("toril.yaml")
    app = FastAPI(lifespan=lambda _: inner.router.lifespan_context(inner))
    app.mount("/toril", inner)

A mounted application does not get the server's lifespan: the application around it runs it, as above. `toril serve`
serves the same application, and adds what a plain ASGI server cannot do: the async proxy's tunnels for WebSockets and
exact responses, limits on slow requests, `shutdown.delay`, and several processes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from toril.config.loading import config_file
from toril.config.reloading import ConfigFile
from toril.config.settings import Settings
from toril.instance import Instance, running
from toril.telemetry.logs import configure
from toril.web.application import Application


def create_app(
    settings: Settings | str | Path | None = None,
    *,
    config: ConfigFile | None = None,
    spread: Callable[[], None] | None = None,
) -> Application:
    """Return a Starlette application that starts an instance of toril with its lifespan, and drains it.

    `app.state.instance` is the instance. One application may be started again after it has ended.

    Args:
        settings: what to run with; a configuration file, which is followed; or None: the environment, and the file
            that it names. They also say how toril's log lines look, unless structlog is configured already; the
            standard library's logging stays as it is.
        config: what the settings come from, where they are given as such, to be followed.
        spread: makes the processes beside this one read the configuration again too.

    Raises:
        ConfigInvalid: the configuration is not valid.
    """
    if not isinstance(settings, Settings):
        config = ConfigFile(os.environ, config_file(None if settings is None else Path(settings), os.environ))
        settings = config.read()
        if not structlog.is_configured():
            configure(settings.log, whole_process=False)
    return _Runnable(settings, config, spread)


class _Runnable(Application):
    """The application. It has an instance from the beginning, so that its routes can be looked at."""

    def __init__(self, settings: Settings, config: ConfigFile | None, spread: Callable[[], None] | None) -> None:
        self._parts = (settings, config, spread)
        self._was_started = self._is_running = False
        instance = self._make()
        super().__init__(instance.router, instance.middleware, _lifespan)
        self.state.instance = instance

    def _make(self) -> Instance:
        settings, config, spread = self._parts
        return Instance(settings, asyncio.TaskGroup(), config, spread)

    def begin(self) -> Instance:
        """Return the instance to run: the first one, or a new one if that has run.

        Raises:
            RuntimeError: one is running.
        """
        if self._is_running:
            raise RuntimeError("toril is running already: for a second one, call create_app again")
        if self._was_started:
            instance = self._make()
            self.renew(instance.router, instance.middleware)
            self.state.instance = instance
        self._was_started = self._is_running = True
        self.middleware_stack = None
        begun: Instance = self.state.instance
        return begun

    def end(self) -> None:
        """Take no more requests."""
        self._is_running = False
        self.middleware_stack = None

    def build_middleware_stack(self) -> ASGIApp:
        """Part of Starlette. It is built again when the instance starts and ends."""
        app = super().build_middleware_stack()
        return app if self._is_running else _only_lifespan(app)


def _only_lifespan(app: ASGIApp) -> ASGIApp:
    """Return an application that can be started, and does nothing else until then."""

    async def not_running(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            raise RuntimeError(
                "toril is not running, because nothing runs its lifespan: an application that toril is mounted in runs "
                "`toril.router.lifespan_context(toril)` in its own, and a TestClient is entered with `with`"
            )
        await app(scope, receive, send)

    return not_running


@asynccontextmanager
async def _lifespan(app: _Runnable) -> AsyncIterator[None]:
    begun = app.begin()
    try:
        async with running(begun) as instance:
            await instance.check()
            yield
            await instance.drain()
    finally:
        app.end()
