"""Links that leave the server: absolute, as the client reaches it, and signed where they work without a token.

{base}/v1/predictions/{id}                    needs a token
{base}/outputs/{file}/{signature}/{name}      whoever has the link may read it
{base}/v1/streams/{stream_key}                likewise
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from sqlalchemy import select
from sqlalchemy.engine import Connection
from starlette.requests import HTTPConnection

from vividcover.store import tables
from vividcover.store.database import Database

HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
SIGNATURE = 32  # characters of base64url: 192 bits


@dataclass(frozen=True, slots=True)
class Links:
    """Makes links below `base` (no slash at its end) and checks the signed ones."""

    base: str
    key: bytes
    embed: Callable[[str], str | None] | None = None  # the file as a data: link, where outputs are given so

    def run(self, run_id: str, kind: str) -> str:
        return f"{self.base}/v1/{kind}s/{run_id}"

    def page(self, run_id: str) -> str:
        """Where a person looks at a run."""
        return f"{self.base}/p/{run_id}"

    def file(self, file_id: str) -> str:
        return f"{self.base}/v1/files/{file_id}"

    def output(self, file_id: str, name: str) -> str:
        return f"{self.base}/outputs/{file_id}/{sign(self.key, file_id)}/{quote(name)}"

    def made(self, file_id: str, name: str) -> str:
        """`output`, or the file itself as a link."""
        return (self.embed and self.embed(file_id)) or self.output(file_id, name)

    def stream(self, stream_key: str) -> str:
        return f"{self.base}/v1/streams/{stream_key}"

    def own(self, link: str) -> list[str] | None:
        """The parts of the path of a link to this server; None for any other link."""
        if not link.startswith(self.base + "/"):
            return None
        path = link[len(self.base) + 1 :].partition("#")[0].partition("?")[0]
        return [unquote(part) for part in path.split("/")]


def sign(key: bytes, text: str) -> str:
    digest = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode()[:SIGNATURE]


def signed(key: bytes, text: str, signature: str) -> bool:
    return hmac.compare_digest(sign(key, text).encode(), signature.encode())


def files_secret(key: bytes, account_id: str) -> str:
    """The secret with which an account signs download links of its files (base64)."""
    return base64.b64encode(hmac.new(key, f"files:{account_id}".encode(), hashlib.sha256).digest()).decode()


def base_of(request: HTTPConnection, public_url: str) -> str:
    """How the client reaches the server: the setting, else what a proxy says, else the Host header."""
    if public_url:
        return public_url.rstrip("/")
    headers = request.headers
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip() or str(request.scope["scheme"])
    host = headers.get("x-forwarded-host", "").partition(",")[0].strip() or headers.get("host", "")
    if scheme not in ("http", "https"):
        scheme = "http"
    if not HOST.fullmatch(host):
        address, port = request.scope.get("server") or ("127.0.0.1", 80)
        host = f"{address}:{port}"
    return f"{scheme}://{host}"


def signing_key(database: Database) -> bytes:
    """The installation's own secret, made once; every process of it signs with the same."""
    import secrets

    def read(db: Connection) -> str | None:
        return db.execute(select(tables.facts.c.value).where(tables.facts.c.name == "signing_key")).scalar()

    with database.read() as db:
        known = read(db)
    if known is None:
        with database.write() as db:
            known = read(db)
            if known is None:
                known = secrets.token_hex(32)
                db.execute(tables.facts.insert().values(name="signing_key", value=known))
    return bytes.fromhex(known)
