"""Which toril a command talks to: options, else `TORIL_URL` and `TORIL_TOKEN`, else the `toril dev` of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from msgspec import Struct

DEV_FOLDER = Path("toril-data")
URL_FILE = "url"
TOKEN_FILE = "token"  # noqa: S105 - the name of a file
DEFAULT_URL = "http://127.0.0.1:8080"


class GatewayAddress(Struct, frozen=True):
    """The URL of a toril's API, without a slash at its end, and a token."""

    url: str
    token: str

    def socket(self, path: str) -> str:
        """Return the URL of a WebSocket."""
        return "ws" + self.url.removeprefix("http") + path

    def __repr__(self) -> str:
        return f"GatewayAddress({self.url!r})"


def gateway_address(
    url: str | None, token: str | None, environment: Mapping[str, str], folder: Path = DEV_FOLDER
) -> GatewayAddress:
    """Return the address of a gateway.

    The token in the folder of a `toril dev` is used for that one alone, and never sent to a URL that was given.

    Raises:
        ValueError: saying what is missing or wrong.
    """
    url, token = url or environment.get("TORIL_URL"), token or environment.get("TORIL_TOKEN")
    if not url:
        url = _text(folder / URL_FILE) or DEFAULT_URL
        token = token or _text(folder / TOKEN_FILE)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a toril, such as {DEFAULT_URL} (--url, TORIL_URL)")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("the URL of a toril has neither user, query nor fragment (--url, TORIL_URL)")
    if not token:
        raise ValueError(f"there is no token for {url} (--token, TORIL_TOKEN)")
    if not (token.isascii() and token.isprintable()):
        raise ValueError("a token holds visible ASCII characters only (--token, TORIL_TOKEN)")
    return GatewayAddress(url.rstrip("/"), token)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def segment(name: str) -> str:
    """Return a name as a segment of a path."""
    return quote(name, safe="")
