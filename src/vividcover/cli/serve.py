"""`vividcover up` and `vividcover worker`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vividcover.cli.console import fail
from vividcover.errors import VividCoverError


def up(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0: every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 5000,
    workers: Annotated[int, typer.Option("--workers", min=0, help="How many runs go on at the same time.")] = 1,
    tls: Annotated[str, typer.Option("--tls", help="self-signed, or CERT.pem,KEY.pem: serve https.")] = "",
    public_url: Annotated[str, typer.Option("--public-url", help="How clients reach it, if not as it listens.")] = "",
) -> None:
    """Serve the HTTP API and work off its runs. Ctrl-C ends it; unfinished runs continue at the next start."""
    import logging
    import os
    import signal

    from vividcover.runs.supervisor import Supervisor, tls_of
    from vividcover.settings import settings

    logging.basicConfig(level="WARNING", format="%(asctime)s %(name)s %(message)s")
    try:
        if public_url:
            os.environ["VIVIDCOVER_PUBLIC_URL"] = public_url  # for the children
            settings.cache_clear()
        chosen = settings()
        certificate = tls_of(tls, chosen, [host])
        supervisor = Supervisor(chosen, host, port, workers, certificate, on_ready=lambda url: _greet(url, certificate))
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, supervisor.stop)
        supervisor.run()
    except VividCoverError as error:
        fail(error, False)


def _greet(url: str, certificate: Any) -> None:
    typer.echo(f"vividcover serves {url} (the API: {url}/v1)", err=True)
    if certificate and certificate.ca:
        typer.echo(
            f"Clients trust it with SSL_CERT_FILE={certificate.ca} NODE_EXTRA_CA_CERTS={certificate.ca}", err=True
        )
    typer.echo('Tokens: vividcover token create --scope "read write train"', err=True)


def worker(
    device: Annotated[
        str, typer.Option("--device", help="Which runs it takes: those for any device, or this.")
    ] = "cpu",
) -> None:
    """Work off runs, and nothing else.

    Those of the same database, beside the workers of `vividcover up`, here or on another machine.
    """
    import logging

    from vividcover.runs.worker import Worker
    from vividcover.settings import settings

    logging.basicConfig(level="WARNING", format="%(asctime)s %(name)s %(message)s")
    try:
        Worker(settings(), device).work()
    except VividCoverError as error:
        fail(error, False)
