"""One BLAS thread: sums that are split over other numbers of cores end in other last digits.

A cover must be the same bytes on two cores as on sixteen; the stages use the cores themselves, in ways that keep order.
"""

from __future__ import annotations


def one_blas_thread() -> None:
    """Holds every BLAS that this process has loaded at one thread, from now on."""
    import numpy  # noqa: F401  (a library that is loaded later would not be held)
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")
