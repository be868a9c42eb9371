"""`targets:` of the configuration file: what it may say, and that every fault is told at once."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from toril.config.loading import load
from toril.config.secret_files import SecretFiles
from toril.core.access import RateLimit
from toril.core.errors import ConfigInvalid
from toril.core.http.signing import Secret
from toril.core.settings.setting import Faults
from toril.delivery.rules.retry_policy import RETRIED, RetryPolicy
from toril.delivery.rules.target import BreakerPolicy, Retention, TargetAuth, TargetSpec, Timeouts
from toril.delivery.settings import targets

SECRET = "hunter2-the-secret"
KEY = b"k" * 32
WEBHOOK = "whsec_" + base64.b64encode(KEY).decode()
URL = "https://billing.internal/api"


def read(**keys: Any) -> TargetSpec:
    """The target of a document with these keys."""
    (spec,) = targets({"billing": {"url": URL} | keys}, SecretFiles().read)
    return spec


def faults_of(document: Any) -> list[str]:
    with pytest.raises(Faults) as caught:
        targets(document, SecretFiles().read)
    assert SECRET not in str(caught.value)
    return caught.value.faults


def fault(**keys: Any) -> str:
    """The one fault of a document with these keys."""
    (found,) = faults_of({"billing": {"url": URL} | keys})
    return found


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


def test_a_target_needs_a_url_and_nothing_else() -> None:
    assert read() == TargetSpec(name="billing", url=URL)


def test_the_example_of_the_wire_is_read(tmp_path: Path) -> None:
    (tmp_path / "billing").write_text(SECRET)
    (tmp_path / "signing").write_text(f"{WEBHOOK}\n")
    document = yaml.safe_load(
        f"""
        billing:
          url: "https://billing.internal/api"
          timeout: {{connect: "2s", total: "30s"}}
          concurrency: 20
          rate_limit: {{max: 100, per: "1s"}}
          retry: {{max_attempts: 8, backoff: exponential, base: "1s", max: "10m", jitter: 0.2,
                   retry_on: [408, 425, 429, "5xx"]}}
          breaker: {{failures: 5, failure_rate: 0.4, min_attempts: 30, window: "30s", open_for: "15s",
                    half_open_probes: 1}}
          auth: {{scheme: bearer, secret_file: {tmp_path}/billing}}
          signing: {{secret_file: {tmp_path}/signing}}
          retention: {{delivered: "24h", dead_lettered: "30d", cancelled: "24h"}}
        """
    )
    (spec,) = targets(document, SecretFiles().read)
    assert spec.timeout == Timeouts(connect_s=2, total_s=30)
    assert spec.rate_limit == RateLimit(100, 1.0)
    assert spec.retry == RetryPolicy(
        max_attempts=8, base_s=1, max_s=600, jitter=0.2, retry_on=frozenset({408, 425, 429, *range(500, 600)})
    )
    assert spec.breaker == BreakerPolicy(
        failures=5, failure_rate=0.4, min_attempts=30, window_s=30, open_for_s=15, half_open_probes=1
    )
    assert spec.auth == TargetAuth(scheme="bearer", secret=SECRET, secret_file=f"{tmp_path}/billing")
    assert spec.signing is not None
    assert spec.signing.secrets == (Secret(KEY),)
    assert spec.retention == Retention(delivered_s=86400, dead_lettered_s=30 * 86400, cancelled_s=86400)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2592000), ("1d12h", 129600), ("0d", 0), ("36h", 129600), ("0", 0), ("1d0s", 86400)]
)
def test_days_are_understood(text: str, seconds: float) -> None:
    assert read(retention={"delivered": text}).retention.delivered_s == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5d", "12h1d", "1D", "5", 5, None])
def test_an_invalid_duration_is_refused(text: Any) -> None:
    assert fault(retention={"delivered": text}).startswith("billing.retention.delivered: ")


def test_every_fault_is_named_at_once_with_target_and_key(tmp_path: Path) -> None:
    document = {
        "billing": {
            "url": f"https://user:{SECRET}@billing.internal",
            "timeout": {"conect": "2s", "total": 30},
            "concurrency": 0,
            "rate_limit": {"max": 5},
            "retry": {"max_attempts": 0, "backoff": "linear", "jitter": 2, "retry_on": ["6xx"], "base": "7h"},
            "breaker": {"failures": "many"},
            "auth": {"scheme": "bearer", "secret_file": str(tmp_path / "missing")},
            "signing": {},
            "retention": [],
            "retries": {},
            "group": {"concurrency": 0, "limit": {"max": 5}},
        },
        "grouped": {"url": URL, "group_by": "tenant"},
        "e mail": {"url": URL},
        "email": {},
        "sms": None,
    }
    assert sorted(faults_of(document)) == sorted(
        [
            "billing.url: it must hold no user and no password; auth: {scheme: basic} sends them",
            "billing.timeout: unknown key conect; did you mean connect?",
            "billing.timeout.total: 30 is not a duration such as 30s, 1h30m or 30d",
            "billing.concurrency: 0 is not a whole number from 1 to 10000",
            "billing.rate_limit: per is missing",
            "billing.retry.max_attempts: 0 is not a whole number from 1 to 10000",
            "billing.retry.backoff: 'linear' is none of exponential, fixed",
            "billing.retry.jitter: 2 is not a number from 0 to 1",
            'billing.retry.retry_on: \'6xx\' is neither a status from 300 to 599 nor "3xx", "4xx" or "5xx"',
            "billing.retry.base: it is longer than billing.retry.max (21600s)",
            "billing.breaker.failures: 'many' is not a whole number from 1 to 1000",
            f"billing.auth.secret_file: the file {tmp_path}/missing cannot be read: No such file or directory",
            "billing.signing: secret_file is missing",
            "billing.retention: it must be a mapping with some of delivered, dead_lettered, cancelled",
            "billing.group.concurrency: 0 is not a whole number from 1 to 10000",
            "billing.group.limit: duration is missing",
            "grouped.group_by: 'tenant' is not labels.NAME, with the name of a label",
            "billing: unknown key retries; did you mean retry?",
            "'e mail': a target's name is 1 to 64 letters, digits, dots, hyphens or underscores",
            "email: url is missing",
            (
                "sms: it must be a mapping with some of url, timeout, concurrency, rate_limit, retry, breaker, auth, "
                "signing, retention, replay_key, group_by, group, tls, proxy"
            ),
        ]
    )


@pytest.mark.parametrize(
    "url",
    [
        "", "billing", "/api", "ftp://billing/", "http://", "http:///api", "http://billing:0/", "http://billing:x/",
        "http://billing:99999/", "http://billing/a b", "http://billing/\u00e4", "http://billing/#part", 5, None,
        "http://[::1/", "http://billing/a\nb",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused(url: Any) -> None:
    assert fault(url=url).startswith("billing.url: ")


@pytest.mark.parametrize(
    "url", ["http://a", "https://a:8443/x/", "http://[::1]:80/x", "http://a/x?key=1", "http://a/%2F{x}"]
)
def test_an_address_is_kept_as_it_is(url: str) -> None:
    assert read(url=url).url == url


@pytest.mark.parametrize("name", ["", "a:b", "a b", "-a", "a" * 65, "a/b", "\u00e4", ".a"])
def test_an_invalid_target_name_is_refused(name: str) -> None:
    assert len(faults_of({name: {"url": URL}})) == 1


@pytest.mark.parametrize("off", ["off", False])
def test_a_breaker_can_be_off(off: Any) -> None:
    assert read(breaker=off).breaker is None
    assert read().breaker == BreakerPolicy()


@pytest.mark.parametrize("wrong", ["on", True, 0, [], None])
def test_a_breaker_that_is_neither_off_nor_a_mapping_is_refused(wrong: Any) -> None:
    (fault,) = faults_of({"billing": {"url": URL, "breaker": wrong}})
    assert fault.startswith("billing.breaker: it must be a mapping")


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"scheme": "none"}, None),
        ({"scheme": "passthrough"}, None),
        ({"scheme": "bearer"}, "authorization"),
        ({"scheme": "header", "header": "X-Api-Key"}, "X-Api-Key"),
    ],
)
def test_each_scheme_says_which_header_it_sets(secret_file: Path, auth: dict[str, str], header: str | None) -> None:
    with_secret = auth["scheme"] in {"bearer", "header"}
    given_auth = auth | {"secret_file": str(secret_file)} if with_secret else auth
    found = read(auth=given_auth).auth
    assert found.own_header == header
    assert found.secret == (SECRET if with_secret else "")
    assert SECRET not in repr(found)


def test_basic_needs_a_user_and_a_password(secret_file: Path) -> None:
    assert fault(auth={"scheme": "basic", "secret_file": str(secret_file)}) == (
        "billing.auth.secret_file: the file must hold user:password in one line"
    )
    secret_file.write_text(f"user:{SECRET}")
    assert read(auth={"scheme": "basic", "secret_file": str(secret_file)}).auth.secret == f"user:{SECRET}"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", b"\xff\xfe", b"\x00"])
def test_a_secret_that_cannot_be_sent_is_refused(secret_file: Path, content: bytes) -> None:
    secret_file.write_bytes(content)
    assert fault(auth={"scheme": "bearer", "secret_file": str(secret_file)}).startswith("billing.auth.secret_file: ")


@pytest.mark.parametrize(
    ("auth", "path"),
    [
        ({}, "billing.auth: scheme is missing"),
        ({"scheme": "digest"}, "billing.auth.scheme: "),
        ({"scheme": "bearer"}, "billing.auth: secret_file is missing"),
        ({"scheme": "none", "secret_file": "/x"}, "billing.auth.secret_file: "),
        ({"scheme": "passthrough", "header": "x"}, "billing.auth.header: "),
        ({"scheme": ["bearer"]}, "billing.auth.scheme: "),
    ],
)
def test_auth_that_contradicts_itself_is_refused(auth: dict[str, Any], path: str) -> None:
    assert fault(auth=auth).startswith(path)


@pytest.mark.parametrize(
    "header", ["", "a b", "host", "Content-Length", "toril-x", "Webhook-Id", "connection", "idempotency-key", "\u00e4"]
)
def test_a_header_that_the_auth_scheme_may_not_set_is_refused(secret_file: Path, header: str) -> None:
    found = fault(auth={"scheme": "header", "header": header, "secret_file": str(secret_file)})
    assert found.startswith("billing.auth.header: ")


def test_two_signing_secrets_are_for_a_rotation(secret_file: Path) -> None:
    other = "whsec_" + base64.b64encode(b"o" * 24).decode()
    secret_file.write_text(f"{WEBHOOK}\n\n{other}\n")
    signing = read(signing={"secret_file": str(secret_file)}).signing
    assert signing is not None
    assert signing.secrets == (Secret(KEY), Secret(b"o" * 24))


@pytest.mark.parametrize("content", ["", SECRET, f"whsec_{SECRET}", f"{WEBHOOK}\n{WEBHOOK}", f"{WEBHOOK}\n" * 3])
def test_invalid_signing_secrets_are_refused(secret_file: Path, content: str) -> None:
    secret_file.write_text(content)
    assert fault(signing={"secret_file": str(secret_file)}).startswith("billing.signing.secret_file: ")


def test_the_retried_statuses_are_those_of_the_target() -> None:
    assert read(retry={}).retry.retry_on == RETRIED
    retry = read(retry={"retry_on": ["5xx", 404], "fail_on": [501]}).retry
    assert [status for status in (404, 429, 500, 501) if retry.again(status)] == [404, 500]


def test_a_schedule_is_a_list_of_durations() -> None:
    assert read(retry={"schedule": ["5s", "5m", "2h"], "jitter": 0}).retry.schedule == (5, 300, 7200)


@pytest.mark.parametrize("value", [[], "5s", ["5"], [5], {}, ["1s"] * 1001, [None]])
def test_an_invalid_schedule_is_refused(value: Any) -> None:
    (fault,) = faults_of({"billing": {"url": URL, "retry": {"schedule": value}}})
    assert fault.startswith("billing.retry.schedule: ")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"base": "1s"}, "it replaces billing.retry.base; leave one of them out"),
        ({"backoff": "fixed"}, "it replaces billing.retry.backoff; leave one of them out"),
        ({"max": "1m"}, "its wait of 5m is longer than billing.retry.max (1m)"),
        ({"max_attempts": 2}, "billing.retry.max_attempts (2) leaves time for 1 of its 2 waits"),
        ({"max_attempts": 1}, "billing.retry.max_attempts (1) leaves time for 0 of its 2 waits"),
    ],
)
def test_what_a_schedule_makes_ineffective_or_is_cut_by_is_a_fault(more: dict[str, Any], told: str) -> None:
    assert fault(retry={"schedule": ["5s", "5m"], **more}) == f"billing.retry.schedule: {told}"


def test_a_schedule_beside_what_it_leaves_alone_is_no_fault() -> None:
    retry = read(retry={"schedule": ["5s", "5m"], "max": "5m", "max_attempts": 3, "jitter": 0.1}).retry
    assert (retry.max_s, retry.max_attempts) == (300, 3)


def test_a_status_to_retry_that_is_one_to_fail_on_too_is_a_fault() -> None:
    told = "billing.retry.retry_on: billing.retry.fail_on has {} too, and wins; leave one of them out"
    assert fault(retry={"retry_on": ["5xx", 408], "fail_on": [408]}) == told.format(408)
    assert fault(retry={"retry_on": [503], "fail_on": ["5xx"]}) == told.format(503)
    assert fault(retry={"retry_on": ["5xx"], "fail_on": [400, "5xx"]}) == told.format("5xx")
    assert read(retry={"fail_on": [503]}).retry.again(503) is False, "of the usual ones, which nobody has written"


def test_a_timeout_to_connect_fits_into_the_whole() -> None:
    told = "billing.timeout.connect: it is longer than billing.timeout.total (30s), which includes it"
    assert fault(timeout={"connect": "31s"}) == told
    assert read(timeout={"total": "1s"}).timeout.total_s == 1


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "half", True, None])
def test_a_rate_of_failures_is_above_0_and_up_to_1(value: Any) -> None:
    (fault,) = faults_of({"billing": {"url": URL, "breaker": {"failure_rate": value}}})
    assert fault.startswith("billing.breaker.failure_rate: ")


@pytest.mark.parametrize("value", [[True], [200], [600], ["2xx"], "5xx", 500, [None], {}])
def test_an_invalid_list_of_statuses_is_refused(value: Any) -> None:
    assert fault(retry={"fail_on": value}).startswith("billing.retry.fail_on: ")


def test_a_fault_names_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text("targets:\n  billing: {url: nowhere}\n")
    with pytest.raises(ConfigInvalid) as caught:
        load({}, file)
    assert caught.value.faults == [
        f"targets in {file}, billing.url: 'nowhere' is not an http:// or https:// URL with a host"
    ]


@pytest.mark.parametrize("value", [None, [], "billing", 5, [{"name": "billing"}]])
def test_targets_that_are_no_mapping_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="mapping"):
        targets(value, SecretFiles().read)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["url", "retry", "auth", "scheme", "timeout", "base", "max", "retry_on"])
                | st.text(max_size=5),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_refused(document: Any) -> None:
    try:
        targets({"billing": document}, SecretFiles().read)
    except Faults as exc:
        assert exc.faults  # noqa: PT017 - that there is one is the point
