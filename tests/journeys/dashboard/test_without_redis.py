"""The dashboard of a toril over PostgreSQL alone: it begins with the overview, and shows no pages about queues."""

from pathlib import Path

from tests.support.alone import NO_REDIS, alone
from tests.support.browser import Tab, open_page
from tests.support.deliveries import Door
from tests.support.postgres import PostgresProcess
from tests.support.toril import StartToril


def test_it_shows_deliveries_and_nothing_of_queues(
    tmp_path: Path, postgres: PostgresProcess, start_toril: StartToril, tab: Tab
) -> None:
    targets = {"billing": {"url": "http://127.0.0.1:9/", "group_by": "labels.tenant", "group": {"concurrency": 1}}}
    toril = start_toril(NO_REDIS, args=alone(tmp_path / "toril.yaml", postgres.database(), targets))
    open_page(tab, toril)
    tab.shows("All is well")
    tab.shows("Deliveries")
    tab.hides("Most waiting")
    tab.hides("Schedulers")
    tab.hides("Events")
    tab.hides("no_redis")


def test_the_groups_of_a_target_are_one_click_from_it(
    tmp_path: Path, postgres: PostgresProcess, start_toril: StartToril, tab: Tab
) -> None:
    targets = {"billing": {"url": "http://127.0.0.1:9/", "group_by": "labels.tenant", "group": {"concurrency": 1}}}
    toril = start_toril(NO_REDIS, args=alone(tmp_path / "toril.yaml", postgres.database(), targets))
    door = Door(toril.gateway)
    assert door.http.post("/targets/billing/pause").is_success
    for tenant in ("acme", "other"):
        door.enqueue("billing", labels={"tenant": tenant})
    open_page(tab, toril, "targets/billing")
    tab.click("link", "Groups")
    tab.shows("Groups of deliver-billing")
    tab.shows("acme")
    tab.hides("no_redis")
    tab.click("button", "Drain acme")
    tab.shows("Cancels the deliveries of 1 waiting job of this group.")
    tab.click("button", "Confirm")
    tab.shows("1 job removed")
    tab.click("link", "billing")
    tab.shows("1 delivery waits")
