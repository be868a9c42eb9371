"""The options of `toril dev`."""

from __future__ import annotations

from pathlib import Path

import click

from toril.cli.dev.gateway import DevOptions, dev
from toril.cli.options import FILE, PORT, config_option


@click.command("dev")
@click.option("--host", default="127.0.0.1", metavar="HOST", help="address to listen on (default 127.0.0.1)")
@click.option("--port", type=PORT, metavar="PORT", help="port to listen on (default 8080; 0 takes a free one)")
@click.option("--data", type=FILE, default=Path("toril-data"), metavar="FOLDER", help="folder that keeps the data")
@config_option(
    "YAML file with settings (targets, upstreams and so on); a change of it applies at once. The Redis that it names "
    "is not used"
)
def dev_command(host: str, port: int | None, data: Path, config: Path | None) -> int:
    """Run until Ctrl-C."""
    return dev(DevOptions(host, port, data, config))
