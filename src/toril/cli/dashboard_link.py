"""The link that logs in at the dashboard."""

from __future__ import annotations

from urllib.parse import quote

from toril.config.settings import Settings


def dashboard_link(url: str, settings: Settings) -> str:
    """Return the dashboard's address with the first token of `auth_tokens` behind `#`, which no server is sent.

    Args:
        url: where this toril listens.
    """
    below = (settings.proxy.api_path or "").rstrip("/") if settings.proxy.upstreams else ""
    return f"{url}{below}{settings.dashboard.path}/#token={quote(settings.gateway.auth_tokens[0], safe='')}"
