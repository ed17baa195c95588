"""The server's process: `python -m vividcover.runs.web FD [CERT KEY]`, on a socket that the supervisor opened."""

from __future__ import annotations

import contextlib
import socket
import sys

APP = "vividcover.server.app:from_environment"  # by name: this layer knows no server
PROTOCOL = "vividcover.server.protocol:Protocol"
GRACE = 2  # seconds that open requests get when the server is asked to end


UNUSABLE = 78  # exit status (sysexits.h: EX_CONFIG): a setting is wrong, or the database cannot be used


def main(fd: int, cert: str | None = None, key: str | None = None) -> None:
    """Serves until it is asked to end. What keeps it from starting is said in words."""
    import uvicorn

    from vividcover.errors import VividCoverError
    from vividcover.runs import lifeline
    from vividcover.settings import settings
    from vividcover.store import migrate
    from vividcover.store.artifacts import Artifacts
    from vividcover.store.database import Database

    try:
        database = Database(settings().database_url)
        migrate.upgrade(database)
        database.close()
        Artifacts.of(settings())
    except VividCoverError as error:
        sys.stderr.write(f"Error: {error.message}\n       {error.hint}\n")
        raise SystemExit(UNUSABLE) from None
    config = uvicorn.Config(
        APP, factory=True, ssl_certfile=cert, ssl_keyfile=key, access_log=False, log_level="warning",
        timeout_graceful_shutdown=GRACE, timeout_keep_alive=75, server_header=False, http=PROTOCOL,
        proxy_headers=False,  # what a proxy says is looked at where links are made
    )  # fmt: skip
    server = uvicorn.Server(config)
    lifeline.hold()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4])
