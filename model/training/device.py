"""What the device can do, and how the process keeps its memory."""

import ctypes

import torch

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


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 instructions: a CPU without them emulates bf16, many times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)
