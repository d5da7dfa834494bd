"""What every test shares: one thread, no deadline, and the real recordings where there are any."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch: two workers with two threads each are slower than one each
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Shapes and types of public signatures are checked here and cost the user nothing.
_hook = install_import_hook("ndt", "beartype.beartype")

settings.register_profile("ndt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ndt")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """One torch thread, where torch is loaded at all."""
    import sys

    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings: NDT_DATA, by default ../shared/data beside the checkout."""
    folder = Path(os.environ.get("NDT_DATA", ROOT.parent / "shared" / "data"))
    if not any(folder.glob("sub-*/*.nwb")):
        pytest.skip(f"no real recordings in {folder}; NDT_DATA names their folder")

    return folder
