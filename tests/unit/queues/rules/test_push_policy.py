import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.json_texts import json_values
from toril.core.errors import InvalidRequest
from toril.core.http.signing import Secret
from toril.queues.rules.push_policy import DEFAULT_MAX_RETRY_AFTER_MS, PushPolicy, check_effect, read_policy

ONE, TWO, THREE = (f"whsec_{base64.b64encode(letter * 24).decode()}" for letter in (b"1", b"2", b"3"))


def test_an_empty_policy_changes_nothing() -> None:
    policy = read_policy({})
    assert policy == PushPolicy()
    assert policy.max_retry_after_ms == DEFAULT_MAX_RETRY_AFTER_MS == 3_600_000
    assert not any(policy.is_final(status) for status in range(300, 600))


def test_a_whole_policy_is_read() -> None:
    policy = read_policy(
        {
            "retry_on": [429, "5xx"],
            "fail_on": [400, 410],
            "retry_after": True,
            "max_retry_after_ms": 60_000,
            "signing": {"secrets": [ONE, TWO]},
        }
    )
    assert policy.retry_on == {429, *range(500, 600)}
    assert policy.fail_on == {400, 410}
    assert (policy.retry_after, policy.max_retry_after_ms) == (True, 60_000)
    assert policy.secrets == (Secret(b"1" * 24), Secret(b"2" * 24))


def test_null_counts_as_not_there() -> None:
    nothing = dict.fromkeys(("retry_on", "fail_on", "retry_after", "max_retry_after_ms", "signing"))
    assert read_policy(nothing) == PushPolicy()


_statuses = st.lists(st.one_of(st.integers(300, 599), st.sampled_from(["3xx", "4xx", "5xx"])), max_size=5)


def covers(entries: list[int | str], status: int) -> bool:
    return status in entries or f"{status // 100}xx" in entries


@given(st.none() | _statuses, st.none() | _statuses, st.integers(300, 599))
def test_fail_on_takes_precedence_over_retry_on(
    retry_on: list[int | str] | None, fail_on: list[int | str] | None, status: int
) -> None:
    policy = read_policy({"retry_on": retry_on, "fail_on": fail_on})
    if covers(fail_on or [], status):
        assert policy.is_final(status)
    else:
        assert policy.is_final(status) == (retry_on is not None and not covers(retry_on, status))


def test_an_empty_retry_on_makes_every_status_final() -> None:
    assert read_policy({"retry_on": []}).is_final(503)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"retry_on": ["5xx", 410], "fail_on": [410]}, "policy.retry_on[1], policy.fail_on has 410 too, and wins"),
        ({"retry_on": [503], "fail_on": ["5xx"]}, "policy.retry_on[0], policy.fail_on has 503 too, and wins"),
        ({"retry_on": ["5xx"], "fail_on": ["5xx"]}, "policy.retry_on[0], policy.fail_on has 5xx too, and wins"),
        ({"max_retry_after_ms": 9}, "policy.max_retry_after_ms, it has no effect unless policy.retry_after is true"),
    ],
)
def test_what_has_no_effect_is_refused_and_still_read_where_it_is_stored(policy: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_effect(policy)
    assert caught.value.message == f"Invalid {told}"
    read_policy(policy)


@pytest.mark.parametrize(
    "policy",
    [None, {}, {"retry_on": ["5xx"], "fail_on": [501]}, {"fail_on": [501]}, {"retry_on": None, "fail_on": None},
     {"retry_after": True, "max_retry_after_ms": 9}, {"max_retry_after_ms": None}],
)  # fmt: skip
def test_a_policy_all_of_which_has_an_effect_is_accepted(policy: dict[str, Any] | None) -> None:
    check_effect(policy)


ITEM = 'must be a status from 300 to 599, or "3xx", "4xx" or "5xx"'


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        (5, "policy", "Invalid policy, must be an object"),
        ([], "policy", "Invalid policy, must be an object"),
        ({"retryOn": []}, "policy.retryOn", "Invalid field: policy.retryOn"),
        ({"retry_on": 429}, "policy.retry_on", "Invalid policy.retry_on, must be a list"),
        ({"retry_on": [429, 200]}, "policy.retry_on[1]", f"Invalid policy.retry_on[1], {ITEM}"),
        ({"fail_on": ["2xx"]}, "policy.fail_on[0]", f"Invalid policy.fail_on[0], {ITEM}"),
        ({"fail_on": ["400"]}, "policy.fail_on[0]", f"Invalid policy.fail_on[0], {ITEM}"),
        ({"fail_on": [True]}, "policy.fail_on[0]", f"Invalid policy.fail_on[0], {ITEM}"),
        ({"fail_on": [["4xx"]]}, "policy.fail_on[0]", f"Invalid policy.fail_on[0], {ITEM}"),
        ({"retry_after": 1}, "policy.retry_after", "Invalid policy.retry_after, must be true or false"),
        (
            {"max_retry_after_ms": 0},
            "policy.max_retry_after_ms",
            "Invalid policy.max_retry_after_ms, must be a whole number of at least 1",
        ),
        ({"signing": ONE}, "policy.signing", "Invalid policy.signing, must be an object"),
        (
            {"signing": {"secret": ONE}},
            "policy.signing.secret",
            "Invalid field: policy.signing.secret",
        ),
        *(
            (
                {"signing": {"secrets": secrets}},
                "policy.signing.secrets",
                "Invalid policy.signing.secrets, must be a list of 1 to 2 secrets",
            )
            for secrets in (None, ONE, [], [ONE, TWO, THREE])
        ),
        (
            {"signing": {"secrets": [ONE, ONE]}},
            "policy.signing.secrets",
            "Invalid policy.signing.secrets, must differ from each other",
        ),
        (
            {"signing": {"secrets": [ONE, "hunter2"]}},
            "policy.signing.secrets[1]",
            "Invalid policy.signing.secrets[1], must be a text that begins with whsec_",
        ),
    ],
)
def test_a_fault_says_where_and_what(given: Any, field: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_policy(given)
    assert (caught.value.field, caught.value.message) == (field, text)


@pytest.mark.parametrize(
    "secret", ["hunter2hunter2", "whsec_hunter2hunter2", "whsec_hunter2!hunter2", "whsec_" + "hunter2" * 20]
)
def test_no_fault_repeats_a_secret(secret: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_policy({"signing": {"secrets": [secret]}})
    assert "hunter2" not in caught.value.message
    assert caught.value.__suppress_context__


def test_a_policy_does_not_show_its_secrets() -> None:
    shown = repr(read_policy({"signing": {"secrets": [ONE]}}))
    assert "111" not in shown
    assert ONE.removeprefix("whsec_") not in shown


@given(
    st.one_of(
        json_values,
        st.dictionaries(
            st.sampled_from(["retry_on", "fail_on", "retry_after", "max_retry_after_ms", "signing"]),
            st.one_of(json_values, st.lists(json_values), st.fixed_dictionaries({"secrets": st.lists(json_values)})),
        ),
    )
)
def test_any_policy_is_read_or_refused(given: Any) -> None:
    try:
        read_policy(given)
    except InvalidRequest as exc:
        assert exc.field is not None  # noqa: PT017 - that it says where is the point
