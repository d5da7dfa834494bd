from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ndt.errors import InputError
from ndt.evaluation.trial_rates import trial_rates
from ndt.intervals import Intervals
from ndt.model.tokens import ACTIVITY, Window, pack
from ndt.model.transformer import NDT
from ndt.session import Spikes
from ndt.spikes import observed_bins
from tests.problems import TINY, busy_model, permuted, recording, specification

START = np.array([1.0, 2.3, 4.05, 9.0, 20.0])
HELDOUT = np.array([False, True, False, False, True, False, False])


@pytest.fixture(scope="module")
def session():
    return recording(num_units=7)


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "bidirectional"])
def model(request, session):
    return busy_model(specification([session], config=replace(TINY, causal=request.param), window_bins=16))


def without(session, drop):
    """The session without the spikes that `drop` chooses of (times, units)."""
    times, unit = session.spikes.timestamps, session.spikes.unit_index
    keep = ~drop(times, unit)
    return replace(session, spikes=Spikes(timestamps=times[keep], unit_index=unit[keep]))


def rates(model, session, **changed):
    return trial_rates(model, session, START, 10, **{"forward": 4, "heldout": HELDOUT, **changed})


def test_hidden_counts_do_not_change_predictions(model, session):
    whole = rates(model, session)
    assert whole.shape == (5, 14, 7)
    assert np.isfinite(whole).all()
    assert (whole > 0).all()
    heldout = without(session, lambda t, n: HELDOUT[n])
    np.testing.assert_array_equal(rates(model, heldout), whole)
    seen = Intervals(START, START + 0.5)  # ten bins of 50 ms
    outside = without(session, lambda t, n: ~seen.contains(t))  # before, in the bins after, and between trials
    np.testing.assert_array_equal(rates(model, outside), whole)


def test_every_held_in_unit_and_every_bin_that_is_seen_is_read(model, session):
    whole = rates(model, session)
    for unit in np.flatnonzero(~HELDOUT):
        other = rates(model, without(session, lambda t, n, unit=unit: n == unit))
        assert (np.abs(other - whole).max((1, 2)) > 0).all()  # in every trial
    first = np.isin(session.spikes.unit_index, np.flatnonzero(~HELDOUT))
    for k in range(10):
        a, b = START[0] + 0.05 * k, START[0] + 0.05 * (k + 1)
        inside = first & (session.spikes.timestamps >= a) & (session.spikes.timestamps < b)
        if inside.any():
            other = rates(model, without(session, lambda t, n, a=a, b=b: (t >= a) & (t < b)))
            assert np.abs(other[0] - whole[0]).max() > 0
            np.testing.assert_array_equal(other[1:], whole[1:])


def test_rates_are_the_models_own_of_one_window(model, session):
    """By hand: trial 1, all entries valid, what is seen not hidden, units in the order of their names."""
    rows = model.vocabulary.rows(session)
    edges = START[1] + np.arange(15) * 0.05
    counts = np.stack(
        [np.histogram(session.spikes.timestamps[session.spikes.unit_index == n], edges)[0] for n in range(7)], 1
    )
    seen = np.zeros((14, 7), bool)
    seen[:10] = ~HELDOUT
    window = Window(
        counts=counts[:, rows.order].astype(np.uint8),
        valid=np.ones((14, 7), bool),
        hidden=~seen[:, rows.order],
        unit=rows.unit,
        context=rows.context,
    )
    batch = pack([window], 3)
    with torch.no_grad():
        log_rates = model.log_rates(batch, model.encode(batch), every=True)
        hidden = model(batch).log_rates  # of the tokens of which something is hidden, as in training
    expected = np.zeros((14, 7))
    for i in range(batch.num_tokens):
        for p in range(3):
            if (n := 3 * int(batch.slot[i]) + p) < 7:
                expected[int(batch.time[i]), rows.order[n]] = float(log_rates[i, p].exp())
    np.testing.assert_allclose(rates(model, session)[1], expected, rtol=1e-4)
    torch.testing.assert_close(log_rates[batch.predicted], hidden)


def test_batches_do_not_matter(model, session):
    whole = rates(model, session)
    for batch_size in (1, 2, 5):
        np.testing.assert_allclose(rates(model, session, batch_size=batch_size), whole, rtol=1e-4)
    alone = trial_rates(model, session, START[3:4], 10, forward=4, heldout=HELDOUT)
    np.testing.assert_allclose(alone[0], whole[3], rtol=1e-4)


def test_units_listed_in_another_order_have_the_same_rates(model, session):
    order = np.random.default_rng(0).permutation(7)
    other = trial_rates(model, permuted(session, order), START, 10, forward=4, heldout=HELDOUT[order])
    np.testing.assert_allclose(other, rates(model, session)[:, :, order], rtol=1e-4)


def test_a_new_model_predicts_the_mean_counts_of_the_activity_it_is_given(session):
    """Column 0 of the activity, where it sees nothing of a unit; by default the activity that it has observed."""
    fresh = NDT(specification([session], config=TINY, window_bins=16)).eval()
    activity = np.random.default_rng(0).standard_normal((7, len(ACTIVITY))).astype(np.float32)
    activity[:, 0] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    found = trial_rates(fresh, session, START, 10, heldout=HELDOUT, activity=activity)
    expected = np.broadcast_to(activity[:, 0], found.shape)
    np.testing.assert_allclose(found[..., HELDOUT], expected[..., HELDOUT], rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)  # nor of any unit before the first bin
    own = trial_rates(fresh.observe(session, activity), session, START, 10, heldout=HELDOUT)
    np.testing.assert_array_equal(own, found)


def test_activity_tells_the_model_which_unit_is_which(model, session):
    """A trained model reads other rates from the same spikes of units with another activity."""
    activity = np.random.default_rng(0).standard_normal((7, len(ACTIVITY))).astype(np.float32) ** 2
    found = [rates(model, session, activity=a) for a in (activity, np.roll(activity, 1, 0))]
    assert (np.abs(found[0] - found[1]).max((0, 1)) > 0).all()  # of every unit


def test_without_held_out_units_or_bins_to_come_all_is_seen(model, session):
    found = trial_rates(model, session, START, 10)
    assert found.shape == (5, 10, 7)
    other = trial_rates(model, without(session, lambda t, n: HELDOUT[n]), START, 10)
    assert np.abs(other - found).max() > 0


def test_unobserved_counts_are_predicted_and_not_read_as_silence(model, session):
    """A unit that was never observed is like one that is held out."""
    rows = [(0.0, 30.0, n) for n in range(7) if not HELDOUT[n]]
    observed = Intervals([r[0] for r in rows], [r[1] for r in rows], {"unit_index": np.array([r[2] for r in rows])})
    other = replace(session, units=replace(session.units, observed=observed))
    np.testing.assert_array_equal(rates(model, other, heldout=None), rates(model, session))


def test_a_trial_of_which_nothing_is_seen_has_rates_too(model, session):
    found = trial_rates(model, session, np.array([1.0, 100.0]), 10, heldout=HELDOUT)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("num_bins", "forward"), [(30, 4), (16, 1), (17, 0), (12, 15), (90, 0)])
def test_longer_trials_are_cut_into_windows_that_the_model_knows(model, session, num_bins, forward):
    found = trial_rates(model, session, START, num_bins, forward=forward, heldout=HELDOUT)
    assert np.isfinite(found).all()
    T = num_bins + forward
    first = trial_rates(model, session, START, min(num_bins, 16), forward=max(16 - num_bins, 0), heldout=HELDOUT)
    np.testing.assert_allclose(found[:, :16], first, rtol=1e-4)  # the first window
    last = trial_rates(model, session, START + (T - 16) * 0.05, 16 - forward, forward=forward, heldout=HELDOUT)
    np.testing.assert_allclose(found[:, -1], last[:, -1], rtol=1e-4)  # the last


def test_kept_bins_of_a_window_have_half_a_window_of_history(model, session):
    found = trial_rates(model, session, START, 90)
    second = trial_rates(model, session, START + 8 * 0.05, 16)
    np.testing.assert_allclose(found[:, 16:24], second[:, 8:], rtol=1e-4)


def test_bins_to_come_must_leave_some_to_be_seen(model, session):
    with pytest.raises(
        InputError, match=r"forward: expected fewer bins than the model's longest window \(16\), found 16"
    ):
        trial_rates(model, session, START, 10, forward=16)


def test_the_models_mode_stays(session):
    model = busy_model(specification([session], config=replace(TINY, dropout=0.5))).train()
    first, second = (trial_rates(model, session, START, 10) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training


# Observed bins


def test_observed_bins_by_hand():
    session = recording(observed=((0.0, 1.0), (1.2, 3.0)), num_units=2)
    found = observed_bins(session, 0.7, 0.1, 7)  # 0.7 … 1.0 | gap 1.0 … 1.2 | 1.2 …
    np.testing.assert_array_equal(found[:, 0], [True, True, True, False, False, True, True])
    np.testing.assert_array_equal(found[:, 1], found[:, 0])
    np.testing.assert_array_equal(observed_bins(session, -0.05, 0.1, 2)[:, 0], [False, True])
    assert not observed_bins(session, 3.0, 0.1, 2).any()


@given(seed=st.integers(0, 2**32 - 1))
def test_observed_bins_are_those_without_an_unobserved_moment(seed):
    rng = np.random.default_rng(seed)
    edges = np.unique(rng.integers(0, 200, 12)) / 20.0
    edges = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    session = recording(observed=[tuple(e) for e in edges], num_units=1)
    start, T = rng.integers(-20, 220) / 20.0, 9
    moments = start + 0.05 * np.arange(T)[:, None] + np.array([0.001, 0.025, 0.049])
    expected = session.observed.contains(moments).all(1)
    np.testing.assert_array_equal(observed_bins(session, start, 0.05, T)[:, 0], expected)
