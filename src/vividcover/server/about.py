"""Small things: the account, the hardware, whether the server is well, and its pages for people."""

from __future__ import annotations

import html
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse

from vividcover import __version__
from vividcover.server import shapes
from vividcover.server.auth import Reads
from vividcover.server.state import Here, Linked
from vividcover.store.tables import accounts, workers

router = APIRouter()
HARDWARE = [{"name": "CPU", "sku": "cpu"}]
NAMES = {"cpu": "CPU", "cuda": "GPU"}
SEEN = 60.0  # seconds since a worker was last seen, after which it does not count

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#222;background:#fff}"
    "code,pre{font:14px/1.5 ui-monospace,monospace;background:#f3f3f3;padding:.1em .3em}h2{margin-top:2rem}"
    "td{padding:.2em .8em .2em 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}"
    "code,pre{background:#2a2a2a}a{color:#8ab4f8}}"
)


@router.get("/v1/account", tags=["account"])
async def account(who: Reads, here: Here) -> dict[str, Any]:
    """The account that the token belongs to."""
    query = sa.select(accounts).where(accounts.c.id == who.account_id)
    return await here.read(lambda db: shapes.account(db.execute(query).mappings().one()))


@router.get("/v1/hardware", tags=["hardware"])
async def hardware(who: Reads, here: Here) -> list[dict[str, str]]:
    """The hardware that workers of this server run on."""
    found = await here.read(lambda db: list(db.execute(sa.select(workers.c.device).distinct()).scalars()))
    others = sorted({device for device in found if device not in ("cpu", "any")})
    return HARDWARE + [{"name": NAMES.get(d.partition(":")[0], d.upper()), "sku": d.replace(":", "-")} for d in others]


@router.get("/healthz", tags=["server"])
async def health(here: Here) -> JSONResponse:
    """Whether the server can answer, and how many workers there are."""
    from vividcover.store.database import now

    query = sa.select(sa.func.count()).select_from(workers).where(workers.c.seen_at > now() - SEEN)
    count = await here.read(lambda db: db.scalar(query))
    return JSONResponse({"status": "ok", "version": __version__, "workers": int(count or 0)})


@router.get("/", include_in_schema=False)
async def home(links: Linked) -> JSONResponse:
    """Where to go from here."""
    base = links.base
    return JSONResponse({
        "name": "vividcover", "version": __version__, "api": f"{base}/v1", "bfl": f"{base}/bfl/v1",
        "docs": f"{base}/docs", "openapi": f"{base}/openapi.json", "health": f"{base}/healthz",
    })  # fmt: skip


@router.get("/p/{run_id}", include_in_schema=False)
async def page(run_id: str, links: Linked) -> HTMLResponse:
    """Where `urls.web` leads: how to look at a run. It tells nothing of the run, since it asks for no token."""
    shown = html.escape(run_id[:26])
    link = html.escape(f"{links.base}/v1/predictions/{run_id[:26]}")
    text = (
        f'<h1>Run {shown}</h1><p>Look at it with its token:</p><pre>curl -H "Authorization: Bearer $TOKEN" {link}</pre>'
    )
    return HTMLResponse(_page(f"Run {shown}", text))


@router.get("/docs", include_in_schema=False)
async def docs(request: Request, links: Linked) -> HTMLResponse:
    """Every endpoint on one page, made from the OpenAPI document; nothing of it comes from elsewhere."""
    spec = request.app.openapi()
    rows = []
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            told = html.escape(operation.get("description") or operation.get("summary") or "")
            rows.append(
                f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td><td>{told}</td></tr>"
            )
    base = html.escape(links.base)
    text = (
        f"<h1>vividcover {html.escape(__version__)}</h1><p>This API is Replicate's: set the base URL to "
        f"<code>{base}</code> (Python 1.x) or <code>{base}/v1</code> (Python 2.x, JavaScript) and use a token of this "
        f'server. The whole description: <a href="/openapi.json">openapi.json</a>.</p>'
        f"<h2>Endpoints</h2><table>{''.join(rows)}</table>"
    )
    return HTMLResponse(_page("vividcover API", text))


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>"
    )
