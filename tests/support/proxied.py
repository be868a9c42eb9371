"""A toril that is an async proxy, configured as proxq is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.toril import TorilProcess

READY = "/__toril/ready"


class Proxied:
    """Makes the arguments of a `TorilProcess` in front of these upstreams; `keys` are proxq's top-level ones."""

    def __init__(self, folder: Path, upstreams: Sequence[Mapping[str, Any]], **keys: Any) -> None:
        self.config = folder / "proxq.yaml"
        # JSON is YAML, too.
        self.config.write_text(json.dumps({"upstreams": list(upstreams), **keys}))

    @property
    def arguments(self) -> dict[str, Any]:
        """For `TorilProcess` and the fixture `start_toril`."""
        return {"args": ("--config", str(self.config))}


@contextmanager
def running(redis_url: str, folder: Path, config: Proxied, **options: Any) -> Iterator[TorilProcess]:
    """Such a toril for the length of a block; what it logs must be in order."""
    toril = TorilProcess(redis_url, folder / "toril.log", **config.arguments, **options)
    try:
        yield toril.start(READY)
    finally:
        toril.close()
    assert toril.complaints() == []


def memory_kb(toril: TorilProcess) -> int:
    """The most memory that the process has ever had (resident)."""
    return _status(toril, "VmHWM")


def threads(toril: TorilProcess) -> int:
    """How many threads the process has."""
    return _status(toril, "Threads")


def cpu_s(toril: TorilProcess) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{toril.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _status(toril: TorilProcess, name: str) -> int:
    lines = Path(f"/proc/{toril.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
