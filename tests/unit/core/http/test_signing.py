import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.http.headers import is_header_value
from toril.core.http.signing import Secret, message_id, read_secret, signature_headers

# The vector that Standard Webhooks' own libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + base64.b64encode(b"o" * 24).decode()


def test_signing_reproduces_the_published_test_vector() -> None:
    head = signature_headers(
        [read_secret(SECRET)], b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert head == (
        b"webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek\r\nwebhook-timestamp: 1614265330\r\nwebhook-signature: "
        + SIGNATURE
        + b"\r\n"
    )


def test_each_secret_has_its_signature() -> None:
    secrets = [read_secret(OTHER), read_secret(SECRET)]
    head = signature_headers(secrets, b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    other, same = head.removesuffix(b"\r\n").rpartition(b"signature: ")[2].split(b" ")
    assert same == SIGNATURE
    assert other.startswith(b"v1,")
    assert other != same


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=50), st.integers(0, 2**33))
def test_a_signature_is_hmac_sha256_of_what_is_sent(key: bytes, body: bytes, at_s: int) -> None:
    secret = read_secret("whsec_" + base64.b64encode(key).decode())
    head = signature_headers([secret], b"a:b:1@2", at_s, body)
    expected = hmac.new(key, b"a:b:1@2." + str(at_s).encode() + b"." + body, hashlib.sha256).digest()
    assert head.endswith(b"webhook-signature: v1," + base64.b64encode(expected) + b"\r\n")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "must be a text that begins with whsec_"),
        (5, "must be a text that begins with whsec_"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "must be a text that begins with whsec_"),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "must be a text that begins with whsec_"),
        ("whsec_", "must hold 24 to 64 bytes in Base64, and holds 0"),
        ("whsec_" + "A" * 28, "must hold 24 to 64 bytes in Base64, and holds 21"),
        ("whsec_" + "A" * 88, "must hold 24 to 64 bytes in Base64, and holds 66"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "must be Base64 behind whsec_"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_", "must be Base64 behind whsec_"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "must be Base64 behind whsec_"),
        ("whsec_größe", "must be Base64 behind whsec_"),
    ],
)
def test_an_invalid_secret_is_refused_without_repeating_it(text: object, fault: str) -> None:
    with pytest.raises(ValueError, match=r"must") as caught:
        read_secret(text)
    assert str(caught.value) == fault
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_the_repr_of_a_secret_hides_it() -> None:
    assert repr(Secret(b"k" * 24)) == str(Secret(b"k" * 24)) == "Secret(…)"


@pytest.mark.parametrize(
    ("queue", "job_id", "shown"),
    [
        (b"bull:orders", b"7", b"bull:orders:7@1700000000000"),
        (b"{bull}:a.b", b"x.y@1 z", b"%7Bbull%7D:a%2Eb:x%2Ey%401%20z@1700000000000"),
        ("bull:größe".encode(), b"a\r\nb\xff", b"bull:gr%C3%B6%C3%9Fe:a%0D%0Ab%FF@1700000000000"),
    ],
)
def test_a_message_is_named_after_its_job(queue: bytes, job_id: bytes, shown: bytes) -> None:
    assert message_id(queue, job_id, b"1700000000000") == shown


_ids = st.one_of(st.binary(max_size=20), st.text("0.:@%2E", max_size=8).map(str.encode))
_names = st.text("ab.@%2E", min_size=1, max_size=4).map(lambda name: f"bull:{name}".encode())
_jobs = st.tuples(_names, _ids, st.integers(0, 20).map(lambda number: b"%d" % number))


@given(_jobs, _jobs)
def test_no_two_jobs_share_a_message_id(one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]) -> None:
    assert (message_id(*one) == message_id(*other)) == (one == other)


@given(_jobs)
def test_a_message_id_can_be_sent_and_signed(job: tuple[bytes, bytes, bytes]) -> None:
    message = message_id(*job)
    assert is_header_value(message)
    assert b"." not in message
    assert b" " not in message
