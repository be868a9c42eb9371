"""The options of `toril demo`."""

from __future__ import annotations

import click

from toril.cli.demo.journey import demo
from toril.cli.demo.kept import keep
from toril.cli.options import COUNT

_JOBS = 3000


@click.command("demo")
@click.option("--jobs", type=COUNT, metavar="N", help=f"jobs to send (default {_JOBS})")
@click.option(
    "--keep",
    "kept",
    is_flag=True,
    help="instead, run a gateway with lifelike traffic until Ctrl-C, and print the link to its dashboard",
)
def demo_command(jobs: int | None, *, kept: bool) -> int:
    """Run the demo to its end, or until Ctrl-C."""
    if not kept:
        return demo(jobs or _JOBS)
    if jobs is not None:
        raise click.UsageError("--keep is not allowed with --jobs")
    return keep()
