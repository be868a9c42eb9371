"""Which toril this is: its version, and the commit that it was built from."""

import subprocess
from importlib.resources import files
from pathlib import Path

from toril import __version__

_SHOWN = 12
"""How many digits of a commit are shown: as many as git shows in large repositories."""


def described() -> str:
    """Return what `toril --version` prints: `toril 0.1.0 (commit 3fd7a1c09b2e)`, or no commit where it is unknown."""
    commit = _built_from() or _checked_out()
    return f"toril {__version__}" + (f" (commit {commit[:_SHOWN]})" if commit else "")


def _built_from() -> str | None:
    file = files("toril") / "commit.txt"
    return file.read_text().strip() if file.is_file() else None


def _checked_out() -> str | None:
    """Return the commit of the repository that toril runs from, as after `pip install --editable`."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            check=False, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
