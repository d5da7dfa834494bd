"""What every test shares: one thread, no deadline, and the real recordings where there are any."""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch load: two workers of two threads are slower than of one
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

settings.register_profile("ndt", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


@pytest.fixture(scope="session")
def sim_truth(tmp_path_factory):
    """Two simulated recordings of one subject, 100 s each, and what is true of them."""
    from ndt.config import SimulateConfig
    from ndt.data.simulate.recordings import simulate

    config = SimulateConfig(
        num_subjects=1, num_sessions=2, num_units=32, num_electrodes=40, seconds=100.0, mean_rate_hz=15.0, workers=1
    )
    return simulate(tmp_path_factory.mktemp("recordings"), config)


@pytest.fixture(scope="session")
def sim_store(sim_truth, tmp_path_factory):
    """Both recordings, ingested."""
    from ndt.config import IngestConfig
    from ndt.data.ingest import ingest

    folder = tmp_path_factory.mktemp("store") / "store"
    return ingest([s.path for s in sim_truth], folder, IngestConfig(workers=1), progress=False)


@pytest.fixture(scope="session")
def sim_base(sim_store, tmp_path_factory):
    """A run directory: a small model pretrained on the first recording; the second it has never seen."""
    from ndt.config import MaskConfig, ModelConfig, PretrainConfig, TrainConfig
    from ndt.pretrain.train import pretrain

    config = PretrainConfig(
        model=ModelConfig(
            width=48,
            num_layers=2,
            num_heads=2,
            units_per_patch=32,
            unit_width=16,
            num_stem_layers=2,
            dropout=0.0,
            drop_path=0.0,
            count_dropout=0.0,
        ),  # dropout is drawn by each process for itself
        train=TrainConfig(steps=200, batch_size=16, learning_rate=3e-3, ema=0.98, valid_every=50, warmup_steps=20),
        mask=MaskConfig(ratio=0.5, kinds=("random",), share=1.0),
        masked_weight=0.5,
        unit_dropout=0.0,
        residual_dropout=0.0,
        embedding_lr_scale=10.0,
        window=1.0,
        sessions=(sim_store.session_ids[0],),
    )
    out = tmp_path_factory.mktemp("base") / "run"
    pretrain(sim_store, out, config, progress=False)
    return out
