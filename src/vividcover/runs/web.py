"""The server's process: `python -m vividcover.runs.web FD [CERT KEY]`, on a socket that the supervisor opened."""

from __future__ import annotations

import contextlib
import socket
import sys

APP = "vividcover.server.app:from_environment"  # by name: this layer knows no server
GRACE = 2  # seconds that open requests get when the server is asked to end


def main(fd: int, cert: str | None = None, key: str | None = None) -> None:
    import uvicorn

    from vividcover.runs import lifeline

    config = uvicorn.Config(
        APP, factory=True, ssl_certfile=cert, ssl_keyfile=key, access_log=False, log_level="warning",
        timeout_graceful_shutdown=GRACE, timeout_keep_alive=75, server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    lifeline.hold()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4])
