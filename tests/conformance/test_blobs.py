"""What every `BlobStore` promises: over the fake, in memory, in files, and in S3 (moto's server)."""

import hashlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.s3 import S3Server
from toril.core.blob import reference
from toril.core.errors import BlobLost, BlobsUnavailable, FolderUnusable
from toril.payloads import obstore_blobs
from toril.payloads.fallback_blobs import FallbackBlobs
from toril.payloads.folder_blobs import FolderBlobs
from toril.payloads.obstore_blobs import BlobPatience, S3Access, in_memory, open_blobs
from toril.payloads.ports import BlobStore
from toril.payloads.switched_blobs import SwitchedBlobs
from toril.testing import FakeBlobs, FakeClock

IMPATIENT = BlobPatience(connect_s=1, request_s=5, retries=0, retry_s=1)
KINDS = ["fake", "memory", "file", "folder", "fallback", "s3"]


@pytest.fixture(params=KINDS)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    match request.param:
        case "fake":
            return FakeBlobs(FakeClock())
        case "memory":
            return in_memory()
        case "file":
            return open_blobs(f"file://{tmp_path}/pay%20loads")
        case "folder":
            return FolderBlobs(tmp_path / "made" / "late")
        case "fallback":
            return FallbackBlobs(SwitchedBlobs(None), FolderBlobs(tmp_path / "folder"))
        case _:
            s3: S3Server = request.getfixturevalue("s3")
            return s3.blobs()


async def pieces(count: int, size: int = 1000) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * size


async def listed(blobs: BlobStore, folder: str = "") -> dict[str, int]:
    return {blob.name: blob.size_bytes async for blob in blobs.list(folder)}


async def test_a_stored_body_is_read_back(blobs: BlobStore) -> None:
    body = bytes(range(256)) * 4
    await blobs.put("jobs/1/request", body)
    assert await blobs.get("jobs/1/request") == body
    assert b"".join([piece async for piece in blobs.stream("jobs/1/request")]) == body


async def test_an_empty_body_is_stored_and_read_back(blobs: BlobStore) -> None:
    await blobs.put("jobs/1/request", b"")
    assert await blobs.get("jobs/1/request") == b""
    assert b"".join([piece async for piece in blobs.stream("jobs/1/request")]) == b""


async def test_a_repeated_put_changes_nothing(blobs: BlobStore) -> None:
    for _ in range(2):
        await blobs.put("jobs/1/request", b"the same")
    assert await blobs.get("jobs/1/request") == b"the same"
    assert await listed(blobs) == {"jobs/1/request": 8}


async def test_the_last_put_of_a_name_counts(blobs: BlobStore) -> None:
    await blobs.put("jobs/1/request", b"first")
    await blobs.put("jobs/1/request", b"second")
    assert await blobs.get("jobs/1/request") == b"second"


async def test_a_stream_is_stored_as_one_body(blobs: BlobStore) -> None:
    await blobs.put("jobs/1/request", pieces(100, 100_000))
    body = b"".join([piece async for piece in pieces(100, 100_000)])
    assert hashlib.sha256(await blobs.get("jobs/1/request")).digest() == hashlib.sha256(body).digest()
    assert await listed(blobs) == {"jobs/1/request": len(body)}


async def test_a_stream_that_breaks_stores_nothing(blobs: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces(20):
            yield piece
        raise ConnectionResetError("the caller went away")

    with pytest.raises((ConnectionResetError, BlobsUnavailable)):
        await blobs.put("jobs/1/request", broken())
    with pytest.raises(BlobLost):
        await blobs.get("jobs/1/request")
    assert await listed(blobs) == {}


async def test_a_large_body_comes_in_several_pieces(blobs: BlobStore) -> None:
    body = b"x" * 5_000_000
    await blobs.put("jobs/1/request", body)
    found = [piece async for piece in blobs.stream("jobs/1/request")]
    assert len(found) > 1
    assert b"".join(found) == body


async def test_a_missing_body_is_reported_as_lost(blobs: BlobStore) -> None:
    with pytest.raises(BlobLost):
        await blobs.get("jobs/1/request")
    with pytest.raises(BlobLost):
        await anext(aiter(blobs.stream("jobs/1/request")))


async def test_deleting_removes_the_named_bodies_only(blobs: BlobStore) -> None:
    for name in ("jobs/1/request", "jobs/1/response", "jobs/2/request"):
        await blobs.put(name, b"body")
    await blobs.delete(["jobs/1/request", "jobs/2/request"])
    assert await listed(blobs) == {"jobs/1/response": 4}


@pytest.mark.parametrize("names", [["jobs/1/a"], ["jobs/1/a", "jobs/1/b"], []])
async def test_deleting_again_is_no_fault(blobs: BlobStore, names: list[str]) -> None:
    await blobs.put("jobs/2/request", b"body")
    for _ in range(2):
        await blobs.delete(names)
    assert await listed(blobs) == {"jobs/2/request": 4}


async def test_a_list_has_what_is_in_the_folder(blobs: BlobStore) -> None:
    for name in ("jobs/1/request", "jobs/12/request", "other/1/request"):
        await blobs.put(name, b"body")
    assert set(await listed(blobs, "jobs/1")) == {"jobs/1/request"}
    assert set(await listed(blobs, "jobs")) == {"jobs/1/request", "jobs/12/request"}
    assert set(await listed(blobs, "nothing")) == set()
    assert len(await listed(blobs)) == 3


async def test_a_list_is_longer_than_a_page(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstore_blobs, "_LIST_PAGE", 5)
    for number in range(12):
        await blobs.put(f"jobs/{number}/request", b"x")
    assert len(await listed(blobs, "jobs")) == 12


async def test_names_are_taken_as_they_are_made(blobs: BlobStore) -> None:
    ref = reference("deliveries", "0193-ABC_def.x", "request", b"body")
    await blobs.put(ref.name, b"body")
    assert await listed(blobs) == {ref.name: 4}


async def test_a_store_that_cannot_be_reached_is_unavailable() -> None:
    access = S3Access("http://127.0.0.1:9", "us-east-1", "someone", "something")
    blobs = open_blobs("s3://bucket-1/payloads", access, IMPATIENT)
    calls: list[Callable[[], object]] = [
        lambda: blobs.put("jobs/1/request", b"body"),
        lambda: blobs.get("jobs/1/request"),
        lambda: blobs.delete(["jobs/1/request"]),
        lambda: anext(blobs.stream("jobs/1/request")),
        lambda: anext(blobs.list("jobs")),
    ]
    for call in calls:
        with pytest.raises(BlobsUnavailable):
            await call()  # type: ignore[misc]


async def test_a_bucket_that_does_not_exist_is_no_lost_body(s3: S3Server) -> None:
    blobs = s3.blobs(bucket="no-such-bucket")
    with pytest.raises(BlobsUnavailable):
        await blobs.get("jobs/1/request")


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BlobsUnavailable):
        open_blobs(f"file://{tmp_path}/file/payloads")


@pytest.mark.parametrize("url", ["", "s3:///prefix", "ftp://host/x", "file://host/x", "file:relative", "s3://b/p?x=1"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="s3://"):
        open_blobs(url)


async def test_empty_folders_do_not_pile_up(tmp_path: Path) -> None:
    blobs = open_blobs(f"file://{tmp_path}/payloads")
    await blobs.put("jobs/1/request", b"body")
    await blobs.delete(["jobs/1/request"])
    assert list((tmp_path / "payloads").iterdir()) == []


async def test_a_folder_is_made_when_it_is_needed_and_anew_when_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "late"
    blobs, beside = FolderBlobs(folder), FolderBlobs(folder)
    assert await listed(blobs) == {}
    await blobs.delete(["jobs/1/request"])
    with pytest.raises(BlobLost, match=r"on this machine.*payloads\.url"):
        await blobs.get("jobs/1/request")
    assert not folder.exists()
    for _ in range(2):
        await blobs.put("jobs/1/request", b"body")
        assert await beside.get("jobs/1/request") == b"body"
        shutil.rmtree(folder)


async def test_a_folder_that_cannot_be_used_says_why_and_what_to_do_without_saying_where(tmp_path: Path) -> None:
    folder = tmp_path / "late"
    folder.write_text("in the way")
    blobs = FolderBlobs(folder)

    async def refused(cause: str) -> None:
        with pytest.raises(
            FolderUnusable, match=rf"the folder late cannot be written \({cause}\).*payloads\.url"
        ) as told:
            await blobs.put("jobs/1/request", b"body")
        assert str(tmp_path) not in told.value.message

    await refused("File exists")
    folder.unlink()
    await blobs.put("jobs/1/request", b"body")
    shutil.rmtree(folder / "jobs")
    (folder / "jobs").write_text("in the way")
    await refused("Not a directory")
