"""What the machine is, and what it can do at best."""

import math
import os
import platform
import time
from typing import Any

import torch

__all__ = ["device", "gemm_peak", "hardware", "sheet_peak"]

PATIENCE = 2.0  # seconds that one product may take
SHAPES = (
    (256, 256, 256),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 256, 1024),
    (4096, 1024, 256),
    (8192, 256, 256),
)
GPU_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096))  # a GPU needs more work to be busy
SHEETS = {"H200": 989.5e12, "H100 80GB HBM3": 989.5e12, "H100 PCIe": 756e12, "A100": 312e12}  # dense bf16, FLOP/s


def device() -> torch.device:
    """Returns the device that benchmarks run on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> dict[str, Any]:
    """Returns what a figure depends on."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def gemm_peak(dtype: torch.dtype, shapes: tuple[tuple[int, int, int], ...] = SHAPES, seconds: float = 0.2) -> float:
    """Returns the best rate of matrix products (m x k) @ (k x n) over some shapes, in FLOP/s.

    Arguments:
        dtype: Of the matrices.
        shapes: (m, k, n) of each product; a model adds its own.
        seconds: How long to repeat each; its fastest run counts.
    """
    where, best = device(), 0.0
    for m, k, n in sorted((*shapes, *(GPU_SHAPES if where.type == "cuda" else ())), key=math.prod):
        if best and 2 * m * k * n / best > PATIENCE:  # bf16 without instructions for it runs at a hundredth
            break
        a, b = torch.randn(m, k, device=where).to(dtype), torch.randn(k, n, device=where).to(dtype)
        out = torch.empty(m, n, device=where, dtype=dtype)  # reused: not the cost of new pages
        torch.mm(a, b, out=out)  # the first call chooses a kernel
        end, fastest = time.perf_counter() + seconds, float("inf")
        while time.perf_counter() < end:
            fastest = min(fastest, _seconds(a, b, out))
        best = max(best, 2 * m * k * n / fastest)

    return best


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    torch.mm(a, b, out=out)
    if a.is_cuda:
        torch.cuda.synchronize()

    return time.perf_counter() - begin


def sheet_peak(dtype: torch.dtype) -> float | None:
    """Returns the GPU's dense rate by its data sheet, in FLOP/s; None where we know of none."""
    if not torch.cuda.is_available() or dtype != torch.bfloat16:
        return None
    found = torch.cuda.get_device_name()

    return next((peak for name, peak in SHEETS.items() if name in found), None)
