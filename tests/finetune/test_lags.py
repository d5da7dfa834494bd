"""A lag is chosen on validation, on the same bins for all, and is the one that was put in."""

from dataclasses import replace

import numpy as np
import pytest
from problems import recording

from ndt.config import FinetuneConfig
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.errors import InputError
from ndt.finetune.session_labels import choose_lag
from ndt.intervals import Intervals
from ndt.session import Covariate, Spikes

LAGS = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15)
CONFIG = FinetuneConfig(max_lag=0.05)  # no history that could make up for another lag


def lagged_recording(lag, observed=((0.0, 60.0),), seed=0):
    """Ten units whose rates were the covariate `lag` seconds later; the covariate is new in every bin."""
    session, rng = recording(observed, num_units=10, rate_hz=0.01), np.random.default_rng(seed)
    times = np.arange(-20, 1300) * 0.05 + 0.025
    values = rng.standard_normal((len(times), 1))
    weights = rng.uniform(0.5, 1.5, (1, 10))
    counts = rng.poisson(np.exp(0.8 * values * weights))
    bins, units = np.nonzero(counts)
    spikes = np.repeat(times[bins] - lag, counts[bins, units])
    keep = session.observed.contains(spikes)
    order = np.argsort(spikes[keep], kind="stable")
    series = Covariate(name="vel", path="vel", timestamps=times, values=values, dims=("v",), unit="m/s")

    return replace(
        session,
        spikes=Spikes(timestamps=spikes[keep][order], unit_index=np.repeat(units, counts[bins, units])[keep][order]),
        covariates={"vel": series},
    )


@pytest.mark.parametrize("lag", [-0.05, 0.0, 0.1])
def test_the_true_lag_is_chosen(lag) -> None:
    binned = BinnedSession(lagged_recording(lag), 0.05, 1.0)
    found, scores = choose_lag(binned, "vel", LAGS, binned.split == TRAIN, CONFIG)
    assert found == lag
    assert list(scores) == list(LAGS)
    assert scores[lag] > 0.5
    assert max(score for other, score in scores.items() if other != lag) < 0.1


def test_the_lag_score_is_the_mean_over_parts() -> None:
    session = lagged_recording(0.1)
    vel = session.covariates["vel"]
    dims = [replace(vel, name=f"v{i}", path=f"v{i}", values=vel.values * i) for i in (1, 2)]
    noise = replace(vel, name="noise", values=np.random.default_rng(1).standard_normal(vel.values.shape))
    binned = BinnedSession(replace(session, covariates={c.name: c for c in (*dims, noise)}), 0.05, 1.0)
    _, alone = choose_lag(binned, "v1", LAGS, binned.split == TRAIN, CONFIG)
    _, noisy = choose_lag(binned, ["noise"], LAGS, binned.split == TRAIN, CONFIG)
    _, both = choose_lag(binned, "v1,v2,noise", LAGS, binned.split == TRAIN, CONFIG)
    for lag in LAGS:
        np.testing.assert_allclose(both[lag], (2 * alone[lag] + noisy[lag]) / 3, atol=1e-6)


def test_the_lag_ignores_the_test_split() -> None:
    session = lagged_recording(0.05)
    binned = BinnedSession(session, 0.05, 1.0)
    series = session.covariates["vel"]
    late = series.timestamps >= binned.splits.test.start[0]
    values = np.where(late[:, None], 100.0, series.values)
    other = BinnedSession(replace(session, covariates={"vel": replace(series, values=values)}), 0.05, 1.0)
    assert (binned.split == TEST).any()
    assert choose_lag(other, "vel", LAGS, binned.split == TRAIN, CONFIG) == choose_lag(
        binned, "vel", LAGS, binned.split == TRAIN, CONFIG
    )


def test_all_lags_are_scored_on_the_bins_that_have_a_label_at_every_lag() -> None:
    """Validation has two segments, one shorter than the lags reach: it counts for none of them."""
    observed = ((0.0, 40.0), (40.5, 47.0), (47.5, 47.7), (48.2, 60.0))
    session = lagged_recording(0.05, observed)
    blocks = Intervals([0.0, 40.5, 48.2], [40.0, 47.9, 60.0], {"block": np.array(["train", "valid", "test"])})
    binned = BinnedSession(replace(session, intervals={"split": blocks}), 0.05, 0.0)
    short = (binned.start >= 47.5) & (binned.start < 47.7)
    assert short.sum() == 4
    assert set(binned.split[short]) == {VALID}
    _, scores = choose_lag(binned, "vel", LAGS, binned.split == TRAIN, CONFIG)
    series = session.covariates["vel"]
    wild = np.where(((series.timestamps > 47.4) & (series.timestamps < 47.8))[:, None], 1e3, series.values)
    other = replace(binned.session, covariates={"vel": replace(series, values=wild)})
    again = choose_lag(BinnedSession(other, 0.05, 0.0), "vel", LAGS, binned.split == TRAIN, CONFIG)[1]
    assert again == scores
    labels = build_targets(other, "vel", binned.start, 0.05, split=binned.split).values
    assert labels[short].max() == 1e3


def test_lags_longer_than_segments_are_refused() -> None:
    observed = [(float(a), a + 0.2) for a in range(60)]
    binned = BinnedSession(lagged_recording(0.0, observed), 0.05, 0.2)
    with pytest.raises(InputError, match=r"lag of vel: expected at least 10 .* \(try shorter lags\), found 0"):
        choose_lag(binned, "vel", LAGS, binned.split == TRAIN, CONFIG)
