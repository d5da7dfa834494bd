"""What every test shares: one thread, no deadline, and the real recordings where there are any."""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch load: two workers of two threads are slower than of one
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

settings.register_profile("ndt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ndt")

ROOT = Path(__file__).resolve().parents[1]


def _shaped() -> list[str]:
    """Returns the modules that state shapes in their signatures."""
    files = [path for room in ("ndt", "data", "pretrain", "finetune") for path in (ROOT / room).glob("*.py")]
    named = [path.relative_to(ROOT).with_suffix("").parts for path in files if "jaxtyping import" in path.read_text()]

    return [".".join(parts if parts[0] == "ndt" else ("ndt", *parts)) for parts in named]


_hook = install_import_hook(_shaped(), "beartype.beartype")  # checked under pytest only: users pay nothing


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One torch thread, where torch is loaded at all."""
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings: NDT_DATA, by default ../shared/data beside the checkout."""
    folder = Path(os.environ.get("NDT_DATA", ROOT.parent / "shared" / "data"))
    if not any(folder.glob("sub-*/*.nwb")):
        pytest.skip(f"no real recordings in {folder}; NDT_DATA names their folder")

    return folder
