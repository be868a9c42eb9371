"""What of a changed way to a destination applies at once: what files hold, and nothing else."""

import pytest

from toril.core.http.outbound_policy import (
    DIRECT,
    ClientCredentials,
    ForwardProxy,
    OutboundPolicy,
    TlsFiles,
    with_what_applies,
)

TLS = TlsFiles(ca_file="/ca", ca="one")
PROXY = ForwardProxy(url="http://proxy", secret_file="/proxy", secret="one")
CLIENT = ClientCredentials(token_url="https://login", client_id="c", secret_file="/client", secret="one")
FULL = OutboundPolicy(tls=TLS, proxy=PROXY, oauth2=CLIENT)


def planned(running: OutboundPolicy, wanted: OutboundPolicy) -> tuple[OutboundPolicy, list[str], list[str]]:
    applied: list[str] = []
    pending: list[str] = []
    return with_what_applies(running, wanted, "to", applied, pending), applied, pending


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        (OutboundPolicy(tls=TlsFiles(ca_file="/ca", ca="two"), proxy=PROXY, oauth2=CLIENT), "to.tls"),
        (OutboundPolicy(tls=TlsFiles(cert_file="/a", cert="c"), proxy=PROXY, oauth2=CLIENT), "to.tls"),
        (OutboundPolicy(tls=TLS, proxy=ForwardProxy(url="http://proxy"), oauth2=CLIENT), "to.proxy.secret_file"),
        (
            OutboundPolicy(
                tls=TLS,
                proxy=PROXY,
                oauth2=ClientCredentials(token_url="https://login", client_id="c", secret_file="/x", secret="two"),
            ),
            "to.auth.secret_file",
        ),
    ],
)
def test_changed_contents_of_files_apply_at_once(wanted: OutboundPolicy, key: str) -> None:
    assert planned(FULL, wanted) == (wanted, [key], [])


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        (OutboundPolicy(proxy=PROXY, oauth2=CLIENT), "to.tls"),
        (OutboundPolicy(tls=TLS, oauth2=CLIENT), "to.proxy"),
        (OutboundPolicy(tls=TLS, proxy=ForwardProxy(url="http://other", secret="one"), oauth2=CLIENT), "to.proxy"),
        (OutboundPolicy(tls=TLS, proxy=PROXY), "to.auth"),
        (
            OutboundPolicy(
                tls=TLS,
                proxy=PROXY,
                oauth2=ClientCredentials(token_url="https://login", client_id="other", secret_file="/client"),
            ),
            "to.auth",
        ),
    ],
)
def test_other_outbound_changes_wait_for_a_rollout_and_are_named(wanted: OutboundPolicy, key: str) -> None:
    assert planned(FULL, wanted) == (FULL, [], [key])
    assert planned(FULL, FULL) == (FULL, [], [])


def test_a_new_outbound_policy_waits_with_each_of_its_keys_named() -> None:
    assert planned(DIRECT, FULL) == (DIRECT, [], ["to.tls", "to.proxy", "to.auth"])
