"""`toril migrate`: brings the ledger's database up to date, or prints what that takes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from toril.cli.options import config_option
from toril.config.loading import config_file
from toril.config.reloading import ConfigFile
from toril.config.settings import Settings
from toril.core.errors import StoreError
from toril.delivery.ledger.postgres_connections import PostgresConnections
from toril.delivery.ledger.postgres_migration import MigrationPlan, carry_out, planned
from toril.delivery.sql_enqueue.target_table import write_targets

NEWER = 2
"""The exit status where the database was made by a newer toril."""


@click.command("migrate")
@config_option()
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="change nothing, and print the SQL that would be carried out, for psql",
)
def migrate_command(config: Path | None, *, only_plan: bool) -> int:
    """Migrate the database that the configuration names."""
    return migrate(ConfigFile(os.environ, config_file(config, os.environ)).read(), only_plan=only_plan)


def migrate(settings: Settings, *, only_plan: bool) -> int:
    """Carry the migration out, or print it as a script for psql; return the exit status."""
    if not settings.ledger.url.startswith(("postgresql://", "postgres://")):
        print(
            "toril: ledger.url names no PostgreSQL database; other ledgers are brought up to date when toril starts",
            file=sys.stderr,
        )
        return 1
    try:
        plan = asyncio.run(_migrated(settings, only_plan=only_plan))
    except StoreError as exc:
        print(f"toril: {' '.join(exc.message.split())}", file=sys.stderr)
        return 1
    if plan.newer is not None:
        print(f"toril: {plan.newer}; nothing was changed", file=sys.stderr)
        return NEWER
    _say(plan, [target.name for target in settings.targets], only_plan=only_plan)
    return 0


async def _migrated(settings: Settings, *, only_plan: bool) -> MigrationPlan:
    connections = PostgresConnections(settings.ledger.url, 1, lambda: None)
    plan = MigrationPlan()

    async def prepare(connection: Any) -> None:
        nonlocal plan
        plan = await planned(connection, sql_enqueue=True)
        if plan.newer is None and not only_plan:
            await carry_out(connection, plan)
            await write_targets(connection, settings.targets, settings.delivery.max_body_bytes)

    try:
        await connections.open(prepare)
    finally:
        connections.close()
    return plan


def _say(plan: MigrationPlan, targets: list[str], *, only_plan: bool) -> None:
    if not only_plan:
        for step in plan.steps:
            print(f"made {step.title}")
        print("the database is up to date; targets: " + (", ".join(targets) or "none in this configuration"))
    elif plan.steps:
        print("BEGIN;")
        for step in plan.steps:
            print(f"\n-- {step.title}\n{step.sql}")
        print("\nCOMMIT;")
    else:
        print("-- the database is up to date")
