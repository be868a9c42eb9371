"""`toril completion`: the script by which a shell completes toril's commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from toril.cli.exit_codes import FAILED

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    epilog='For bash: eval "$(toril completion bash)" in ~/.bashrc; for zsh the same with zsh in ~/.zshrc; for fish: '
    "toril completion fish > ~/.config/fish/completions/toril.fish",
)
@click.argument("shell", type=click.Choice(_SHELLS), metavar="{bash,zsh,fish}", help="the shell")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the script."""
    found = get_completion_class(shell)
    if found is None:
        return FAILED
    print(found(ctx.find_root().command, {}, "toril", "_TORIL_COMPLETE").source())
    return 0
