"""Fixtures shared by all tests: real servers, started once where tests can share them."""

import functools
import gc
import os
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx._transports.default as httpx_transports
import hypothesis
import pytest
import redis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import failure_report, repeat_failed
from tests.support.dev import StartDev, starting_dev
from tests.support.endpoint import Behaviour, Endpoint
from tests.support.gateway import Gateway
from tests.support.pgbouncer import NoPgBouncer, PgBouncer
from tests.support.postgres import NoPostgres, PostgresProcess
from tests.support.proxq import Backend, Proxq, StartProxq, started
from tests.support.s3 import S3Server
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

_ONE_PROCESS = ("tests/clients/", "tests/compat/")
_SLOW_WEIGHT = 100
"""How many others take about as long as a test that is marked slow."""
_WEIGHTS = {"chromium": 20, "start_toril": 10, "start_proxq": 10, "start_dev": 10}
"""How many others take about as long as a test with one of these fixtures: a page, or a server of the test's own."""


def pytest_configure(config: pytest.Config) -> None:
    _share_tls_contexts()
    config.pluginmanager.register(failure_report)
    config.pluginmanager.register(repeat_failed)
    config.option.loadscopereorder = False  # pytest_collection_modifyitems has put them in order
    # The same examples in every CI run: what they find depends on the change, not on chance. Elsewhere they explore,
    # from a seed that is printed.
    hypothesis.settings.register_profile("ci", derandomize=True, print_blob=True)
    hypothesis.settings.register_profile("fast", max_examples=15)
    if os.environ.get("CI"):
        hypothesis.settings.load_profile("ci")
    elif config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbelow(2**32))


def _share_tls_contexts() -> None:
    """Read the certificates of the authorities once, not for each client of httpx: that takes 40 ms of CPU."""
    httpx_transports.create_ssl_context = functools.cache(httpx_transports.create_ssl_context)


def pytest_collection_finish() -> None:
    """Take the 10,000 collected tests out of sight of the garbage collector: walking them cost 0.2 s each time."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """How to have the same examples again."""
    seed = config.getoption("--hypothesis-seed", None)
    return f"examples: --hypothesis-seed={seed}" if seed is not None else "examples: derandomised (CI)"


def _scope(nodeid: str) -> str:
    """Return which tests run in one process: those of a file, since they share servers.

    So do all tests of the clients and all beside other programs, which install packages that only one process may.
    """
    file = nodeid.partition("::")[0]
    return next((folder for folder in _ONE_PROCESS if file.startswith(folder)), file)


def _weight(item: pytest.Item) -> int:
    """Return about how long a test takes, in tests that only ask a server that is there already."""
    if item.get_closest_marker("slow"):
        return _SLOW_WEIGHT
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    return max((_WEIGHTS.get(name, 1) for name in fixtures), default=1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, start with what takes longest, so that none works on alone at the end."""
    if not hasattr(config, "workerinput"):
        return
    weights: Counter[str] = Counter()
    for item in items:
        weights[_scope(item.nodeid)] += _weight(item)
    for folder in _ONE_PROCESS:
        weights[folder] *= _SLOW_WEIGHT
    items.sort(key=lambda item: -weights[_scope(item.nodeid)])


class _ByScope(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Which process runs which tests."""
    return _ByScope(config, log)


def _watched(request: pytest.FixtureRequest, toril: TorilProcess) -> TorilProcess:
    failure_report.watch(request.config, toril)
    return toril


def _retire(request: pytest.FixtureRequest, toril: TorilProcess) -> None:
    toril.close()
    failure_report.unwatch(request.config, toril)
    assert toril.complaints() == []


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """The Valkey that tests share; they keep apart by queue names."""
    with ValkeyProcess(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3-compatible server that tests share; they keep apart by buckets."""
    with S3Server(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    """The PostgreSQL that tests share; they keep apart by databases."""
    try:
        server = PostgresProcess()
    except NoPostgres as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))
    with server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresProcess) -> Iterator[PgBouncer]:
    """The PgBouncer before the PostgreSQL that tests share."""
    try:
        pooler = PgBouncer(postgres)
    except NoPgBouncer as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))
    with pooler:
        yield pooler


@pytest.fixture(scope="session")
def toril(
    request: pytest.FixtureRequest, valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorilProcess]:
    """The toril that tests share."""
    server = _watched(request, TorilProcess(valkey.url, tmp_path_factory.mktemp("toril") / "toril.log"))
    server.start()
    yield server
    _retire(request, server)


@pytest.fixture
def gateway(toril: TorilProcess) -> Gateway:
    """The shared toril's REST door."""
    return toril.gateway


@pytest.fixture
def store(valkey: ValkeyProcess) -> Iterator[redis.Redis]:
    """A look into the shared Valkey."""
    client = valkey.client()
    yield client
    client.close()


@pytest.fixture
def start_valkey(tmp_path: Path) -> Iterator[Callable[..., ValkeyProcess]]:
    """Starts a Valkey of the test's own; takes the options of :class:`ValkeyProcess`."""
    with ExitStack() as stack:

        def start(**options: Any) -> ValkeyProcess:
            folder = tmp_path / f"valkey-{uuid.uuid4().hex[:6]}"
            return stack.enter_context(ValkeyProcess(folder, **options))

        yield start


@pytest.fixture
def start_toril(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., TorilProcess]]:
    """Starts a toril of the test's own on a Valkey; takes ``wait_for`` and what :class:`TorilProcess` takes."""
    with ExitStack() as stack:

        def start(store: ValkeyProcess, wait_for: str = "/ready", **options: Any) -> TorilProcess:
            log_path = tmp_path / f"toril-{uuid.uuid4().hex[:6]}.log"
            server = _watched(request, TorilProcess(store.url, log_path, **options))
            stack.callback(_retire, request, server)
            return server.start(wait_for)

        yield start


@pytest.fixture
def start_dev(tmp_path: Path) -> Iterator[StartDev]:
    """Starts `toril dev` with a configuration file's text."""
    with starting_dev(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def backend() -> Iterator[Backend]:
    """The upstream that proxied tests share; they keep apart by paths."""
    with Endpoint() as endpoint:
        yield Backend(endpoint)
        for error in endpoint.errors:
            raise error


@pytest.fixture(scope="session")
def shared_proxq(
    request: pytest.FixtureRequest, valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartProxq]:
    """Starts a toril with a document of proxq's, once for all tests that name the same one."""
    with ExitStack() as stack:
        known: dict[str, Proxq] = {}

        def shared(document: dict[str, Any]) -> Proxq:
            key = repr(document)
            if key not in known:
                process, known[key] = started(tmp_path_factory.mktemp("proxq"), valkey, document)
                stack.callback(_retire, request, _watched(request, process))
                process.start("/__toril/ready")
            return known[key]

        yield shared


@pytest.fixture
def start_proxq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartProxq]:
    """Starts a toril of the test's own with a document of proxq's on a Valkey."""
    with ExitStack() as stack:

        def start(store: ValkeyProcess, document: dict[str, Any], **options: Any) -> Proxq:
            process, proxq = started(tmp_path, store, document, **options)
            stack.callback(_retire, request, _watched(request, process))
            process.start("/__toril/ready")
            return proxq

        yield start


@pytest.fixture
def start_endpoint() -> Iterator[Callable[..., Endpoint]]:
    """Starts an endpoint with a behaviour; what the behaviour raises fails the test."""
    started: list[Endpoint] = []
    with ExitStack() as stack:

        def start(behaviour: Behaviour | None = None) -> Endpoint:
            started.append(stack.enter_context(Endpoint(behaviour)))
            return started[-1]

        yield start
    for endpoint in started:
        for error in endpoint.errors:
            raise error


@pytest.fixture
def endpoint(start_endpoint: Callable[..., Endpoint]) -> Endpoint:
    """An endpoint that answers ``{"done": true}`` until told otherwise."""
    return start_endpoint()


@pytest.fixture
def new_queue(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes queue names no other test uses; their workers on the shared toril go with the test."""
    names: list[str] = []
    shared = request.getfixturevalue("toril") if "toril" in request.fixturenames else None

    def make() -> str:
        names.append(f"q-{uuid.uuid4().hex[:12]}")
        return names[-1]

    yield make
    if shared is not None:
        for name in names:
            shared.client.delete(f"/workers/{name}")


@pytest.fixture
def queue(new_queue: Callable[[], str]) -> str:
    """A queue name no other test uses."""
    return new_queue()


@pytest.fixture
def canary(
    gateway: Gateway, start_endpoint: Callable[..., Endpoint], new_queue: Callable[[], str]
) -> Callable[[], None]:
    """A job that goes all the way through the shared toril.

    When it returns, everything that toril was told before has had its chance to happen: a way to assert
    that something did *not* happen without waiting for some arbitrary time.
    """
    endpoint = start_endpoint()

    def sing() -> None:
        queue = new_queue()
        gateway.register(queue, endpoint.url)
        began = time.monotonic()
        for _ in range(3):
            gateway.finished(queue, gateway.add_one(queue))
        assert time.monotonic() - began < 10

    return sing
