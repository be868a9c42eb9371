import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toril.http_client.egress import Egress, EgressPolicy, literal_address, meanings, read_entry


def egress(
    policy: Literal["internal", "public"] = "internal", allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()
) -> Egress:
    return Egress(EgressPolicy(policy=policy, allow=allow, deny=deny))


# Addresses, and what the policy `public` calls them; the first of them are refused by `internal` too.
NEVER = [
    ("169.254.169.254", "a link-local address"),
    ("169.254.0.1", "a link-local address"),
    ("fe80::1", "a link-local address"),
    ("fe80::1%2", "a link-local address"),
    ("fd00:ec2::254", "a cloud metadata address"),
    ("fd00:ec2::23", "a cloud metadata address"),
    ("fd20:ce::254", "a cloud metadata address"),
    ("100.100.100.200", "a cloud metadata address"),
    ("192.0.0.192", "a cloud metadata address"),
    ("168.63.129.16", "a cloud metadata address"),
]
NOT_PUBLIC = [
    ("0.0.0.0", "an unspecified address"),
    ("0.1.2.3", "an unspecified address"),
    ("::", "an unspecified address"),
    ("127.0.0.1", "a loopback address"),
    ("127.255.255.254", "a loopback address"),
    ("::1", "a loopback address"),
    ("10.0.0.1", "a private address"),
    ("172.16.0.1", "a private address"),
    ("172.31.255.255", "a private address"),
    ("192.168.1.1", "a private address"),
    ("fd00::1", "a private address"),
    ("fec0::1", "a private address"),
    ("100.64.0.1", "a shared address"),
    ("224.0.0.1", "a multicast address"),
    ("ff02::1", "a multicast address"),
    ("192.0.2.1", "a reserved address"),
    ("198.18.0.1", "a reserved address"),
    ("240.0.0.1", "a reserved address"),
    ("255.255.255.255", "a reserved address"),
    ("2001:db8::1", "a reserved address"),
    ("2001::1", "a reserved address"),
    ("2002:808:808::1", "a reserved address"),
    ("64:ff9b:1::808:808", "a reserved address"),
    ("4000::1", "a reserved address"),
    ("100::1", "a reserved address"),
]
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize(("address", "kind"), NEVER)
def test_link_local_and_metadata_addresses_are_never_connected_to(address: str, kind: str) -> None:
    for policy in ("internal", "public"):
        reason = egress(policy).refuses("pay.example", address)
        assert reason == f"pay.example ({address}) is {kind}, refused by the egress policy {policy}"


@pytest.mark.parametrize(("address", "kind"), NOT_PUBLIC)
def test_private_addresses_are_for_internal_workers_only(address: str, kind: str) -> None:
    assert egress("internal").refuses("pay.example", address) is None
    reason = egress("public").refuses("pay.example", address)
    assert reason == f"pay.example ({address}) is {kind}, refused by the egress policy public"


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed_by_every_policy(address: str) -> None:
    assert egress("internal").refuses("pay.example", address) is None
    assert egress("public").refuses("pay.example", address) is None


_ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(_ADDRESSES)
def test_an_address_that_python_does_not_call_global_is_not_public(address: IPv4Address | IPv6Address) -> None:
    if not meanings(address)[0].is_global:
        assert egress("public").refuses("a", str(address)) is not None


@given(_ADDRESSES)
def test_the_public_policy_refuses_every_address_that_internal_refuses(address: IPv4Address | IPv6Address) -> None:
    if egress("internal").refuses("a", str(address)) is not None:
        assert egress("public").refuses("a", str(address)) is not None


# An IPv4 address can hide in an IPv6 one.
HIDING = [
    "::ffff:{}",
    "64:ff9b::{}",
    "64:ff9b:1::{}",
    "::{}",
]


@pytest.mark.parametrize("hidden", HIDING)
@given(address=st.ip_addresses(v=4))
@example(address=IPv4Address("169.254.169.254"))
@example(address=IPv4Address("127.0.0.1"))
def test_an_address_inside_of_another_is_refused_as_by_itself(hidden: str, address: IPv4Address) -> None:
    outer = hidden.format(address)
    for policy in ("internal", "public"):
        if int(address) > 1 and egress(policy).refuses("a", str(address)) is not None:
            assert egress(policy).refuses("a", outer) is not None


def test_a_6to4_address_leads_to_the_one_inside() -> None:
    assert egress().refuses("a", "2002:a9fe:a9fe::1") == (
        "a (2002:a9fe:a9fe::1) leads to 169.254.169.254, which is a link-local address, refused by the egress policy "
        "internal"
    )


def test_a_reason_names_the_address_inside() -> None:
    assert egress("public").refuses_host("::ffff:127.0.0.1") == (
        "::ffff:127.0.0.1 leads to 127.0.0.1, which is a loopback address, refused by the egress policy public"
    )


# Spellings that getaddrinfo takes for an address.
SPELLINGS = [
    ("2130706433", "127.0.0.1"),
    ("0x7f000001", "127.0.0.1"),
    ("0X7F.1", "127.0.0.1"),
    ("0x7f.0.0.1", "127.0.0.1"),
    ("0177.0.0.1", "127.0.0.1"),
    ("017700000001", "127.0.0.1"),
    ("127.1", "127.0.0.1"),
    ("127.0.1", "127.0.0.1"),
    ("0", "0.0.0.0"),
    ("①②⑦.0.0.1", "127.0.0.1"),
    ("127。0。0。1", "127.0.0.1"),
    ("0xa9fea9fe", "169.254.169.254"),
    ("169.254.43518", "169.254.169.254"),
    ("::1", "::1"),
    ("::FFFF:127.0.0.1", "::ffff:127.0.0.1"),
    ("fe80::1%eth0", "fe80::1"),
]


@pytest.mark.parametrize(("host", "address"), SPELLINGS)
def test_any_spelling_of_an_address_is_that_address(host: str, address: str) -> None:
    assert literal_address(host) == ip_address(address)
    assert egress("public").refuses_host(host) is not None


def test_a_reason_names_what_a_spelling_means() -> None:
    assert egress("public").refuses_host("2130706433") == (
        "2130706433 (127.0.0.1) is a loopback address, refused by the egress policy public"
    )
    assert egress("public").refuses_host("10.0.0.1") == (
        "10.0.0.1 is a private address, refused by the egress policy public"
    )


_numbers = st.one_of(
    st.integers(0, 2**33).map(str),
    st.integers(0, 300).map(str),
    st.integers(0, 2**33).map(hex),
    st.integers(0, 2**33).map(lambda number: f"0{number:o}"),
    st.sampled_from(["", "08", "0x", "00", "1a", "-1", "+1", "0X1F", "1_0"]),
)


@given(st.lists(_numbers, min_size=1, max_size=5).map(".".join))
def test_an_address_in_numbers_is_what_the_system_makes_of_it(host: str) -> None:
    try:
        expected = IPv4Address(socket.inet_aton(host))
    except OSError:
        expected = None
    assert literal_address(host) == expected


@given(st.text())
@example("a" * 64)
@example("a..b")
@example(":")
@example("[::1]")
def test_any_host_name_is_judged_without_an_error(host: str) -> None:
    egress("public", deny=("x.example",)).refuses_host(host)
    egress("public", allow=("x.example",)).refuses(host, "10.0.0.1")


# Names and lists


@pytest.mark.parametrize("host", ["metadata.google.internal", "Metadata.Google.Internal.", "metadata.goog"])
def test_names_of_cloud_metadata_servers_are_refused(host: str) -> None:
    assert egress().refuses_host(host) == f"{host} serves cloud metadata, refused by the egress policy internal"
    assert egress().refuses(host, "8.8.8.8") is not None
    assert egress(allow=("metadata.google.internal", "metadata.goog")).refuses_host(host) is None


def test_a_name_is_not_judged_before_it_is_looked_up() -> None:
    assert egress("public").refuses_host("localhost") is None
    assert egress("public", allow=("10.0.0.0/8",), deny=("192.0.2.0/24",)).refuses_host("pay.example") is None


def test_hosts_on_the_allow_list_are_exempt_from_the_policy() -> None:
    listed = egress("public", allow=("10.1.0.0/16", "127.0.0.1", "::1", "db.example", "*.int.example"))
    for host, address in (
        ("a", "10.1.2.3"),
        ("a", "127.0.0.1"),
        ("a", "::1"),
        ("a", "::ffff:10.1.2.3"),
        ("a", "64:ff9b::10.1.2.3"),
        ("db.example", "192.168.0.1"),
        ("DB.example.", "fe80::1"),
        ("a.int.example", "10.0.0.1"),
        ("a.b.int.example", "10.0.0.1"),
    ):
        assert listed.refuses(host, address) is None, (host, address)
    for host, address in (
        ("a", "10.2.0.1"),
        ("a", "127.0.0.2"),
        ("x.db.example", "10.0.0.1"),
        ("int.example", "10.0.0.1"),
        ("myint.example", "10.0.0.1"),
    ):
        assert listed.refuses(host, address) is not None, (host, address)


def test_allowing_what_is_around_an_address_does_not_allow_what_is_inside() -> None:
    assert egress(allow=("64:ff9b::/96",)).refuses("a", "64:ff9b::169.254.169.254") is not None
    assert egress("public", allow=("2002::/16",)).refuses("a", "2002:a00:1::") is not None
    assert egress("public", allow=("2002::/16", "10.0.0.0/8")).refuses("a", "2002:a00:1::") is None


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::", "::10.1.2.3"]
)
def test_a_denied_address_stays_denied_even_if_allowed(address: str) -> None:
    listed = egress("internal", allow=("10.0.0.0/8", "pay.example"), deny=("10.1.0.0/16",))
    assert listed.refuses("10.2.0.1", "10.2.0.1") is None
    reason = listed.refuses("pay.example", address)
    assert reason is not None
    assert reason.endswith("is refused by the egress deny list")


@pytest.mark.parametrize("host", ["evil.example", "EVIL.example.", "a.worse.example", "bücher.example"])
def test_a_denied_name_is_refused_wherever_it_is(host: str) -> None:
    listed = egress(allow=("0.0.0.0/0", host), deny=("evil.example", "*.worse.example", "xn--bcher-kva.example"))
    assert listed.refuses_host(host) == f"{host} is refused by the egress deny list"
    assert listed.refuses(host, "8.8.8.8") == f"{host} is refused by the egress deny list"


@pytest.mark.parametrize(
    ("host", "allow"),
    [
        ("pay.example", "pay.example"),
        ("PAY.example.", "pay.example"),
        ("a.pay.example", "*.pay.example"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("0x0a.1", "10.0.0.1"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
    ],
)
def test_a_host_that_is_allowed_by_name_or_address_may_have_any_port(host: str, allow: str) -> None:
    assert egress().refuses_origin(host, 6000) == "port 6000 belongs to another protocol"
    assert egress(allow=(allow,)).refuses_origin(host, 6000) is None
    assert egress(allow=("other.example", "192.168.0.0/16")).refuses_origin(host, 6000) is not None


def test_a_denied_host_stays_denied_at_any_port() -> None:
    listed = egress(allow=("a.example",), deny=("a.example",))
    assert listed.refuses_origin("a.example", 6000) == "a.example is refused by the egress deny list"


@pytest.mark.parametrize("port", [None, 80, 443, 3000])
def test_other_ports_need_no_allowance(port: int | None) -> None:
    assert egress("public").refuses_origin("a.example", port) is None


def test_a_mapped_network_is_the_ipv4_network() -> None:
    assert egress(deny=("::ffff:10.0.0.0/104",)).refuses("a", "10.1.2.3") is not None
    assert egress(deny=("::ffff:10.0.0.1",)).refuses("a", "10.0.0.1") is not None


@pytest.mark.parametrize(
    "entry",
    ["", "10.0.0.1/8", "10.0.0.0/33", "a b", "http://a", "a.example:80", "*", "*.", "*a.example", "a..b", "/", "::g"],
)
def test_an_invalid_entry_of_a_list_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_entry(entry)
