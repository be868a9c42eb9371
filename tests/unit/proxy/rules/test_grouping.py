"""Which group a request to an upstream has."""

import pytest

from toril.core.errors import InvalidRequest
from toril.core.http.headers import Header, forwarded
from toril.proxy.rules.grouping import read_group_by

TENANT = read_group_by("header:X-Tenant")


@pytest.mark.parametrize(
    ("headers", "group"),
    [
        ([], None),
        ([(b"x-tenant", b"")], None),
        ([(b"x-other", b"acme")], None),
        ([(b"x-tenant", b"acme")], "acme"),
        ([(b"x-tenant", b"acme/eu"), (b"x-tenant", b"other")], "acme/eu"),
        ([(b"x-tenant", "Zoë".encode())], "Zoë"),
        ([(b"x-tenant", "Zoë".encode("latin-1"))], "Zoë"),
        ([(b"x-tenant", b"a" * 256)], "a" * 256),
    ],
)
def test_the_group_is_the_value_of_the_header(headers: list[Header], group: str | None) -> None:
    assert TENANT.group(headers) == group


@pytest.mark.parametrize("value", [b"a" * 257, b"a\tb", b"\xc2\x85"])
def test_a_value_that_is_no_id_of_a_group_is_refused_with_the_header(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"x-tenant: Invalid group\.id") as caught:
        TENANT.group([(b"x-tenant", value)])
    assert caught.value.field == "x-tenant"


@pytest.mark.parametrize(
    ("sent", "group"),
    [
        ([], "10.0.0.1"),
        ([(b"x-real-ip", b"10.0.0.2")], "10.0.0.2"),
        ([(b"x-forwarded-for", b"10.0.0.3, 10.0.0.4")], "10.0.0.3"),
    ],
)
def test_the_client_is_the_one_that_the_upstream_is_told(sent: list[Header], group: str) -> None:
    assert read_group_by("client_ip").group(forwarded(sent, b"10.0.0.1", b"http")) == group


def test_an_owner_is_told_apart_and_not_shown() -> None:
    owner = read_group_by("owner")
    one, other = (owner.group([(b"authorization", value)]) for value in (b"Bearer s3cr3t", b"Bearer other"))
    assert one
    assert other
    assert one != other
    assert "s3cr3t" not in one
    assert owner.group([(b"x-tenant", b"acme")]) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tenant", "none of header:NAME, client_ip, owner"),
        ("header:", "none of header:NAME"),
        ("header:a b", "none of header:NAME"),
        ("headers:x", "none of header:NAME"),
        ("header:Authorization", "owner tells callers apart"),
        ("header:cookie", "would show secrets"),
        ("header:connection", "reaches the upstream"),
        ("header:host", "reaches the upstream"),
    ],
)
def test_what_names_no_group_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_group_by(text)
