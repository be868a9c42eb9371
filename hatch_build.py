"""Writes the commit into what is built from a git repository: `toril --version` says it.

Without a repository (an image) TORIL_COMMIT says which; what is built from an sdist has its file already.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "toril/commit.txt"


class CommitHook(BuildHookInterface[Any]):
    """Adds `toril/commit.txt` to wheels and sdists, but not to editable installs, whose commit changes."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the file into what is built."""
        commit = os.environ.get("TORIL_COMMIT") or self._head()
        if version == "editable" or commit is None:
            return
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"TORIL_COMMIT must be a commit's 40 hexadecimal digits, not {commit!r}")
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "commit.txt"
        file.write_text(commit + "\n")
        build_data["force_include"][str(file)] = f"src/{FILE}" if self.target_name == "sdist" else FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _head(self) -> str | None:
        if not (Path(self.root) / ".git").exists():
            return None
        command = ["git", "-C", self.root, "rev-parse", "HEAD"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
