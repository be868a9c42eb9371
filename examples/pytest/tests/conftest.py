import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from shop import Charge


@pytest.fixture(scope="session")
def toril_config() -> str:
    """The target that the shop delivers to: here, the inspector."""
    return 'targets: {warehouse: {url: "$TORIL_URL/inspect/warehouse"}}'


@pytest.fixture(scope="session")
def worker() -> Iterator[str]:
    """The URL of the shop's worker."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Charge) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/charge"
        server.shutdown()
        serving.join()
