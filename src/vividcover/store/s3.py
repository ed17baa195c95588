"""Artifacts in an S3 bucket, through obstore. Credentials and endpoint come from the usual AWS_… variables."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator
from pathlib import Path

from vividcover.errors import NotFoundError, ParameterError, StorageError

PART = 16 << 20  # bytes of one request when reading
YOUNG = 1800.0  # seconds: an object put longer ago is put anew, so that it is young again for `sweep`


class Bucket:
    """`s3://bucket/prefix`. Raises `StorageError` when it cannot be reached."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
            import obstore.exceptions
            from obstore.store import S3Store
        except ImportError:
            raise ParameterError(
                "The S3 library is not installed.", "Install it: pip install 'vividcover[s3]'."
            ) from None
        self._obstore, self.url = obstore, url
        try:
            self._store = S3Store.from_url(url)
        except obstore.exceptions.BaseError:
            raise ParameterError(f"{url!r} is not s3://bucket/prefix.", "Set VIVIDCOVER_ARTIFACTS to one.") from None

    def put(self, sha: str, file: Path) -> None:
        """Uploads unless it is there and young. Two that put the same at once put the same bytes."""
        if (age := self._age(sha)) is not None and age < YOUNG:
            return
        with self._told():
            self._obstore.put(self._store, self._key(sha), file)

    def read(self, sha: str, start: int, end: int | None) -> Iterator[bytes]:
        stop = self.size(sha) if end is None else end

        def parts() -> Iterator[bytes]:
            for at in range(start, stop, PART):
                with self._told():
                    data = self._obstore.get_range(self._store, self._key(sha), start=at, end=min(at + PART, stop))
                yield bytes(data)

        return parts()

    def exists(self, sha: str) -> bool:
        return self._age(sha) is not None

    def size(self, sha: str) -> int:
        try:
            with self._told():
                return int(self._obstore.head(self._store, self._key(sha))["size"])
        except FileNotFoundError:
            raise NotFoundError(f"There is no artifact {sha}.", "It may have expired; make it again.") from None

    def sweep(self, live: Collection[str], older_than: float) -> int:
        gone = 0
        with self._told():
            for page in self._obstore.list(self._store, prefix="blobs/"):
                dead = [
                    one["path"] for one in page
                    if one["path"].rsplit("/", 1)[-1] not in live and _age(one["last_modified"]) > older_than
                ]  # fmt: skip
                if dead:
                    self._obstore.delete(self._store, dead)
                gone += len(dead)
        return gone

    def _key(self, sha: str) -> str:
        return f"blobs/{sha[:2]}/{sha}"

    def _age(self, sha: str) -> float | None:
        """Seconds since it was put; None: it is not there."""
        try:
            with self._told():
                return _age(self._obstore.head(self._store, self._key(sha))["last_modified"])
        except FileNotFoundError:
            return None

    def _told(self) -> _Told:
        return _Told(self.url)


class _Told:
    """Errors of the bucket in our words; a missing object stays `FileNotFoundError`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from obstore.exceptions import BaseError

        if isinstance(error, BaseError) and not isinstance(error, FileNotFoundError):
            first = str(error).splitlines()[0]
            raise StorageError(
                f"The bucket {self._url} failed: {first}", "Check AWS_ENDPOINT_URL, AWS_REGION and the credentials."
            ) from error


def _age(put: datetime.datetime) -> float:
    return (datetime.datetime.now(datetime.UTC) - put).total_seconds()
