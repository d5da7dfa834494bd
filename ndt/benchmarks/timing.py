"""Interleaved timing, the rows of a benchmark, and the hardware that they depend on."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

__all__ = ["device", "hardware", "interleaved", "row", "run_folder"]


def device() -> torch.device:
    """Returns the device that benchmarks run on: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> dict[str, Any]:
    """Returns the hardware and the versions that timings depend on."""
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
    """Times calls in turns, A B C A B C …, and returns the seconds of each call in each round, by name.

    Slower minutes of the machine then affect all calls equally.

    Arguments:
        calls: The calls by name.
        repeats: Timed rounds.
        warmup: Untimed rounds before them.
        clock: Returns the time in seconds; by default wall time once the GPU, if any, is idle.
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
    """Returns a row of a benchmark: medians, their ratio, and the spread (largest minus smallest value).

    Arguments:
        name: Name of the row.
        values: One per repeat or seed.
        unit: Unit of the values.
        peer: Name of the peer, measured in the same run; None for a row without one.
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
        "ratio": value / against if against is not None and against > 0 else None,  # a control may score 0
        "spread": max(values) - min(values),
        "values": list(values),
        "peer_values": list(peer_values),
    }


@contextmanager
def run_folder(out: str) -> Iterator[Path]:
    """Yields the folder for a benchmark's runs: `out`, or a temporary one if that is empty."""
    with nullcontext(out) if out else tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
