"""Wires what makes the requests to registered workers: under the egress rules, on the routes of `workers.outbound`."""

from __future__ import annotations

from toril.config.settings import Settings
from toril.http_client.client import HttpClient
from toril.http_client.configured_routes import HostRoutes
from toril.http_client.connecting import Network
from toril.http_client.egress import Egress


class WorkerCalls:
    """The client of registered workers, and its routes."""

    def __init__(self, settings: Settings, egress: Egress, network: Network) -> None:
        engine = settings.engine
        self._routes = HostRoutes(settings.worker_routes, network, engine.connect_timeout_s)
        self.client = HttpClient(
            engine.connect_timeout_s,
            engine.max_response_bytes,
            egress,
            network,
            max_head_bytes=engine.max_response_head_bytes,
        ).on(self._routes)

    def renew(self, settings: Settings) -> None:
        """Use these certificates and secrets from now on."""
        self._routes.renew(settings.worker_routes)
