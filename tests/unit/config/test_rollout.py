"""What a reload applies and what it leaves for a rollout: each row of the wire's table, both columns."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from toril.config.rollout import plan
from toril.config.settings import Settings
from toril.core.access import Caller, Grant, RateLimit, Right
from toril.core.group_limits import GroupDefault
from toril.core.http.outbound_policy import ClientCredentials, ForwardProxy, HostRoute, OutboundPolicy, TlsFiles
from toril.core.http.signing import Secret
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.delivery.rules.target import BreakerPolicy, Retention, Signing, TargetAuth, TargetSpec, Timeouts
from toril.delivery.rules.target_rollout import AFTER_RESTART, AT_ONCE
from toril.proxy.rules.upstream import CallbackPolicy, ProxyPolicy, Upstream


def secret(text: str) -> Secret:
    return Secret(text.encode() * 8)


CLIENT = ClientCredentials(token_url="https://login", client_id="c", secret_file="/client", secret="one")
PROXY = ForwardProxy(url="http://proxy", secret_file="/proxy", secret="a")
WAY = OutboundPolicy(tls=TlsFiles(ca_file="/ca", ca="one"), oauth2=CLIENT)
UPSTREAM = Upstream(prefix="/api", url="http://api", outbound=OutboundPolicy(tls=WAY.tls))
ROUTE = HostRoute(hosts=("a",), outbound=OutboundPolicy(proxy=PROXY))
BILLING = TargetSpec(
    name="billing",
    url="https://billing.internal",
    auth=TargetAuth(scheme="bearer", secret="one", secret_file="/run/billing"),
    signing=Signing(secret_file="/run/signing", secrets=(secret("one"),)),
    outbound=WAY,
)
PLAIN = TargetSpec(name="plain", url="https://plain.internal")
CALLBACK = CallbackPolicy(routes=(ROUTE,))
BEFORE = Settings(
    targets=(BILLING, PLAIN), proxy=ProxyPolicy(upstreams=(UPSTREAM,), callback=CALLBACK), worker_routes=(ROUTE,)
)


def grant(name: str = "shop", **more: Any) -> Grant:
    return Grant(hashlib.sha256(name.encode()).digest(), Caller(name, **more))


def of(section: str, **fields: Any) -> Settings:
    return replace(BEFORE, **{section: replace(getattr(BEFORE, section), **fields)})


def billing(**fields: Any) -> Settings:
    return replace(BEFORE, targets=(replace(BILLING, **fields), PLAIN))


APPLIES = {
    "retry knobs": (billing(retry=RetryPolicy(max_attempts=3)), "targets.billing.retry"),
    "rate limit": (billing(rate_limit=RateLimit(5, 1.0)), "targets.billing.rate_limit"),
    "the label of groups": (billing(group_by="tenant"), "targets.billing.group_by"),
    "limits of groups": (billing(group=GroupDefault(1)), "targets.billing.group"),
    "retention": (billing(retention=Retention(delivered_s=1.0)), "targets.billing.retention"),
    "payload store": (of("payloads", url="file:///bodies"), "payloads.url"),
    "payload threshold": (of("payloads", threshold_bytes=1), "payloads.threshold"),
    "answers in Redis": (of("payloads", redis_max_bytes=1), "payloads.redis_max"),
    "payload endpoint": (of("payloads", endpoint="http://127.0.0.1:9000"), "payloads.endpoint"),
    "payload region": (of("payloads", region="eu-1"), "payloads.region"),
    "max_body": (of("delivery", max_body_bytes=1), "max_body"),
    "tokens": (of("gateway", tokens=(grant(),)), "tokens"),
    "auth_tokens": (of("gateway", auth_tokens=("new",)), "auth_tokens"),
    "log level": (of("log", level="debug"), "log.level"),
    "a secret of the same scheme": (
        billing(auth=replace(BILLING.auth, secret="two")),
        "targets.billing.auth.secret_file",
    ),
    "another secret file of the same scheme": (
        billing(auth=replace(BILLING.auth, secret_file="/run/other")),
        "targets.billing.auth.secret_file",
    ),
    "renewed certificates": (
        billing(outbound=replace(WAY, tls=TlsFiles(ca_file="/ca", ca="two"))),
        "targets.billing.tls",
    ),
    "a renewed client secret of OAuth": (
        billing(outbound=replace(WAY, oauth2=replace(CLIENT, secret="two"))),
        "targets.billing.auth.secret_file",
    ),
    "renewed certificates of an upstream": (
        of("proxy", upstreams=(replace(UPSTREAM, outbound=OutboundPolicy(tls=TlsFiles(ca_file="/ca", ca="two"))),)),
        "upstreams./api.tls",
    ),
    "a renewed password of the workers' proxy": (
        replace(BEFORE, worker_routes=(replace(ROUTE, outbound=OutboundPolicy(proxy=replace(PROXY, secret="b"))),)),
        "workers.outbound.1.proxy.secret_file",
    ),
    "a callback's proxy's secret": (
        of(
            "proxy",
            callback=CallbackPolicy(
                routes=(replace(ROUTE, outbound=OutboundPolicy(proxy=replace(PROXY, secret="b"))),)
            ),
        ),
        "callback.outbound.1.proxy.secret_file",
    ),
    "signing secrets": (
        billing(signing=Signing(secret_file="/run/signing", secrets=(secret("two"), secret("one")))),
        "targets.billing.signing.secret_file",
    ),
}
WAITS = {
    "timeout": (billing(timeout=Timeouts(total_s=1.0)), "targets.billing.timeout"),
    "breaker": (billing(breaker=BreakerPolicy(failures=1)), "targets.billing.breaker"),
    "breaker: off": (billing(breaker=None), "targets.billing.breaker"),
    "concurrency": (billing(concurrency=1), "targets.billing.concurrency"),
    "url": (billing(url="https://other.internal"), "targets.billing.url"),
    "auth scheme": (billing(auth=TargetAuth(scheme="basic", secret="a:b")), "targets.billing.auth"),
    "auth header": (billing(auth=TargetAuth(scheme="header", header="x-key", secret="a")), "targets.billing.auth"),
    "no auth any more": (billing(auth=TargetAuth()), "targets.billing.auth"),
    "another OAuth client": (
        billing(outbound=replace(WAY, oauth2=replace(CLIENT, client_id="d"))),
        "targets.billing.auth",
    ),
    "no CA any more": (billing(outbound=replace(WAY, tls=None)), "targets.billing.tls"),
    "a proxy": (billing(outbound=replace(WAY, proxy=PROXY)), "targets.billing.proxy"),
    "an upstream's proxy": (
        of("proxy", upstreams=(replace(UPSTREAM, outbound=replace(UPSTREAM.outbound, proxy=PROXY)),)),
        "upstreams./api.proxy",
    ),
    "an upstream's url": (of("proxy", upstreams=(replace(UPSTREAM, url="http://other"),)), "upstreams"),
    "a new upstream": (of("proxy", upstreams=(UPSTREAM, Upstream(prefix="/b", url="http://b"))), "upstreams"),
    "other hosts of callbacks": (
        of("proxy", callback=CallbackPolicy(routes=(replace(ROUTE, hosts=("b",)),))),
        "callback.outbound",
    ),
    "other hosts of workers": (replace(BEFORE, worker_routes=(replace(ROUTE, hosts=("b",)),)), "workers.outbound"),
    "no way to workers": (replace(BEFORE, worker_routes=()), "workers.outbound"),
    "signing off": (billing(signing=None), "targets.billing.signing"),
    "signing on": (
        replace(BEFORE, targets=(BILLING, replace(PLAIN, signing=BILLING.signing))),
        "targets.plain.signing",
    ),
    "a new target": (replace(BEFORE, targets=(*BEFORE.targets, replace(PLAIN, name="new"))), "targets.new"),
    "a target that is gone": (replace(BEFORE, targets=(BILLING,)), "targets.plain"),
    "port": (replace(BEFORE, port=1), "port"),
    "redis": (of("redis", host="elsewhere"), "redis.host"),
    "what only a redis URL says": (of("redis", verify=False), "redis.url"),
    "egress": (of("egress", policy="public"), "egress.policy"),
    "engine": (of("engine", lock_s=1.0), "engine.lock"),
    "delivery": (of("delivery", lease_s=1.0), "delivery.lease"),
    "log format": (of("log", format="json"), "log.format"),
    "gateway": (of("gateway", max_body_bytes=1), "max_body_bytes"),
    "the async proxy": (of("proxy", owner_only=True), "ownerOnly"),
}


@pytest.mark.parametrize("row", APPLIES)
def test_a_setting_that_applies_at_once_runs_from_now_on(row: str) -> None:
    wanted, key = APPLIES[row]
    made = plan(BEFORE, wanted)
    assert (made.applied, made.pending) == ((key,), ())
    assert made.settings == wanted
    assert plan(made.settings, wanted).applied == ()


@pytest.mark.parametrize("row", WAITS)
def test_a_setting_that_needs_a_rollout_is_named_and_not_applied(row: str) -> None:
    wanted, key = WAITS[row]
    made = plan(BEFORE, wanted)
    assert (made.applied, made.pending) == ((), (key,))
    assert made.settings == BEFORE


@pytest.mark.parametrize("row", WAITS)
def test_reverting_an_edit_clears_the_pending_rollout(row: str) -> None:
    wanted, _ = WAITS[row]
    made = plan(plan(BEFORE, wanted).settings, BEFORE)
    assert (made.applied, made.pending, made.settings) == ((), (), BEFORE)


def test_of_a_mixed_edit_the_part_that_applies_applies() -> None:
    mixed = replace(BILLING, url="https://other.internal", retry=RetryPolicy(max_attempts=3), concurrency=1)
    made = plan(BEFORE, replace(of("log", level="debug"), port=1, targets=(mixed, PLAIN, replace(PLAIN, name="new"))))
    assert made.applied == ("log.level", "targets.billing.retry")
    assert made.pending == ("port", "targets.billing.url", "targets.billing.concurrency", "targets.new")
    assert made.settings == replace(
        of("log", level="debug"), targets=(replace(BILLING, retry=RetryPolicy(max_attempts=3)), PLAIN)
    )


def test_a_new_secret_of_another_scheme_waits_with_its_scheme() -> None:
    made = plan(BEFORE, billing(auth=TargetAuth(scheme="header", header="x-key", secret="two")))
    assert made.settings.targets[0].auth == BILLING.auth


def test_the_order_of_targets_is_no_change() -> None:
    made = plan(BEFORE, replace(BEFORE, targets=(PLAIN, BILLING)))
    assert (made.applied, made.pending, made.settings) == ((), (), BEFORE)


@pytest.mark.parametrize(
    "other",
    [
        grant(allowed=frozenset({Right.JOBS_ADD})),
        grant(queues=("orders*",)),
        grant(rate_limit=RateLimit(1, 1.0)),
        replace(grant(), expires_at_s=1.0),
        replace(grant(), sha256=b"x" * 32),
        grant("other"),
    ],
)
def test_a_token_with_other_rights_is_a_change_and_an_equal_one_is_not(other: Grant) -> None:
    running = of("gateway", tokens=(grant(),))
    assert plan(running, of("gateway", tokens=(grant(),))).applied == ()
    assert plan(running, of("gateway", tokens=(other,))).applied == ("tokens",)


@given(st.sets(st.sampled_from(sorted(APPLIES))), st.sets(st.sampled_from(sorted(WAITS))))
def test_several_edits_together_have_the_effect_of_each_alone(applying: set[str], waiting: set[str]) -> None:
    """Edits of different fields, together; of several that touch one field the last counts, as in a file."""
    wanted = BEFORE
    for row in sorted(applying | waiting):
        edited = (APPLIES | WAITS)[row][0]
        wanted = _with_edits(wanted, edited)
    made = plan(BEFORE, wanted)
    again = plan(made.settings, wanted)
    assert again.applied == ()
    assert again.pending == made.pending
    back = plan(made.settings, BEFORE)
    assert (back.pending, back.settings) == ((), BEFORE)


def _with_edits(settings: Settings, edited: Settings) -> Settings:
    """`settings` with what `edited` changes of BEFORE."""
    changed = {
        name: getattr(edited, name)
        for name in Settings.__struct_fields__
        if name != "targets" and getattr(edited, name) != getattr(BEFORE, name)
    }
    if edited.targets != BEFORE.targets:
        changed["targets"] = edited.targets
    return replace(settings, **changed)


def test_every_key_of_a_target_and_of_the_columns_is_known() -> None:
    assert set(TargetSpec.__struct_fields__) == {
        "name",
        "auth",
        "signing",
        "outbound",
        *AT_ONCE,
        *AFTER_RESTART,
    }
