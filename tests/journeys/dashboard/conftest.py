"""The browser in which the dashboard is tried."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.browser import Browser, Tab, browser


@pytest.fixture(scope="session")
def shared_chromium() -> Iterator[Browser]:
    """The browser that these tests share."""
    with browser() as running:
        yield running


@pytest.fixture
def chromium(shared_chromium: Browser) -> Iterator[Browser]:
    """A browser without tabs and without anything stored. The tabs that a test opens are closed with the test."""
    yield shared_chromium
    shared_chromium.close_tabs()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Tab]:
    """A tab that, when its test is over, has had no error, and has asked for documented routes of one origin only."""
    opened = chromium.tab()
    yield opened
    asked = [urlsplit(url) for url in opened.requested if url.startswith("http")]
    assert len({url.netloc for url in asked}) <= 1, "the page asks other origins"
    routes = {url.path for url in asked}
    assert [path for path in routes if not opened.documented.fullmatch(path)] == []
    assert opened.complaints == []
