"""Memory that loader workers keep instead of handing it back to the kernel after every image."""

from __future__ import annotations

import ctypes

# mallopt's names for the thresholds, in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 1 << 28


def keep_memory(_: int = 0) -> None:
    """A `worker_init_fn`: reuse the pages of full-size images, where the C library is glibc.

    By default glibc maps every large array anew and unmaps it when it goes, and faulting thousands of fresh pages in
    takes a quarter of the time of reading a raw radiograph.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _LARGEST_KEPT)
