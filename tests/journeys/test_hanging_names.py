"""A name server that does not answer for some names: workers at other hosts are served as if nothing was.

`getaddrinfo` of the real process hangs for names that begin with `hang`, as the system's does when no server answers.
"""

from collections.abc import Callable
from pathlib import Path

from tests.support.endpoint import Endpoint
from tests.support.gateway import job
from tests.support.toril import TorilProcess
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

HANGING = """
import socket, time
real = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if isinstance(host, str) and host.startswith("hang"):
        print("looking up", host, flush=True)
        time.sleep(120)
    if host == "live.test":
        host = "127.0.0.1"
    return real(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


def looked_up(toril: TorilProcess) -> list[str]:
    """The names that hang and were asked for."""
    return [line for line in toril.log().splitlines() if line.startswith("looking up")]


def test_slow_name_lookups_delay_no_other_host(
    start_toril: Callable[..., TorilProcess],
    start_valkey: StartValkey,
    tmp_path: Path,
    endpoint: Endpoint,
    new_queue: Callable[[], str],
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    # A separate Valkey: on a shared one, another toril would work for the registered workers, too.
    toril = start_toril(start_valkey(), env={"PYTHONPATH": str(tmp_path), "TORIL_CONNECT_TIMEOUT": "5s"})
    hanging = [new_queue() for _ in range(20)]
    for number, queue in enumerate(hanging):
        toril.gateway.register(queue, f"http://hang-{number}.test/", concurrency=10, timeout=60_000)
        toril.gateway.add(queue, *[job() for _ in range(10)])
    eventually(lambda: len(looked_up(toril)) == 20, timeout_s=30)
    live = new_queue()
    toril.gateway.register(live, endpoint.url.replace("127.0.0.1", "live.test"), timeout=30_000)
    done = toril.gateway.finished(live, toril.gateway.add_one(live), timeout_s=30)
    assert done["returnvalue"] == {"done": True}
    assert done["attemptsMade"] == 1
    for queue in hanging:  # they come to nothing by the time to connect, and free their places
        toril.gateway.wait_for_counts(queue, failed=10, timeout_s=30)
    assert len(looked_up(toril)) == len(set(looked_up(toril))) == 20, "ten requests to one name share one look-up"
