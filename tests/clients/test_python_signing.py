"""The Python client tells requests that toril signed from others."""

import base64
import time

import pytest

from tests.clients.webhooks import AT_S, BODY, HEADERS, SECRET
from toril.core.http.signing import Signer, read_secret
from toril_client import PushedJob, TorilError
from toril_client.signing import verify

OTHER = "whsec_" + base64.b64encode(b"o" * 24).decode()
JOB = b'{"job": {"id": "7", "name": "n", "data": 1, "queueQualifiedName": "bull:orders"}, "token": "t"}'


def signed(body: bytes, at_s: float, *secrets: str) -> dict[str, str]:
    """toril's headers for a body."""
    signer = Signer([read_secret(secret) for secret in secrets], b"bull:orders:7@1", int(at_s))
    signer.update(body)
    return dict(line.split(": ") for line in signer.headers().decode().splitlines())


@pytest.mark.parametrize("secrets", [SECRET, [SECRET], [OTHER, SECRET], (SECRET, OTHER)])
@pytest.mark.parametrize("apart_s", [-300, 0, 300])
def test_the_published_vector_is_verified(secrets: str | list[str], apart_s: int) -> None:
    verify(BODY, HEADERS, secrets, AT_S + apart_s)
    verify(BODY, {name.title(): value for name, value in HEADERS.items()}, secrets, AT_S + apart_s)


@pytest.mark.parametrize("signature", ["{} v1,AAAA", "v1,AAAA {}", "v1a,x  {}"])
def test_one_right_signature_of_several_will_do(signature: str) -> None:
    headers = HEADERS | {"webhook-signature": signature.format(HEADERS["webhook-signature"])}
    verify(BODY, headers, SECRET, AT_S)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"webhook-id": "msg_other"}, "wrong"),
        ({"webhook-timestamp": str(AT_S + 1)}, "wrong"),
        ({"webhook-signature": HEADERS["webhook-signature"].replace("v1,", "v2,")}, "wrong"),
        ({"webhook-signature": HEADERS["webhook-signature"].removeprefix("v1,")}, "wrong"),
        ({"webhook-signature": HEADERS["webhook-signature"][:-1]}, "wrong"),
        ({"webhook-signature": "v1,"}, "wrong"),
        ({"webhook-signature": ""}, "not signed"),
        ({"webhook-signature": "v1,größe"}, "not signed"),
        ({"webhook-id": ""}, "not signed"),
        ({"webhook-timestamp": ""}, "not signed"),
        ({"webhook-timestamp": f"{AT_S}.0"}, "not signed"),
        ({"webhook-timestamp": f"-{AT_S}"}, "not signed"),
        ({"webhook-timestamp": "9" * 5000}, "not signed"),
        ({"webhook-timestamp": str(AT_S - 301)}, "five minutes"),
        ({"webhook-timestamp": str(AT_S + 301)}, "five minutes"),
    ],
)
def test_a_changed_message_is_refused(changed: dict[str, str], fault: str) -> None:
    with pytest.raises(TorilError, match=fault) as caught:
        verify(BODY, HEADERS | changed, SECRET, AT_S)
    assert (caught.value.code, caught.value.status) == ("unauthorized", 401)


def test_another_body_another_secret_and_no_headers_are_refused() -> None:
    for body, headers, secret in ((BODY + b" ", HEADERS, SECRET), (BODY, HEADERS, OTHER), (BODY, {}, SECRET)):
        with pytest.raises(TorilError) as caught:
            verify(body, headers, secret, AT_S)
        assert caught.value.status == 401


def test_a_right_signature_of_another_time_is_refused() -> None:
    for at_s in (time.time() - 330, time.time() + 330):
        with pytest.raises(TorilError, match="five minutes"):
            PushedJob.verified(JOB, signed(JOB, at_s, SECRET), SECRET)


def test_a_job_that_toril_signed_is_read() -> None:
    for secrets in ([SECRET], [OTHER, SECRET]):
        pushed = PushedJob.verified(JOB, signed(JOB, time.time(), *secrets), SECRET)
        assert (pushed.job.id, pushed.queue) == ("7", "orders")
    with pytest.raises(TorilError) as caught:
        PushedJob.verified(b"{}", signed(b"{}", time.time(), SECRET), SECRET)
    assert caught.value.status == 400


@pytest.mark.parametrize("secrets", [[], "", SECRET.removeprefix("whsec_"), "whsec_", "whsec_hunter2", [SECRET, ""]])
def test_without_a_secret_nothing_is_verified(secrets: str | list[str]) -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        verify(BODY, HEADERS, secrets, AT_S)
    assert "hunter2" not in str(caught.value)
