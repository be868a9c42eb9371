"""Large bodies in an S3-compatible store, in files, or in memory: all three by obstore (Rust's object_store).

Owns where the three differ: what their errors mean, that a file is flushed to disk before it counts as stored, and that
deleting a missing body is not an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

import obstore
from msgspec import Struct
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import LocalStore, MemoryStore, S3Store

from toril.core.blob import Blob
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.payloads.policy import PayloadPolicy

if TYPE_CHECKING:
    from obstore.store import S3Config

_PIECE_BYTES = 1024 * 1024
# S3 wants parts of 5 MB or more. Two under way: 16 MB are held per streamed put.
_PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 2
_LIST_PAGE = 500


class S3Access(Struct, frozen=True):
    """How an S3-compatible store is reached. What is None comes from where AWS's own tools look: the `AWS_…`
    environment variables, a web identity, the container or the machine.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None

    def __repr__(self) -> str:
        return f"S3Access(endpoint={self.endpoint!r}, region={self.region!r})"


class BlobPatience(Struct, frozen=True):
    """How long one request to the store may take, and how often and how long one that failed is tried again."""

    connect_s: float = 3.0
    request_s: float = 60.0
    retries: int = 3
    retry_s: float = 10.0


class ObstoreBlobs:
    """`BlobStore` over one of obstore's stores. `root` is the folder of a `LocalStore`."""

    def __init__(self, store: S3Store | LocalStore | MemoryStore, root: Path | None = None) -> None:
        self._store = store
        self._root = root

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body: bytes in one request, a stream in parts that count when the last one is stored."""
        with _translated(name):
            if isinstance(body, bytes):
                await obstore.put_async(self._store, name, body, use_multipart=False)
            else:
                await obstore.put_async(
                    self._store,
                    name,
                    aiter(body),
                    use_multipart=True,
                    chunk_size=_PART_BYTES,
                    max_concurrency=_PARTS_AT_ONCE,
                )
            if self._root is not None:
                await asyncio.to_thread(_to_disk, self._root, self._root / name)

    async def get(self, name: str) -> bytes:
        """Return the whole body."""
        with _translated(name):
            found = await obstore.get_async(self._store, name)
            return bytes(await found.bytes_async())

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about a MB."""
        with _translated(name):
            found = await obstore.get_async(self._store, name)
            pieces = aiter(found.stream(min_chunk_size=_PIECE_BYTES))
        while True:
            with _translated(name):
                piece = await anext(pieces, None)
            if piece is None:
                return
            whole = bytes(piece)
            for start in range(0, len(whole), _PIECE_BYTES):
                yield whole[start : start + _PIECE_BYTES]

    async def delete(self, names: Sequence[str]) -> None:
        """Remove bodies; S3 takes a thousand in one request."""
        if self._root is not None or len(names) == 1:
            for name in names:
                await self._delete(name)
        elif names:
            with _translated(names[0]):
                await obstore.delete_async(self._store, list(names))

    async def _delete(self, name: str) -> None:
        try:
            with _translated(name):
                await obstore.delete_async(self._store, name)
        except BlobLost:
            pass  # it is already gone

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """Yield what is stored in a folder, page by page."""
        pages = aiter(obstore.list(self._store, prefix=folder or None, chunk_size=_LIST_PAGE))
        while True:
            with _translated(folder):
                page = await anext(pages, None)
            if page is None:
                return
            for found in page:
                yield Blob(found["path"], found["size"], found["last_modified"].timestamp())


def in_memory() -> ObstoreBlobs:
    """Return a store that is lost with the process, for trials."""
    return ObstoreBlobs(MemoryStore())


def open_blobs(url: str, s3: S3Access | None = None, patience: BlobPatience | None = None) -> ObstoreBlobs:
    """Return the store of a `payloads.url`: `s3://bucket/prefix`, `file:///folder` (made if missing) or `memory:`.

    Raises:
        ValueError: the URL is none of these.
        BlobsUnavailable: the folder can be neither used nor made.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return in_memory()
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        root = Path(unquote(parts.path))
        with _translated(str(root)):
            # Empty folders go with the last body in them: there is one per job.
            return ObstoreBlobs(LocalStore(root, automatic_cleanup=True, mkdir=True), root)
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        store = _s3(parts.netloc, parts.path.strip("/"), s3 or S3Access(), patience or BlobPatience())
        return ObstoreBlobs(store)
    raise ValueError("it must be s3://bucket/prefix or file:///folder")


def blobs_of(policy: PayloadPolicy) -> ObstoreBlobs | None:
    """Return the store that an operator has configured; None without one. Raises what `open_blobs` raises."""
    if policy.url is None:
        return None
    return open_blobs(policy.url, S3Access(endpoint=policy.endpoint, region=policy.region))


def _s3(bucket: str, prefix: str, access: S3Access, patience: BlobPatience) -> S3Store:
    given = {
        "endpoint": access.endpoint,
        "region": access.region,
        "access_key_id": access.access_key_id,
        "secret_access_key": access.secret_access_key,
    }
    endpoint = access.endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=cast("S3Config", {key: value for key, value in given.items() if value is not None}),
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=patience.connect_s),
            "timeout": timedelta(seconds=patience.request_s),
        },
        retry_config={
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.retry_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


def _to_disk(root: Path, file: Path) -> None:
    """Flush a renamed file and each folder above it to disk; the rename alone may be lost in a crash."""
    place = file
    while True:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if place == root:
            return
        place = place.parent


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        if "NoSuchBucket" in str(exc):  # also a 404, but the body may still exist
            raise BlobsUnavailable("The bucket of the store of large bodies does not exist") from exc
        raise BlobLost(f"The body {name} is no longer in its store") from exc
    except (ObstoreError, OSError) as exc:
        first = str(exc).partition("\n")[0]
        raise BlobsUnavailable(f"The store of large bodies does not answer as it should: {first[:300]}") from exc
