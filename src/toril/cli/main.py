"""The `toril` command: its commands by name, and what becomes of an error on the way out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from toril.cli.exit_codes import FAILED, INTERRUPTED
from toril.cli.lazy_group import CommandPlace, LazyGroup
from toril.cli.version import described
from toril.core.errors import ConfigInvalid

COMMANDS = {
    "serve": CommandPlace("toril.cli.serve", "serve_command", "Run the gateway and the registered workers."),
    "dev": CommandPlace(
        "toril.cli.dev.command",
        "dev_command",
        "Run all doors with an embedded Valkey, a ready-made token and an inspector, to try toril out.",
    ),
    "listen": CommandPlace(
        "toril.cli.listen.command",
        "listen_command",
        "Have an endpoint on this machine work on a queue of any toril, until Ctrl-C.",
    ),
    "demo": CommandPlace(
        "toril.cli.demo.command", "demo_command", "Send jobs to an HTTP worker, on an embedded Valkey, and end."
    ),
    "check-config": CommandPlace(
        "toril.cli.check_config", "check_config", "Read the configuration, name every fault, and end."
    ),
    "migrate": CommandPlace(
        "toril.cli.migrate",
        "migrate_command",
        "Make the ledger's tables and the functions of SQL enqueue in PostgreSQL, or update them, and end.",
    ),
    "recover": CommandPlace(
        "toril.cli.recover", "recover_command", "Put deliveries that Redis has lost back from the ledger, and end."
    ),
    "token": CommandPlace(
        "toril.cli.token", "token_command", "Make an API token, and the line for it in the configuration file."
    ),
    "queues": CommandPlace("toril.cli.operate.queues", "queues", "List, show, pause and resume queues."),
    "jobs": CommandPlace(
        "toril.cli.operate.jobs", "jobs", "List, show, add, retry, remove and follow the jobs of a queue."
    ),
    "workers": CommandPlace("toril.cli.operate.workers", "workers", "List, show, pause and resume registered workers."),
    "groups": CommandPlace(
        "toril.cli.operate.groups",
        "groups",
        "List and show the groups of a queue, set their limits, pause, resume, drain and release them.",
    ),
    "schedulers": CommandPlace("toril.cli.operate.schedulers", "schedulers", "List, show and remove job schedulers."),
    "targets": CommandPlace(
        "toril.cli.operate.targets", "targets", "List, show, pause and resume the targets of deliveries."
    ),
    "dead-letters": CommandPlace(
        "toril.cli.operate.dead_letters", "dead_letters", "List, replay and purge the dead letters of a target."
    ),
    "events": CommandPlace("toril.cli.operate.events", "events", "Follow the events of queues."),
    "doctor": CommandPlace(
        "toril.cli.operate.doctor",
        "doctor",
        "Say what is wrong with a gateway, Redis, the ledger and a configuration file, and what to do about it.",
    ),
    "completion": CommandPlace(
        "toril.cli.completion", "completion", "Print the script that completes toril's commands in a shell."
    ),
}


def _say_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(described())
        context.exit()


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An HTTP gateway over BullMQ queues.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version,
    help="Show the version and the commit, and exit.",
)  # fmt: skip
def toril() -> None:
    """Run one of the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(toril.main(given, prog_name="toril", standalone_mode=False, obj=given) or 0)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except ConfigInvalid as exc:
        print(f"toril: the configuration has {len(exc.faults)} fault(s):", file=sys.stderr)
        for fault in exc.faults:
            print(f"  - {fault}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
