"""A toril with all doors, for the tests of the clients: targets, an upstream, and its own API at the root."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.deliveries import configuration
from tests.support.endpoint import Answer, Call, Endpoint, reply_json, respond
from tests.support.gateway import TOKEN
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

TAKING, REFUSING, SILENT = "taking", "refusing", "paused"
"""The targets: one that answers 200 with what it got, one that answers 400, and one that the tests pause."""


def answer(call: Call) -> Answer:
    """Answer as a target and as an upstream."""
    if call.target.startswith("/refusing"):
        return respond(400, "Bad Request", body=b"no")
    if call.target.startswith("/never"):
        return Answer((), "hang")
    if call.target.startswith("/teapot"):
        return respond(418, "I'm a teapot", [("x-pot", "short and stout")], b"tip me over")
    return reply_json({"path": call.target, "got": call.body.decode()})


@dataclass(frozen=True)
class Doors:
    """Where it is, and what its targets and its upstream `/api` were sent."""

    toril: TorilProcess
    endpoint: Endpoint

    @property
    def env(self) -> dict[str, str]:
        """What programs are told of it."""
        return {"DOORS": self.toril.url, "TOKEN": TOKEN}


@contextmanager
def opened(folder: Path) -> Iterator[Doors]:
    """Start it on a Valkey that is its alone."""
    with ValkeyProcess(folder / "valkey") as valkey, Endpoint() as endpoint:
        endpoint.behaviour = answer
        url = endpoint.url.rpartition("/")[0]
        file = configuration(
            folder / "toril.yaml",
            {TAKING: f"{url}/taking", REFUSING: f"{url}/refusing", SILENT: f"{url}/taking"},
            ledger={"url": f"sqlite:///{folder / 'ledger.sqlite3'}"},
            upstreams=[{"prefix": "/api", "url": url}],
            apiPath="/",
        )
        toril = TorilProcess(valkey.url, folder / "toril.log", args=("--config", str(file)))
        try:
            yield Doors(toril.start(), endpoint)
        finally:
            toril.close()
        assert toril.complaints() == []
