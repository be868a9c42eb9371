"""The exit statuses of the `toril` command. Click has 2 for wrong arguments."""

from __future__ import annotations

FAILED = 1
"""What was asked for failed, or was not found."""

UNREACHABLE = 3
"""The gateway does not answer, answers with an internal error, or is none."""

NOT_ALLOWED = 4
"""The token is not known, or has not the right."""

INTERRUPTED = 130
"""Ctrl-C, as shells have it."""
