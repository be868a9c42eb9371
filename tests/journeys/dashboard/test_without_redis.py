"""The dashboard of a toril over PostgreSQL alone: it begins with the overview, and shows no pages about queues."""

from pathlib import Path

from tests.support.alone import NO_REDIS, alone
from tests.support.browser import Tab, open_page
from tests.support.postgres import PostgresProcess
from tests.support.toril import StartToril


def test_it_shows_deliveries_and_nothing_of_queues(
    tmp_path: Path, postgres: PostgresProcess, start_toril: StartToril, tab: Tab
) -> None:
    targets = {"billing": {"url": "http://127.0.0.1:9/"}}
    toril = start_toril(NO_REDIS, args=alone(tmp_path / "toril.yaml", postgres.database(), targets))
    open_page(tab, toril)
    tab.shows("All is well")
    tab.shows("Deliveries")
    tab.hides("Most waiting")
    tab.hides("Schedulers")
    tab.hides("no_redis")
