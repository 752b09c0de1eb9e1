"""How this process uses the machine that it runs on: settings of the C library and of JAX's CPU client, memory."""

import ctypes
import os
from pathlib import Path

import jax

# glibc's names of mallopt's parameters (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def tune_for_cpu() -> None:
    """Makes a step on the CPU reuse the last step's memory. To be called before the first array is made.

    XLA's CPU client asks for a step's temporaries, .7 GB for `small`, anew in each step; glibc would give them back
    to the kernel and have them cleared page by page: 200,000 page faults and a seventh of the step. So freed memory
    is kept. Steps are dispatched from the calling thread because what other threads free cannot be kept this way.
    Without glibc only the dispatch changes; beside another device, only the host's own memory is kept.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def resident_bytes() -> int | None:
    """The memory that this process holds at the moment; None where the system does not say."""
    pages = Path("/proc/self/statm")  # of Linux: total, resident, …
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.is_file() else None
