import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from toril.config.loading import load
from toril.config.tokens import grants, line
from toril.core.access import ALL, RateLimit, Right
from toril.core.errors import ConfigInvalid
from toril.core.settings.setting import Faults

SECRET = "hunter2-the-secret"
SHA = hashlib.sha256(SECRET.encode()).hexdigest()


def entry(**changed: Any) -> dict[str, Any]:
    """A good token with some keys changed; None takes one away."""
    whole = {"name": "shop", "sha256": SHA, "allow": ["jobs:add"], "queues": ["orders-*"]} | changed
    return {key: value for key, value in whole.items() if value is not None}


def faults_of(*entries: Any) -> list[str]:
    with pytest.raises(Faults) as caught:
        grants(list(entries))
    assert SECRET not in str(caught.value)
    return caught.value.faults


def test_a_token_grants_its_rights_on_its_queues() -> None:
    (grant,) = grants([entry(allow=["jobs:add", "*:read"], rate_limit={"max": 100, "per": "1m"})])
    assert grant.sha256 == hashlib.sha256(SECRET.encode()).digest()
    assert grant.caller.name == "shop"
    assert grant.caller.may(Right.JOBS_ADD, "orders-eu")
    assert grant.caller.may(Right.WORKERS_READ, "orders-eu")
    assert not grant.caller.may(Right.JOBS_MANAGE, "orders-eu")
    assert not grant.caller.may(Right.JOBS_ADD, "invoices")
    assert grant.caller.rate_limit == RateLimit(100, 60.0)
    assert grant.expires_at_s is None


def test_a_token_may_be_given_everything() -> None:
    (grant,) = grants([entry(allow=["*"], queues=["*"])])
    assert grant.caller.everything
    assert grant.caller.rights == ALL


@pytest.mark.parametrize(
    "text", ["2027-01-01T00:00:00Z", "'2027-01-01T00:00:00Z'", "2027-01-01T02:00:00+02:00", "2027-01-01 00:00:00+00:00"]
)
def test_a_token_expires_at_a_moment(text: str) -> None:
    (grant,) = grants([entry(expires=yaml.safe_load(text))])
    assert grant.expires_at_s == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def test_two_tokens_may_have_one_name_so_that_one_can_take_the_others_place() -> None:
    assert [grant.caller.name for grant in grants([entry(), entry(sha256="ab" * 32)])] == ["shop", "shop"]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"name": None}, "number 1: name is missing"),
        ({"name": "a b"}, "number 1: name: it must be 1 to 64 letters"),
        ({"name": "a" * 65}, "number 1: name: it must be 1 to 64 letters"),
        ({"name": "shop\n"}, "number 1: name: it must be 1 to 64 letters"),
        ({"name": 5}, "number 1: name: it must be 1 to 64 letters"),
        ({"name": "AUTH_TOKENS"}, "number 1 (AUTH_TOKENS): name: AUTH_TOKENS is what"),
        ({"sha256": None}, "number 1 (shop): sha256 is missing"),
        ({"sha256": SECRET}, "number 1 (shop): sha256: it must be a text of 64 hexadecimal digits"),
        ({"sha256": SHA[1:]}, "number 1 (shop): sha256: it must be a text of 64 hexadecimal digits"),
        ({"sha256": int("1" * 64)}, "number 1 (shop): sha256: it must be a text of 64 hexadecimal digits"),
        ({"sha256": [SECRET]}, "number 1 (shop): sha256: it must be a text of 64 hexadecimal digits"),
        ({"allow": None}, "number 1 (shop): allow is missing"),
        ({"allow": "jobs:add"}, "number 1 (shop): allow: it must be a list of rights, at least one"),
        ({"allow": []}, "number 1 (shop): allow: it must be a list of rights, at least one"),
        ({"allow": [5]}, "number 1 (shop): allow: it must be a list of rights, at least one"),
        ({"allow": ["jobs:add", "jobs:ad"]}, "number 1 (shop): allow: 'jobs:ad' is no right; there are queues:read"),
        ({"queues": None}, "number 1 (shop): queues is missing"),
        ({"queues": []}, "number 1 (shop): queues: it must be a list of queues, at least one"),
        ({"queues": "*"}, "number 1 (shop): queues: it must be a list of queues, at least one"),
        ({"queues": [""]}, "number 1 (shop): queues: it must be a list of queues, at least one"),
        ({"expires": 5}, "number 1 (shop): expires: it must be a date, a time and a time zone"),
        ({"expires": "soon"}, "number 1 (shop): expires: it must be a date, a time and a time zone"),
        ({"expires": "2027-01-01T00:00:00"}, "number 1 (shop): expires: it must be a date, a time and a time zone"),
        ({"expires": "2027-01-01"}, "number 1 (shop): expires: it must be a date, a time and a time zone"),
        ({"rate_limit": 5}, "number 1 (shop): rate_limit: it must be a mapping with some of max, per"),
        ({"rate_limit": {"max": 5}}, "number 1 (shop): rate_limit: per is missing"),
        ({"rate_limit": {"max": 5, "per": "1s", "burst": 1}}, "number 1 (shop): rate_limit: unknown key burst"),
        ({"rate_limit": {"max": 0, "per": "1s"}}, "number 1 (shop): rate_limit.max: 0 is not a whole number from 1"),
        (
            {"rate_limit": {"max": True, "per": "1s"}},
            "number 1 (shop): rate_limit.max: True is not a whole number from 1",
        ),
        ({"rate_limit": {"max": 5, "per": 1}}, "number 1 (shop): rate_limit.per: 1 is not a duration"),
        ({"rate_limit": {"max": 5, "per": "soon"}}, "number 1 (shop): rate_limit.per: 'soon' is not a duration"),
        ({"rate_limit": {"max": 5, "per": "0"}}, "number 1 (shop): rate_limit.per: '0' is not between 1ms and 366d"),
        ({"token": SECRET}, "number 1 (shop): unknown key token"),
        ({"queue": ["*"]}, "number 1 (shop): unknown key queue; did you mean queues?"),
    ],
)
def test_a_fault_names_the_token_and_the_key(changed: dict[str, Any], fault: str) -> None:
    (found,) = faults_of(entry(**changed))
    assert found.startswith(fault)


@pytest.mark.parametrize("bad", [5, "shop", None, ["name"]])
def test_a_token_that_is_no_mapping_is_refused(bad: Any) -> None:
    assert faults_of(bad) == [
        "number 1: it must be a mapping with some of name, sha256, allow, queues, rate_limit, expires"
    ]


@pytest.mark.parametrize("bad", [5, SECRET, None, {"name": "shop"}])
def test_tokens_that_are_no_list_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="it must be a list of tokens") as caught:
        grants(bad)
    assert SECRET not in str(caught.value)


def test_every_fault_of_every_token_is_named_at_once() -> None:
    found = faults_of(entry(sha256=SECRET, queues=[]), entry(), entry(name="ops", alow=["*"]), entry(name="twice"))
    assert [fault.partition(": ")[0] for fault in found] == [
        "number 1 (shop)",
        "number 1 (shop)",
        "number 3 (ops)",
        "number 3 (ops)",
        "number 4 (twice)",
    ]
    assert found[3:] == [
        "number 3 (ops): sha256 is that of number 2 too",
        "number 4 (twice): sha256 is that of number 2 too",
    ]


def test_the_case_of_a_hash_does_not_matter() -> None:
    assert faults_of(entry(), entry(sha256=SHA.upper())) == ["number 2 (shop): sha256 is that of number 1 too"]


def test_a_file_has_tokens_and_its_faults_name_it(tmp_path: Path) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text(yaml.safe_dump({"tokens": [entry(), entry(sha256="ab" * 32, name="ops")]}))
    assert [grant.caller.name for grant in load({}, file).gateway.tokens] == ["shop", "ops"]
    file.write_text(yaml.safe_dump({"tokens": [entry(allow=["x"]), entry(sha256="ab" * 32, queues=[])], "prot": 1}))
    with pytest.raises(ConfigInvalid) as caught:
        load({}, file)
    unknown, first, second = caught.value.faults
    assert unknown == f"{file} has an unknown key prot; did you mean port?"
    assert first.startswith(f"tokens in {file}, number 1 (shop): allow: 'x' is no right")
    assert second == f"tokens in {file}, number 2 (shop): queues: it must be a list of queues, at least one"


def test_a_token_with_all_rights_cannot_have_fewer_as_well(tmp_path: Path) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text(yaml.safe_dump({"tokens": [entry()]}))
    with pytest.raises(ConfigInvalid) as caught:
        load({"AUTH_TOKENS": f"other,{SECRET}"}, file)
    assert caught.value.faults == ["tokens, number 1 (shop): auth_tokens has it too, with all rights"]


@pytest.mark.parametrize("text", ["tokens: [{expires: 2027-13-01}]", "a: " + "[" * 5000 + "]" * 5000])
def test_a_file_that_yaml_chokes_on_is_a_fault(tmp_path: Path, text: str) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        load({}, file)
    assert caught.value.faults == [
        f"{file} cannot be read: it holds a date that does not exist, or is nested too deeply"
    ]


@given(
    st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda name: name != "AUTH_TOKENS"),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
)
def test_a_written_line_reads_back(name: str, token: str, queues: list[str]) -> None:
    (grant,) = grants(yaml.safe_load(line(name, token, ["jobs:*"], queues)))
    assert (grant.caller.name, grant.sha256) == (name, hashlib.sha256(token.encode()).digest())
    assert grant.caller.may(Right.JOBS_LEASE)


def test_a_line_that_would_not_be_accepted_is_not_written() -> None:
    with pytest.raises(Faults, match="jobs:red"):
        line("shop", SECRET, ["jobs:red"], ["*"])
