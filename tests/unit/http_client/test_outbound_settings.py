"""The keys `tls`, `proxy` and `auth: {scheme: oauth2}`: what they read, and the fault of each mistake."""

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.authority import Authority
from toril.core.http.outbound_policy import ClientCredentials, ForwardProxy, HostRoute, OutboundPolicy, TlsFiles
from toril.core.settings.section import Section
from toril.http_client.outbound_settings import OUTBOUND_KEYS, host_routes, only_oauth2, outbound_policy

CA = Authority()
ONE, OTHER = CA.client(), CA.client()
ENCRYPTED = serialization.load_pem_private_key(ONE.key.encode(), None).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"h1dden")
)
FILES = {
    "ca": f"# our authority, né 2026\n{CA.pem}",
    "cert": ONE.cert,
    "key": ONE.key,
    "both": ONE.cert + ONE.key,
    "other": OTHER.key,
    "encrypted": ENCRYPTED.decode(),
    "text": "h1dden",
    "lines": "h1dden\nh1dden:too",
    "pair": "toril:h1dden",
    "empty": "",
}


def read_file(file: Path) -> str:
    if str(file) not in FILES:
        raise ValueError(f"the file {file} cannot be read: No such file or directory")
    return FILES[str(file)]


def read(**keys: Any) -> tuple[OutboundPolicy, list[str]]:
    faults: list[str] = []
    section = Section(keys, "inside", (*OUTBOUND_KEYS, "auth"), faults)
    return outbound_policy(section, only_oauth2(section, read_file), read_file), faults


def test_without_outbound_settings_requests_are_sent_directly() -> None:
    assert read() == (OutboundPolicy(), [])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ca_file": "ca"}, TlsFiles(ca_file="ca", ca=FILES["ca"])),
        ({"cert_file": "both"}, TlsFiles(cert_file="both", cert=FILES["both"])),
        (
            {"ca_file": "ca", "cert_file": "cert", "key_file": "key"},
            TlsFiles(
                ca_file="ca", cert_file="cert", key_file="key", ca=FILES["ca"], cert=FILES["cert"], key=FILES["key"]
            ),
        ),
    ],
)
def test_certificates_are_read_with_what_their_files_hold(keys: dict[str, str], expected: TlsFiles) -> None:
    policy, faults = read(tls=keys)
    assert (policy.tls, faults) == (expected, [])


def test_a_proxy_and_a_client_are_read_with_their_secrets() -> None:
    auth = {"scheme": "oauth2", "token_url": "https://login/t?a=1", "client_id": "c", "secret_file": "text"}
    policy, faults = read(
        proxy={"url": "http://proxy:3128", "secret_file": "pair"},
        auth=auth | {"scopes": ["a", "b:c"]},
    )
    assert faults == []
    assert policy.proxy == ForwardProxy(url="http://proxy:3128", secret_file="pair", secret="toril:h1dden")
    assert policy.oauth2 == ClientCredentials(
        token_url="https://login/t?a=1", client_id="c", secret_file="text", secret="h1dden", scopes=("a", "b:c")
    )
    assert "h1dden" not in repr(policy)
    assert "PRIVATE" not in repr(read(tls={"cert_file": "both"}))


OAUTH = {"scheme": "oauth2", "token_url": "https://login/t", "client_id": "c", "secret_file": "text"}


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"tls": {}}, "inside.tls.ca_file: tls needs a ca_file, a cert_file or both"),
        ({"tls": {"key_file": "key"}}, "inside.tls.key_file: tls needs a ca_file, a cert_file or both"),
        (
            {"tls": {"ca_file": "ca", "key_file": "key"}},
            "inside.tls.key_file: it needs the cert_file",
        ),
        ({"tls": {"ca_file": "none"}}, "inside.tls.ca_file: the file none cannot be read: No such file or directory"),
        ({"tls": {"ca_file": "text"}}, "inside.tls.ca_file: it holds no certificate in PEM"),
        ({"tls": {"ca_file": "empty"}}, "inside.tls.ca_file: it holds no certificate in PEM"),
        ({"tls": {"ca_file": "key"}}, "inside.tls.ca_file: it holds no certificate in PEM"),
        ({"tls": {"cert_file": "cert"}}, "inside.tls.cert_file: there is no private key in PEM in it"),
        ({"tls": {"cert_file": "empty"}}, "inside.tls.cert_file: there is no certificate in PEM in it"),
        (
            {"tls": {"cert_file": "cert", "key_file": "other"}},
            "inside.tls.key_file: the key does not fit the certificate",
        ),
        (
            {"tls": {"cert_file": "cert", "key_file": "cert"}},
            "inside.tls.key_file: there is no private key in PEM",
        ),
        (
            {"tls": {"cert_file": "cert", "key_file": "encrypted"}},
            "inside.tls.key_file: the key is encrypted; toril reads only keys without a passphrase",
        ),
        ({"proxy": {}}, "inside.proxy: url is missing"),
        (
            {"proxy": {"url": "http://a:h1dden@proxy:3128"}},
            "inside.proxy.url: it must hold no user and no password; they belong into secret_file",
        ),
        ({"proxy": {"url": "https://proxy"}}, "inside.proxy.url: 'https://proxy' is not a URL such as http://host"),
        ({"proxy": {"url": "socks5://proxy"}}, "inside.proxy.url: 'socks5://proxy' is not a URL such as http://host"),
        ({"proxy": {"url": "http://proxy/x"}}, "inside.proxy.url: 'http://proxy/x' must have neither path nor query"),
        ({"proxy": {"url": "http://[::1"}}, "inside.proxy.url: it is no URL with a host"),
        (
            {"proxy": {"url": "http://proxy", "secret_file": "text"}},
            "inside.proxy.secret_file: the file must hold user:password in one line",
        ),
        (
            {"proxy": {"url": "http://proxy", "secret_file": "lines"}},
            "inside.proxy.secret_file: the file must hold user:password in one line",
        ),
        ({"auth": {"scheme": "basic"}}, "inside.auth.scheme: 'basic' is none of oauth2"),
        ({"auth": OAUTH | {"token_url": "login"}}, "inside.auth.token_url: 'login' is not a URL such as https://host"),
        (
            {"auth": OAUTH | {"token_url": "https://a:h1dden@login"}},
            "inside.auth.token_url: it must hold no user and no password; they belong into client_id and secret_file",
        ),
        ({"auth": OAUTH | {"secret_file": "lines"}}, "inside.auth.secret_file: the file must hold the client's secret"),
        ({"auth": OAUTH | {"secret_file": "empty"}}, "inside.auth.secret_file: the file must hold the client's secret"),
        ({"auth": OAUTH | {"scopes": "a b"}}, "inside.auth.scopes: it must be a list of scopes, each without spaces"),
        ({"auth": OAUTH | {"scopes": ["a b"]}}, "inside.auth.scopes: it must be a list of scopes, each without spaces"),
        ({"auth": OAUTH | {"scope": ["a"]}}, "inside.auth: unknown key scope; did you mean scopes?"),
    ],
)
def test_each_mistake_is_a_fault_that_names_its_field(keys: dict[str, Any], fault: str) -> None:
    _, faults = read(**keys)
    assert len(faults) == 1
    assert faults[0].startswith(fault)
    assert "h1dden" not in faults[0]


def test_all_that_an_oauth_client_lacks_is_named_at_once() -> None:
    _, faults = read(auth={"scheme": "oauth2"})
    assert faults == [f"inside.auth: {key} is missing" for key in ("token_url", "client_id", "secret_file")]


def test_the_ways_to_registered_workers_are_read_by_host() -> None:
    partner = {"hosts": ["*.partner.example", "10.0.0.0/8"], "auth": OAUTH}
    entries = [partner, {"hosts": ["*"], "tls": {"ca_file": "ca"}}]
    assert [(route.hosts, route.outbound.oauth2 is not None) for route in host_routes(entries, read_file)] == [
        (("*.partner.example", "10.0.0.0/8"), True),
        (("*",), False),
    ]
    assert host_routes([], read_file) == ()


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, "it must be a list, each with hosts"),
        ([{}], "number 1: hosts is missing"),
        ([{"hosts": []}], "number 1.hosts: it must be a list of hosts"),
        ([{"hosts": ["a"]}, {"hosts": ["a b"]}], "number 2.hosts: 'a b' is neither an address"),
        ([{"hosts": ["*"], "auth": OAUTH}], "number 1.auth: name the hosts that may be sent an access token"),
        ([{"hosts": ["a"], "tls": {"ca_file": "text"}}], "number 1.tls.ca_file: it holds no certificate in PEM"),
        ([{"host": "a"}], "number 1: unknown key host; did you mean hosts?"),
    ],
)
def test_each_mistake_in_the_routes_to_workers_is_a_fault(value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}"):
        host_routes(value, read_file)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("*", "a"),
        ("*", "10.0.0.0/8"),
        ("*", "*"),
        ("a.example", "A.example."),
        ("*.example", "api.example"),
        ("*.example", "*.api.example"),
        ("10.0.0.0/8", "10.1.0.0/16"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("fd00::/8", "fd00::1"),
    ],
)
def test_a_host_that_an_earlier_entry_has_is_never_reached(earlier: str, later: str) -> None:
    way = {"tls": {"ca_file": "ca"}}
    entries = [{"hosts": ["other", earlier]} | way, {"hosts": [later]} | way]
    told = f"number 2.hosts: {later} is never reached: number 1 has it, and the first entry applies"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        host_routes(entries, read_file)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("a", "*"), ("api.example", "*.example"), ("*.example", "example"), ("10.1.0.0/16", "10.0.0.0/8"),
     ("10.0.0.0/8", "fd00::/8"), ("fd00::/8", "10.0.0.0/8"), ("*.a", "10.0.0.1"), ("10.0.0.1", "a")],
)  # fmt: skip
def test_an_entry_that_is_reached_for_some_hosts_is_no_fault(earlier: str, later: str) -> None:
    way = {"tls": {"ca_file": "ca"}}
    assert len(host_routes([{"hosts": [earlier]} | way, {"hosts": [later]} | way], read_file)) == 2


def test_a_route_to_workers_shows_no_secret() -> None:
    found = host_routes(
        [{"hosts": ["a"], "auth": OAUTH, "proxy": {"url": "http://p", "secret_file": "pair"}}], read_file
    )
    assert isinstance(found[0], HostRoute)
    assert "h1dden" not in repr(found)
