"""The files that secrets are read from, and what each held when it was last there.

A file that has vanished keeps its secret as long as something that runs has read it; one that nothing has read before
is a fault. Called by `toril.config.targets`, and by `toril.config.reloading`, which watches these files.
"""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 64 * 1024

State = tuple[int, int, int] | None


def state_of(file: Path) -> State:
    """What tells one content of a file from another without reading it; of a link, that of what it leads to.

    So it also changes when Kubernetes swaps the folder behind the links of a mounted secret.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class SecretFiles:
    """Reads the secret files of one configuration; `vanished` are those that were there only before.

    Args:
        before: what the configuration that runs has read.
    """

    def __init__(self, before: SecretFiles | None = None) -> None:
        self._before = before.held if before is not None else {}
        self.held: dict[Path, str] = {}
        self.seen: dict[Path, State] = {}
        self.vanished: set[Path] = set()

    def read(self, file: Path) -> str:
        """What the file holds, or held when it was last there, without the white space around it and a byte order mark.

        Raises:
            ValueError: it cannot be read, or is no text. Says nothing of what is in it.
        """
        # Looked at before it is read: what changes in between is a change.
        self.seen[file] = state_of(file)
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_BYTES).decode("utf-8-sig").strip()
        except OSError as exc:
            if file not in self._before:
                raise ValueError(f"the file {file} cannot be read: {exc.strerror}") from exc
            text = self._before[file]
            self.vanished.add(file)
        except UnicodeDecodeError:
            raise ValueError(f"the file {file} holds no text") from None
        self.held[file] = text
        return text
