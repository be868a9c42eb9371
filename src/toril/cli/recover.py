"""`toril recover`: puts deliveries that Redis has lost back from the ledger."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import uvloop

from toril.cli.causes import tell_causes
from toril.cli.options import config_option
from toril.config.loading import config_file
from toril.config.reloading import ConfigFile
from toril.core.errors import StoreError
from toril.instance import recover
from toril.telemetry.logs import configure


@click.command("recover")
@config_option()
def recover_command(config: Path | None) -> int:
    """Recover the deliveries of every target."""
    settings = ConfigFile(os.environ, config_file(config, os.environ)).read()
    if not settings.targets:
        print("toril: no targets are configured, so there is no ledger to recover from", file=sys.stderr)
        return 1
    configure(settings.log)
    status = 0
    try:
        done = uvloop.run(recover(settings))
        for target in (target.name for target in settings.targets):
            print(
                f"{target}: {done.requeued[target]} put back into the queue, {done.lost[target]} lost attempts ended, "
                f"{done.expired[target]} past their deadline"
            )
    except* StoreError as group:
        status = 1
        tell_causes(group)
    return status
