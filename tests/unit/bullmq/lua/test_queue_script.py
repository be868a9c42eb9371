from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.queue_script import QueueScript

KEYS = QueueKeys("bull", "orders")


def test_keys_are_parts_of_the_queue() -> None:
    names = ("wait", "prefix", "{job}", "{job}:lock", "metrics:{state}")
    assert KEYS.named(names, {"job": b"7", "state": "failed"}) == [
        b"bull:orders:wait",
        b"bull:orders:",
        b"bull:orders:7",
        b"bull:orders:7:lock",
        b"bull:orders:metrics:failed",
    ]


def test_an_id_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    assert KEYS.named(["{job}", "{state}"], {"job": b"{state}", "state": "failed"}) == [
        b"bull:orders:{state}",
        b"bull:orders:failed",
    ]


def test_a_call_for_a_queue_equals_the_call_with_its_full_keys() -> None:
    script = QueueScript("x", b"return 1", keys="{job} events", arguments="value")
    assert script.of(KEYS, 5, job="é") == script.packed(["bull:orders:é", "bull:orders:events"], 5)
