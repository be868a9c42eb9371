"""Why a command cannot do what was asked for, each with its exit status."""

from __future__ import annotations

import click

from toril.cli.exit_codes import FAILED, NOT_ALLOWED, UNREACHABLE
from toril.cli.terminal import printable


class CommandFailed(click.ClickException):
    """What was asked for failed; the text says why."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # Click has it in the class

    def show(self, file: object = None) -> None:
        """Print the reason."""
        click.echo(f"toril: {printable(self.message)}", err=True)


class GatewayUnreachable(CommandFailed):
    """There was no answer, or one that is not a toril's."""

    def __init__(self, message: str) -> None:
        super().__init__(message, UNREACHABLE)


class GatewayRefused(CommandFailed):
    """The gateway answered with an error."""

    def __init__(self, url: str, request: str, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = " ".join(detail.split())
        exit_code = NOT_ALLOWED if status in (401, 403) else UNREACHABLE if status >= 500 else FAILED
        super().__init__(_said(url, request, status, self.detail), exit_code)


def _said(url: str, request: str, status: int, detail: str) -> str:
    if status == 401:
        return f"{url} does not know the token (--token, TORIL_TOKEN)"
    if status == 403:
        return f"the token has not the right to {request}; GET /whoami lists what it may do"
    return f"{detail or 'no reason given'} ({status} for {request})"
