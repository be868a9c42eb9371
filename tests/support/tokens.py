"""Tokens with their own rights, in a configuration file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.gateway import PLAIN


def token(name: str, allow: Sequence[str], queues: Sequence[str] = ("*",), **more: Any) -> dict[str, Any]:
    """An entry of `tokens:` for the token `<name>-secret`, or the one given as `secret`."""
    secret = more.pop("secret", f"{name}-secret")
    entry = {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest()}
    return entry | {"allow": [str(right) for right in allow], "queues": list(queues)} | more


def write(file: Path, *tokens: dict[str, Any]) -> Path:
    """Put these tokens into a file, in one step."""
    other = file.with_suffix(".new")
    other.write_text(yaml.safe_dump({"tokens": list(tokens)}))
    other.replace(file)
    return file


def bearer(secret: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {secret}"}


def ask(url: str, secret: str, method: str, path: str, body: Any = None) -> httpx.Response:
    """One request with a token; of a stream, its beginning."""
    with (
        httpx.Client(base_url=url, timeout=20, trust_env=False, verify=PLAIN, headers=bearer(secret)) as client,
        client.stream(method, path, json=body) as response,
    ):
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.read()
        return response
