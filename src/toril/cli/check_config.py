"""`toril check-config`: reads the configuration and says what is wrong with it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from toril.cli.options import config_option
from toril.config.loading import config_file
from toril.config.reloading import ConfigFile


@click.command("check-config")
@config_option()
def check_config(config: Path | None) -> int:
    """Read the configuration and sum it up."""
    settings = ConfigFile(os.environ, config_file(config, os.environ)).read()
    policy = settings.gateway
    redis = "no Redis" if settings.without_redis else f"Redis at {settings.redis}"
    print(f"The configuration is valid: listens on {settings.host}:{settings.port}, {redis}.")
    now = time.time()
    over = sum(grant.expires_at_s is not None and grant.expires_at_s <= now for grant in policy.tokens)
    named = f"{len(policy.tokens)} with rights of their own" + (f" ({over} expired)" if over else "")
    print(f"API tokens: {len(policy.auth_tokens)} with all rights, {named}.")
    if len(policy.auth_tokens) + len(policy.tokens) == over:
        print("No API token is valid (AUTH_TOKENS, tokens): every request would be refused.")
    return 0
