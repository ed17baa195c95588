"""A worker's process: `python -m vividcover.runs.start_worker [DEVICE]`. It ends when the supervisor is gone."""

from __future__ import annotations

import logging
import sys


def main(device: str = "cpu") -> None:
    from vividcover.errors import VividCoverError
    from vividcover.runs import lifeline
    from vividcover.runs.worker import Worker
    from vividcover.settings import settings

    logging.basicConfig(level="WARNING", format="%(asctime)s %(name)s %(message)s")
    lifeline.hold()
    try:
        Worker(settings(), device).work()
    except VividCoverError as error:
        logging.getLogger("vividcover.worker").error("%s", error)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main(*sys.argv[1:2])
