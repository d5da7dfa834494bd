"""``ndt bench recordings``: the runs that it starts, and the rows that it makes of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from ndt.benchmarks import recordings as bench
from ndt.config import BASELINES, FinetuneConfig, StudyConfig
from ndt.errors import InputError


def metrics(seed: int, fold: int, seconds: float) -> dict:
    """Scores that depend on seed, fold and seconds."""
    r2 = 0.5 + 0.01 * seed + 0.001 * fold + 0.0001 * seconds
    test = {"r2": r2, "median_error_deg": 10 * r2, "adaptive_coverage_90": 0.9 + 0.01 * seed}
    test |= {"adaptive_coverage_90_error": 0.01, "interval_coverage_90": 0.8}
    ridge = {"r2": r2 - 0.2, "median_error_deg": 12.0}
    gated = {"left_out": "too few"} if seconds else {"r2": r2 - 0.1, "median_error_deg": 11.0}
    return {
        "test": test,
        "network": {"r2": r2 - 0.05, "median_error_deg": 9.0},
        "baselines": {"ridge": ridge, "ridge_time_gain": gated},
    }


@pytest.fixture
def started(monkeypatch):
    """Every run that the benchmark starts, as (base, folder, settings); nothing is trained."""
    found = []

    def decode(folder, base, session, target, store, config: FinetuneConfig) -> dict:
        found.append((base, folder, config))
        fold = int(config.split[5]) if config.split else 0
        return metrics(config.seed, fold, config.label_seconds)

    monkeypatch.setattr(bench, "finetuned", decode)
    monkeypatch.setattr(bench, "recorded", lambda name, out: SimpleNamespace(root=out / name, session_ids=[name]))
    monkeypatch.setattr(bench, "labelled_seconds", lambda *_: 100.0)
    monkeypatch.setattr(bench, "run_all", lambda jobs, *_: [job() for job in jobs])
    monkeypatch.setattr(
        bench, "pretrained_seeds", lambda _, out, config, n, workers: [out / f"seed{s}" for s in range(n)]
    )
    return found


def test_runs_are_folds_seeds_and_the_seconds_that_the_recording_has(started, tmp_path) -> None:
    study = StudyConfig(data=("A2929",), label_seconds=(30.0, 60.0, 120.0))
    bench.recordings(tmp_path, 2, study)
    settings = [(c.split, c.label_seconds, c.seed) for _, _, c in started]
    folds = [(f"fold:{k}/5", 0.0, seed) for k in range(1, 6) for seed in (0, 1)]
    assert settings == [*folds, *(("", t, seed) for t in (30.0, 60.0) for seed in (0, 1))]
    assert len({folder for _, folder, _ in started}) == len(started)
    assert {c.baselines for _, _, c in started if not c.label_seconds} == {BASELINES}
    assert {c.baselines for _, _, c in started if c.label_seconds} == {bench.FEWER}


def test_rows_are_paired_with_their_peers(started, tmp_path) -> None:
    rows = {r["name"]: r for r in bench.recordings(tmp_path, 3, StudyConfig(data=("m1",), label_seconds=(30.0,)))}
    whole = rows["m1.r2.ensemble"]
    np.testing.assert_allclose(whole["values"], [0.5, 0.51, 0.52])
    gated = [r for r in bench.recordings(tmp_path, 3, StudyConfig(data=("m1",))) if r["peer"] == "ridge_time_gain"]
    np.testing.assert_allclose([r["difference"] for r in gated], [0.1, 0.05])
    np.testing.assert_allclose(rows["m1.30s.r2.ensemble"]["difference"], 0.2)
    assert "m1.30s.r2.network" in rows
    np.testing.assert_allclose(rows["m1.coverage"]["worst_z"], 2.0)
    assert rows["m1.coverage"]["static"] == [0.8] * 3


def test_second_day_of_chewie_is_pretrained_on_the_first(started, tmp_path) -> None:
    study = StudyConfig(data=("chewie1", "chewie2"), label_seconds=(1000.0,))
    rows = {r["name"]: r for r in bench.recordings(tmp_path, 2, study)}
    bases = [base for base, folder, _ in started if "transfer" in folder.name]
    assert bases == [tmp_path / "chewie1" / "pretrain" / f"seed{s}" for s in (0, 1)]
    np.testing.assert_allclose(rows["chewie2.pretrained.network"]["difference"], 0.0, atol=1e-12)


def test_unknown_and_missing_recordings_are_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="data: expected some of m1, s1, chewie1"):
        bench.recordings(tmp_path, 1, StudyConfig(data=("m7",)))
    monkeypatch.setenv("NDT_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"NDT_DATA: expected one recording sub-m1/\*\.nwb, found 0"):
        bench.recordings(tmp_path, 1, StudyConfig(data=("m1",)))
