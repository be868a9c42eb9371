"""The generated parts of `docs/reference` are what the source says."""

import pytest
from scripts.reference import GENERATED, PAGES, duration, filled, shown

from toril.config.meanings import PROXY_SETTINGS_MEAN, SETTINGS_MEAN, UPSTREAM_KEYS_MEAN
from toril.config.table import SETTINGS
from toril.core.times import parse_duration_s
from toril.proxy.settings import PROXY_SETTINGS
from toril.proxy.upstream_settings import UPSTREAM_KEYS


@pytest.mark.parametrize("page", GENERATED)
def test_a_page_is_as_the_source_has_it(page: str) -> None:
    text = (PAGES / page).read_text()
    assert filled(page, text) == text, f"docs/reference/{page} is stale: run `make reference`"


def test_every_key_has_a_meaning_and_nothing_else() -> None:
    assert set(SETTINGS_MEAN) == {setting.key for setting in SETTINGS if setting not in PROXY_SETTINGS}
    assert set(PROXY_SETTINGS_MEAN) == {setting.key for setting in PROXY_SETTINGS}
    assert set(UPSTREAM_KEYS_MEAN) == set(UPSTREAM_KEYS)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5, 30.0, 90.0, 300.0, 3600.0, 86400.0])
def test_a_duration_is_shown_as_it_is_written_into_the_file(seconds: float) -> None:
    assert parse_duration_s(duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("value", "text"), [(True, "`true`"), (2.0, "`2s`"), (0, "`0`"), ((), "\N{EN DASH}"), (None, "\N{EN DASH}")]
)
def test_a_default_is_shown_as_it_is_written_into_the_file(value: object, text: str) -> None:
    assert shown(value) == text
