"""`ndt evaluate`: the scores of metrics.json again from files alone, on other sessions, and within masks."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ndt.cli import main
from ndt.config import FinetuneConfig, ModelConfig, TrainConfig
from ndt.data.activity import unit_activity
from ndt.data.store import Store
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.finetune.adapt import finetune
from ndt.finetune.scoring import evaluate, scored_rows
from ndt.intervals import Intervals

CONFIG = FinetuneConfig(
    train=TrainConfig(steps=6, batch_size=4, valid_every=3, learning_rate=3e-3, ema=0.0),
    model=ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=32, unit_width=8, num_stem_layers=2),
    window=1.0,
    max_lag=0.3,
    auxiliary="",
    baselines=("ridge",),
    ensemble=("network", "ridge"),
)


@pytest.fixture(scope="module")
def run(sim_store, sim_truth, tmp_path_factory):
    """A decoder of the first day."""
    out = tmp_path_factory.mktemp("evaluate") / "run"
    return finetune(
        None, sim_truth[0].session_id, "cursor_vel", out=out, config=CONFIG, store=sim_store, progress=False
    )


def test_scores_on_the_test_split_equal_those_after_training(run) -> None:
    found = evaluate(run.run)
    metrics = json.loads((run.run / "metrics.json").read_text())
    for part in ("test", "network"):
        for key in ("r2", "rmse", "correlation", "num_bins"):
            np.testing.assert_allclose(found[part][key], metrics[part][key], rtol=1e-4)
    np.testing.assert_allclose(found["baselines"]["ridge"]["r2"], metrics["baselines"]["ridge"]["r2"], rtol=1e-6)
    np.testing.assert_allclose(
        found["test"]["interval_coverage_90"], metrics["test"]["interval_coverage_90"], atol=1e-3
    )
    assert found["weights"] == metrics["weights"]
    assert found["missing_units"] == []


def test_another_day_is_scored_whole_and_lists_missing_units(run, sim_store, sim_truth) -> None:
    found = evaluate(run.run, sim_truth[1].session_id)
    session = sim_store.session(sim_truth[1].session_id)
    spec = run.model.spec
    assert found["split"] == "all"
    assert found["test"]["num_bins"] == len(BinnedSession(session, spec.bin_size, spec.bin_size * spec.window_bins))
    own = set(map(str, sim_store.session(sim_truth[0].session_id).units.id))
    assert set(found["missing_units"]) == own - set(map(str, session.units.id))


def test_units_of_another_day_are_measured_in_its_training_split(run, sim_truth, monkeypatch) -> None:
    seen = []

    def measured(binned, chosen):
        seen.append(chosen)
        np.testing.assert_array_equal(chosen, binned.split == TRAIN)
        return unit_activity(binned, chosen)

    monkeypatch.setattr("ndt.finetune.scoring.unit_activity", measured)
    evaluate(run.run, sim_truth[1].session_id)
    assert len(seen) == 1


def test_a_mask_selects_bins_by_their_start_centre_or_end(run, sim_store, sim_truth, monkeypatch) -> None:
    session = sim_store.session(sim_truth[0].session_id)
    binned = BinnedSession(session, run.model.spec.bin_size, 1.0)
    inside = binned.start[binned.split == TEST][10:31:20]
    table = Intervals([inside[0]], [inside[1]])
    masked = replace(session, intervals={**session.intervals, "eval_mask": table})
    monkeypatch.setattr(Store, "session", lambda *_: masked)
    assert evaluate(run.run, mask="eval_mask@start")["test"]["num_bins"] == 20
    binned = BinnedSession(masked, run.model.spec.bin_size, 1.0)
    by_place = [np.flatnonzero(scored_rows(binned, f"eval_mask{at}")) for at in ("@start", "", "@end")]
    first = int(np.flatnonzero(binned.start == inside[0])[0])
    assert [int(rows[0]) for rows in by_place] == [first, first, first - 1]
    assert len({len(rows) for rows in by_place}) == 1
    with pytest.raises(InputError, match=r"mask: expected one of .*eval_mask.*, found 'other'"):
        evaluate(run.run, mask="other")


def test_models_without_decoder_and_unknown_splits_are_refused(run, sim_base, sim_truth, capsys) -> None:
    assert main(["evaluate", str(run.run), "--split", "future"]) == 2
    assert "split: expected one of train, valid, test, all, found 'future'" in capsys.readouterr().err
    assert main(["evaluate", str(sim_base), "--session", sim_truth[0].session_id]) == 2
    assert "ensemble.json" in capsys.readouterr().err
    assert main(["evaluate", str(run.run), "--nlb", "mc_maze"]) == 2
    assert "--session" in capsys.readouterr().err


def test_a_session_without_labels_is_refused(run, sim_store, sim_truth, monkeypatch) -> None:
    session = sim_store.session(sim_truth[0].session_id)
    series = session.covariates["cursor_vel"]
    silent = replace(series, values=np.full_like(series.values, np.nan))
    covariates = {**session.covariates, "cursor_vel": silent}
    monkeypatch.setattr(Store, "session", lambda *_: replace(session, covariates=covariates))
    with pytest.raises(InputError, match="labels: expected at least 10 bins with a label of cursor_vel"):
        evaluate(run.run)


def test_the_command_prints_scores_and_writes_them(run, capsys, tmp_path) -> None:
    out = tmp_path / "scores.json"
    assert main(["evaluate", str(run.run), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "network alone" in shown
    assert "90 % intervals contain" in shown
    assert json.loads(out.read_text())["split"] == "test"


def test_a_decoder_without_baselines_is_scored(run, sim_store, sim_truth, tmp_path) -> None:
    """As one that was adapted without labels: no ridge lies beside it."""
    config = replace(CONFIG, ensemble=("network",))
    name = sim_truth[0].session_id
    found = finetune(None, name, "cursor_vel", out=tmp_path / "run", config=config, store=sim_store, progress=False)
    again = evaluate(found.run)
    np.testing.assert_allclose(again["test"]["r2"], found.metrics["network"]["r2"], rtol=1e-4)
    assert (again["weights"], again["baselines"]) == ({"network": 1.0}, {})
    assert "over_reference" not in again["test"]
