"""Timing of rivals in turns, the rows that come of it, and the machine that they depend on."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["device", "hardware", "interleaved", "row", "run_folder"]


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


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Times calls in turns, A B C A B C …, so that a machine's slower minutes fall on all of them alike.

    Arguments:
        calls: What to time, by name.
        repeats: Rounds that count.
        warmup: Rounds before them that do not.
        clock: Seconds at the moment; by default wall time once the GPU, if any, is idle.

    Returns:
        Seconds of each call in each round, by name.
    """
    now = clock or _wall
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + repeats):
        for name, call in calls.items():
            begin = now()
            call()
            if turn >= warmup:
                seconds[name].append(now() - begin)

    return seconds


def _wall() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # kernels run on after their call returns

    return time.perf_counter()


def row(
    name: str, values: Sequence[float], unit: str, peer: str | None = None, peer_values: Sequence[float] = ()
) -> dict[str, Any]:
    """Returns one row of a benchmark: medians, their ratio, and the largest minus the smallest value.

    Arguments:
        name: What was measured.
        values: One a repeat or seed.
        unit: Their unit.
        peer: What it is measured against, in the same run; None for nothing.
        peer_values: The peer's values, in the same unit.
    """
    value = statistics.median(values)
    against = statistics.median(peer_values) if len(peer_values) else None

    return {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "peer_value": against,
        "ratio": value / against if against is not None and against > 0 else None,  # controls are at 0
        "spread": max(values) - min(values),
        "values": list(values),
        "peer_values": list(peer_values),
    }


@contextmanager
def run_folder(out: str) -> Iterator[Path]:
    """Yields the folder for a benchmark's runs; without a name, one that is removed."""
    if out:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
