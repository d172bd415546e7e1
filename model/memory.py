"""Memory of the process."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGE = 1 << 30, 1 << 25  # bytes; older versions of glibc refuse what is above 32 MiB


def keep_freed_memory() -> None:
    """Let glibc keep large blocks for the next of their size, rather than hand each back to the system and ask for it
    anew, page by page, a hundred thousand a step: up to a fifth of a training's time. A process keeps its peak so.
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGE):
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
