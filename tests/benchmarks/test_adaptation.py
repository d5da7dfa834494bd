"""``ndt bench adaptation`` on a small simulation: a row for each strategy, and no run is repeated."""

import numpy as np
import pytest

from ndt.benchmarks import adaptation as module
from ndt.config import FinetuneConfig, ModelConfig, PretrainConfig, SimulateConfig, StudyConfig, TrainConfig
from ndt.data.stored_masks import VALID_MASKS

SMALL = ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8, num_stem_layers=1)
TRAIN = TrainConfig(steps=3, batch_size=4, valid_every=3)
STUDY = StudyConfig(
    pretrain=PretrainConfig(model=SMALL, train=TRAIN, window=1.0),
    finetune=FinetuneConfig(
        train=TRAIN, auxiliary="", max_lag=0.1, baselines=(), ensemble=("network", "ridge"), window=1.0
    ),
    label_seconds=(8.0,),
)


@pytest.mark.slow
def test_each_strategy_has_a_row_and_completed_runs_are_not_repeated(tmp_path, monkeypatch) -> None:
    tiny = SimulateConfig(
        num_subjects=1, num_units=12, num_electrodes=60, seconds=40.0, mean_rate_hz=15.0, persistence=0.5
    )
    monkeypatch.setattr(module, "CHANGED", tiny)
    rows = module.adaptation(tmp_path, 1, STUDY)
    plain = {f"adaptation.{strategy}.8s" for strategy in (*module.LABELLED, *module.UNLABELLED)}
    renamed = {f"adaptation.{strategy}.8s.renamed" for strategy in ("full", *module.UNLABELLED)}
    bits = {f"adaptation.bits.{kind}" for kind in VALID_MASKS}
    assert {row["name"] for row in rows} == plain | renamed | bits
    assert all(np.isfinite(row["value"]) for row in rows)
    peers = {(row["name"] in bits, row["peer"]) for row in rows}
    assert peers == {(False, "ridge"), (True, "smoother"), (True, "mean_response")}
    by_name = {row["name"]: row for row in rows}
    assert by_name["adaptation.none.8s"]["train_seconds"] == [0.0]
    assert by_name["adaptation.full.8s"]["train_seconds"][0] > 0
    monkeypatch.setattr("ndt.finetune.adapt.finetune", lambda *_, **__: pytest.fail("a run is repeated"))
    assert module.adaptation(tmp_path, 1, STUDY) == rows
