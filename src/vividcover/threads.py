"""One BLAS thread: sums that are split over other numbers of cores end in other last digits.

A cover must be the same bytes on two cores as on sixteen; the stages use the cores themselves, in ways that keep order.
"""

from __future__ import annotations

import sys


def one_blas_thread() -> None:
    """Holds every BLAS that this process has loaded at one thread, from now on."""
    import numpy  # noqa: F401  (a library that is loaded later would not be held)
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")


def as_chosen() -> None:
    """Has torch compute in this thread with as many as `tensors.use_threads` chose; for a thread before it computes.

    A new thread learns that number from its first loop that is split, and until then multiplies matrices on all cores:
    its first sums would end in other last digits than the same sums later on.
    """
    torch = sys.modules.get("torch")
    learn = getattr(torch, "get_num_threads", None)  # None: not imported, or another thread is about to
    if learn is not None:
        learn()
