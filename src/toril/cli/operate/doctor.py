"""`toril doctor`: says what is wrong with a gateway and its configuration, and what to do about it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from toril import __version__
from toril.cli.exit_codes import FAILED
from toril.cli.operate.faults import CommandFailed
from toril.cli.operate.operator import Operator, counted, operating
from toril.cli.options import FILE, WholeNumber
from toril.core.errors import ConfigInvalid

Finding = dict[str, Any]
_WAIT = WholeNumber("seconds", "a whole number from 0 to 60", most=60)
_PROXIES = "Raise the time-outs of the proxies on the way above 60 s: docs/how-to/reverse-proxies.md."


@click.command("doctor")
@click.option("--config", type=FILE, metavar="FILE", help="check this configuration file too, on this machine")
@click.option(
    "--wait",
    "wait_s",
    type=_WAIT,
    default=0,
    metavar="SECONDS",
    help="let the gateway answer only after so long, up to 60, to see whether the proxies on the way wait",
)
@operating
def doctor(op: Operator, config: Path | None, wait_s: int) -> int:
    """Examine a gateway, and a configuration file; end with 1 where something is wrong."""
    found, status = [] if config is None else _of_file(config), 0
    try:
        found += _of_gateway(op)
        if wait_s:
            found.append(_of_proxies(op, wait_s))
    except CommandFailed as exc:
        status = exc.exit_code
        found.append(_finding("gateway", "fail", exc.message))
    if op.out.as_json:
        op.out.document({"findings": found})
    else:
        _tell(op, found)
    return status or (FAILED if any(one["state"] == "fail" for one in found) else 0)


def _tell(op: Operator, found: list[Finding]) -> None:
    for one in sorted(found, key=lambda one: ("fail", "warn", "ok").index(one["state"])):
        op.out.line(one["state"], f"{one['about']}: {one['text']}")
        if one.get("remedy"):
            op.out.line("", f"      {one['remedy']}")
    numbers = {state: sum(one["state"] == state for one in found) for state in ("fail", "warn")}
    op.out.line(f"{counted(numbers['fail'], 'fault')}, {counted(numbers['warn'], 'warning')}")


def _of_gateway(op: Operator) -> list[Finding]:
    told = op.api.get("/doctor")
    found: list[Finding] = list(told["findings"])
    if told["version"] != __version__:
        text = f"The gateway is toril {told['version']}, this command {__version__}."
        found.append(_finding("version", "warn", text, "Use the same version of both."))
    return found


def _of_proxies(op: Operator, wait_s: int) -> Finding:
    began = time.monotonic()
    try:
        op.api.get("/doctor", wait=wait_s)
    except CommandFailed as exc:
        took_s = time.monotonic() - began
        return _finding(
            "proxies", "fail", f"An answer after {wait_s} s was given up after {took_s:.0f} s: {exc.message}", _PROXIES
        )
    return _finding("proxies", "ok", f"An answer that takes {wait_s} s arrives.")


def _of_file(file: Path) -> list[Finding]:
    from toril.config.reloading import ConfigFile  # noqa: PLC0415 - takes longer than the rest

    try:
        settings = ConfigFile(os.environ, file).read()
    except ConfigInvalid as exc:
        return [_finding("configuration", "fail", f"{file}: {fault}") for fault in exc.faults]
    found = [_finding("configuration", "ok", f"{file} is valid.")]
    if not (any(settings.gateway.auth_tokens) or settings.gateway.tokens):
        remedy = "Set AUTH_TOKENS where toril runs, or add a token: toril token --name NAME."
        text = "No API token is in the file or in this environment: every request would be refused."
        found.append(_finding("tokens", "warn", text, remedy))
    now = time.time()
    found.extend(
        _finding("tokens", "warn", f"The token of {grant.caller.name} has expired.", "Remove its line.")
        for grant in settings.gateway.tokens
        if grant.expires_at_s is not None and grant.expires_at_s <= now
    )
    return found


def _finding(about: str, state: str, text: str, remedy: str | None = None) -> Finding:
    return {"about": about, "state": state, "text": text, "remedy": remedy}
