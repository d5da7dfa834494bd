"""Stored masks: what stands beside a model's bits per spike, and what it is computed from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import busy_model, grid_of, recording, specification, with_means
from realdata import real_file

from ndt.data.activity import unit_activity
from ndt.data.ingest import ingest
from ndt.data.stored_masks import (
    VALID_MASKS,
    _lags,
    _References,
    _spans,
    masked_likelihood,
    session_likelihood,
    valid_windows,
)
from ndt.data.windows import TEST, TRAIN, BinnedSession, TrainingData
from ndt.errors import InputError
from ndt.evaluation.metrics import bits_per_spike
from ndt.intervals import Intervals
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.session import Session, Spikes

REFERENCES = ("smoother", "mean_response")


def in_trials(num_trials: int = 60, seed: int = 0, modulated: bool = True) -> Session:
    """Trials of 0.8 s each second, observed all the time; rates rise and fall in each, and drift slowly."""
    rng, base = np.random.default_rng(seed), recording([(0.0, float(num_trials))], num_units=6)
    time = np.arange(0, num_trials, 0.01)
    phase = rng.random(6) * 6
    log_rate = 2.0 * np.sin(2 * np.pi * (time % 1)[:, None] + phase) * modulated + np.sin(time[:, None] / 3 + phase)
    counts = rng.poisson(0.1 * np.exp(log_rate))
    row, unit = np.nonzero(counts)
    times = np.repeat(time[row] + 0.005, counts[row, unit])
    start = np.arange(num_trials, dtype=float)
    spikes = Spikes(timestamps=times, unit_index=np.repeat(unit, counts[row, unit]))

    return replace(base, spikes=spikes, intervals={"trials": Intervals(start, start + 0.8)})


def model_of(sessions: list[Session]) -> NDT:
    """An untrained model that predicts each unit's mean count of its train split."""
    model = NDT(specification(sessions, dims=0))
    for session in sessions:
        binned = grid_of(session)
        model.observe(session, unit_activity(binned, binned.split == TRAIN))
    with torch.no_grad():  # without recent counts
        model.rates.own.copy_(torch.tensor([0.0, -9.0, -9.0, -9.0]))
    return model


def data_of(session: Session) -> TrainingData:
    """A session's train split, with the activity of its units there."""
    binned = grid_of(session)
    train, rows = binned.split == TRAIN, Vocabulary().extend([session]).rows(session)

    return TrainingData(binned, train, rows, unit_activity(binned, train))


def test_lags_are_bins_since_the_start_of_the_trial() -> None:
    session = recording([(0.0, 30.0)])
    far = 100.0 + np.arange(8)  # at least ten trials
    trials = Intervals([1.0, 0.1, 10.02, *far], [1.2, 0.25, 10.2, *(far + 0.5)])  # rows in any order
    lag = _lags(grid_of(replace(session, intervals={"trials": trials})))
    expected = np.full(len(lag), -1)
    expected[2:5], expected[20:24], expected[200:204] = [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]
    np.testing.assert_array_equal(lag, expected)
    assert (_lags(grid_of(session)) == -1).all()
    assert (_lags(grid_of(recording([(4.0 * i, 4.0 * i + 3.5) for i in range(9)]))) == -1).all()
    segments = grid_of(recording([(4.0 * i, 4.0 * i + 3.0) for i in range(12)]))
    np.testing.assert_array_equal(_lags(segments), segments.place)


def test_a_trials_response_surpasses_the_mean_rate_and_the_smoother_follows_drift() -> None:
    found = session_likelihood(model_of([session := in_trials()]), grid_of(session))
    for kind in VALID_MASKS:
        assert found[f"{kind}/bits_per_spike_mean_response"] > 0.2
    for kind in ("random", "forward"):
        assert found[f"{kind}/bits_per_spike_smoother"] > 0.02
    assert found["unit/bits_per_spike_smoother"] == 0  # the counts of hidden units are not read
    flat = session_likelihood(model_of([session := in_trials(modulated=False)]), grid_of(session))
    assert abs(flat["bits_per_spike_mean_response"]) < 0.02


def test_references_stand_for_the_same_entries_as_the_model() -> None:
    """A model that predicts constant rates has the null likelihood, and pooled bits are those of pooled sums."""
    session = in_trials()
    model, binned = model_of([session]), grid_of(session)
    stored = valid_windows([data_of(session)], 20, split=TEST, references=True)
    found = session_likelihood(model, binned)
    np.testing.assert_allclose(found["nll"], found["null_nll"], rtol=1e-5)
    for prefix, chosen in {"": stored, **{f"{k}/": [v for v in stored if v.kind == k] for k in VALID_MASKS}}.items():
        spikes = sum(v.window.counts[v.window.hidden & v.window.valid].sum() for v in chosen)
        for name in REFERENCES:
            own, null = (sum(v.reference_nll[of] for v in chosen) for of in (name, "mean"))
            np.testing.assert_allclose(found[f"{prefix}bits_per_spike_{name}"], bits_per_spike(own, null, spikes))


def test_references_are_fitted_on_the_train_split_only() -> None:
    session = in_trials()
    binned = grid_of(session)
    train = binned.split == TRAIN
    early = session.spikes.timestamps < binned.start[train].max() + 0.05
    assert early.sum() < 0.8 * len(early)
    spikes = Spikes(
        timestamps=np.r_[session.spikes.timestamps[early], np.linspace(50.0, 59.0, 3000)],
        unit_index=np.r_[session.spikes.unit_index[early], np.zeros(3000, int)],
    )
    found = []
    for each in (session, replace(session, spikes=spikes)):
        found.append(_References(data_of(each), list(_spans(binned, train, 20))))
    one, other = found
    assert one.smoothers == other.smoothers
    np.testing.assert_array_equal(one.mean, other.mean)
    assert one.response is not None
    assert other.response is not None
    np.testing.assert_array_equal(one.response.by_lag, other.response.by_lag)


def test_mean_responses_are_those_of_their_units_whatever_their_order() -> None:
    session = in_trials()
    binned, rows = grid_of(session), Vocabulary().extend([session]).rows(session)
    assert (rows.order != np.arange(6)).any()
    train = binned.split == TRAIN
    spans = list(_spans(binned, train, 20))
    found, lag, counts = _References(data_of(session), spans), _lags(binned), binned.all_counts()
    means = np.stack([counts[train & (lag == k)].mean(0) for k in range(16)])[:, rows.order]
    trials = np.array([(train & (lag == k)).sum() for k in range(16)])[:, None]
    assert found.response is not None
    shrunk = (trials * means + found.response.weight * found.mean) / (trials + found.response.weight)
    np.testing.assert_allclose(found.response.by_lag[:16], shrunk, rtol=1e-6)


def test_the_mean_response_is_absent_where_a_session_has_no_trials() -> None:
    one, other = in_trials(), recording([(0.0, 60.0)], name="sub-a_ses-2", num_units=4)
    model = model_of([one, other])
    assert "bits_per_spike_mean_response" not in session_likelihood(model, grid_of(other))
    assert "bits_per_spike_mean_response" in session_likelihood(model, grid_of(one))
    both = masked_likelihood(model.eval(), valid_windows([data_of(one), data_of(other)], 20, references=True))
    assert "bits_per_spike_smoother" in both
    assert not any("mean_response" in name for name in both)


def test_masks_do_not_depend_on_other_sessions_and_the_models_mode_stays() -> None:
    one, other = in_trials(), recording([(0.0, 60.0)], name="sub-a_ses-2", num_units=4)
    model = with_means(busy_model(specification([one, other], dims=0)), np.full(6, 0.3)).train()
    before = torch.get_rng_state()
    found = [session_likelihood(model, grid_of(one)) for _ in range(2)]
    assert model.training
    np.testing.assert_array_equal(torch.get_rng_state().numpy(), before.numpy())  # no dropout
    assert found[0] == found[1]
    together = valid_windows([data_of(one), data_of(other)], 20, split=TEST)
    alone = {(v.kind, v.window.index): v for v in valid_windows([data_of(one)], 20, split=TEST)}
    same = [v for v in together if v.window.session == one.session_id]
    assert len(same) == len(alone)
    for stored in same:
        assert (grid_of(one).split[slice(*stored.window.index)] == TEST).all()
        np.testing.assert_array_equal(stored.window.hidden, alone[stored.kind, stored.window.index].window.hidden)


def test_a_session_of_another_bin_width_or_without_windows_is_refused() -> None:
    session = in_trials()
    model = model_of([session])
    with pytest.raises(InputError, match="bin width"):
        session_likelihood(model, BinnedSession(session, 0.1, 1.0))
    binned = grid_of(session)
    binned.split[binned.split == TEST] = 0
    with pytest.raises(InputError, match="unbroken run"):
        session_likelihood(model, binned)


@pytest.mark.slow
def test_references_of_a_real_recording(tmp_path) -> None:
    store = ingest(real_file("sub-s1/*.nwb"), tmp_path, progress=False)
    session = store.session(store.session_ids[0])
    found = session_likelihood(model_of([session]), grid_of(session))
    assert 0.04 < found["random/bits_per_spike_smoother"] < 0.07
    assert 0 < found["random/bits_per_spike_mean_response"] < 0.02
