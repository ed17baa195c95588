"""Rows as the API shows them. Keys whose value is not known are left out, never null, except `output` and `error`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import RowMapping

from vividcover.runs.states import redacted
from vividcover.server.public import Links

Row = Mapping[str, Any] | RowMapping


def time(seconds: float | None) -> str | None:
    """Unix seconds → 2026-11-20T21:35:00.123Z."""
    if seconds is None:
        return None
    whole = math.floor(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def run(row: Row, links: Links, *, logs: str | None = None, old: bool = False) -> dict[str, Any]:
    """A prediction or a training. `old`: for clients that do not know the status "aborted"."""
    kind, removed = row["kind"], bool(row["data_removed"])
    status = "canceled" if old and row["status"] == "aborted" else row["status"]
    get = links.run(row["id"], kind)
    urls = {"get": get, "cancel": f"{get}/cancel", "web": links.page(row["id"])}
    if row["stream_key"]:
        urls["stream"] = links.stream(row["stream_key"])
    body: dict[str, Any] = {
        "id": row["id"], "model": row["model"], "version": row["version"],
        "input": {} if removed else redacted(row["input"]), "output": None, "error": row["error"], "status": status,
        "created_at": time(row["created_at"]), "data_removed": removed, "source": row["source"], "urls": urls,
    }  # fmt: skip
    if logs is not None:
        body["logs"] = "" if removed else logs
    known = {
        "started_at": time(row["started_at"]), "completed_at": time(row["completed_at"]),
        "deadline": time(row["deadline"]), "deployment": row["deployment"], "metrics": row["metrics"] or None,
        "webhook": row["webhook"], "webhook_events_filter": row["webhook_events"].split() or None,
    }  # fmt: skip
    body.update((key, value) for key, value in known.items() if value is not None)
    output = None if removed else _output(row, links)
    if kind == "training":
        del body["output"]
        if output is not None:
            body["output"] = output
    elif output is not None:
        body["output"] = output
    return body


def _output(row: Row, links: Links) -> Any:
    """What a finished run made, with links to its files."""
    output = row["output"]
    if not output:
        return None
    files = [links.made(one["id"], one["name"]) for one in output.get("files", [])]
    if "version" in output:
        return {"version": output["version"], **({"weights": files[0]} if files else {})}
    if "text" in output:
        return output["text"]
    if "items" in output:
        return output["items"]
    if row["output_shape"] == "file":
        return files[0] if files else None
    return files


def file(row: Row, links: Links) -> dict[str, Any]:
    link = links.file(row["id"])
    return {
        "id": row["id"], "name": row["name"], "content_type": row["content_type"], "size": row["bytes"],
        "etag": row["md5"], "checksums": {"sha256": row["sha256"], "md5": row["md5"]}, "metadata": row["metadata"],
        "created_at": time(row["created_at"]),
        # the field is required; a file that is kept for good says the far future
        "expires_at": time(row["expires_at"] if row["expires_at"] is not None else 253_402_300_799.0),
        "urls": {"get": link},
    }  # fmt: skip


def account(row: Row) -> dict[str, Any]:
    return {"type": row["type"], "username": row["username"], "name": row["name"]}


def deployment(row: Row, creator: Row) -> dict[str, Any]:
    return {
        "owner": row["owner"], "name": row["name"],
        "current_release": {
            "number": row["number"], "model": row["model"], "version": row["version"],
            "created_at": time(row["changed_at"]), "created_by": account(creator),
            "configuration": {
                "hardware": row["hardware"], "min_instances": row["min_instances"],
                "max_instances": row["max_instances"],
            },
        },
    }  # fmt: skip
