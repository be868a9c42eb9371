"""Files that hold secrets, and the last secret of each.

A file that has vanished keeps its secret as long as something that runs has read it; one that nothing has read before
is a fault. `toril.config.reloading` watches these files.
"""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 1024 * 1024
"""A larger file is refused; all authorities of a system together are a quarter of that."""

State = tuple[int, int, int] | None


def state_of(file: Path) -> State:
    """Return what changes with a file's content, without reading it; links are followed.

    So it also changes when Kubernetes swaps the folder behind the links of a mounted secret.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class SecretFiles:
    """The secret files of one configuration; `vanished` are those that have been removed since.

    Args:
        before: what the configuration that runs has read.
    """

    def __init__(self, before: SecretFiles | None = None) -> None:
        self._before = before.held if before is not None else {}
        self.held: dict[Path, str] = {}
        self.seen: dict[Path, State] = {}
        self.vanished: set[Path] = set()

    def read(self, file: Path) -> str:
        """Return what the file holds, or held when last there, without white space around it and a byte order mark.

        Raises:
            ValueError: it cannot be read, or is no text. Says nothing of what is in it.
        """
        # Before it is read, so that a change in between is noticed.
        self.seen[file] = state_of(file)
        try:
            with file.open("rb") as opened:
                content = opened.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"the file {file} is larger than {MAX_BYTES} bytes")
            text = content.decode("utf-8-sig").strip()
        except OSError as exc:
            if file not in self._before:
                raise ValueError(f"the file {file} cannot be read: {exc.strerror}") from exc
            text = self._before[file]
            self.vanished.add(file)
        except UnicodeDecodeError:
            raise ValueError(f"the file {file} holds no text") from None
        self.held[file] = text
        return text
