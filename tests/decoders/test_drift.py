"""Input drift: which changes are flagged, in which units, how soon, and the rate of false alarms."""

from functools import partial

import numpy as np
import pytest
from realdata import real_file
from scipy.signal import lfilter

from ndt.config import IngestConfig
from ndt.data.read.nwb import read_nwb
from ndt.data.splits import assign_splits
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.decoders.drift import InputDrift, _limit, _silence
from ndt.decoders.ensemble import flatten, unflatten

BIN = 0.05


def population(R: int, seed: int, N: int = 30) -> np.ndarray:
    """Counts of units of 1 to 30 Hz that wax and wane together in three patterns, over about a second; (R, N)."""
    rng, units = np.random.default_rng(seed), np.random.default_rng(1000)
    base, weights = units.uniform(1, 30, N), 0.4 * units.standard_normal((3, N))
    drive = lfilter([0.1], [1, -0.95], rng.standard_normal((R, 3)), axis=0)

    return rng.poisson(base * BIN * np.exp(drive @ weights)).astype(float)


def fitted(R: int = 6000, seed: int = 0, **options) -> InputDrift:
    return InputDrift.fit([population(R, seed)], [np.ones(R, bool)], bin_size=BIN, **options)


def test_input_like_that_of_training_is_flagged_at_the_stated_rate() -> None:
    for rate, low, high in ((0.01, 0.002, 0.03), (0.1, 0.05, 0.18)):
        shares = [
            fitted(4000, seed, false_alarms=rate).check([population(4000, 500 + seed)]).flagged.mean()
            for seed in range(5)
        ]
        assert low < np.mean(shares) < high


def trials(num_trials: int, seed: int, N: int = 1500, T: int = 20) -> np.ndarray:
    """Counts in bins of 20 ms of trials of 0.4 s whose units respond in time, and vary together from trial to trial."""
    rng, units = np.random.default_rng(seed), np.random.default_rng(1000)
    rate = np.exp(units.normal(np.log(2.0), 1.2, N)) * 0.02
    shapes = np.stack([np.hanning(T), np.linspace(0, 1, T)], 1)
    response = np.exp(shapes @ units.normal(0, 0.5, (2, N)))  # (T, N)
    gain = np.exp(0.3 * rng.standard_normal((num_trials, 1, 2)) @ units.standard_normal((2, N)))

    return rng.poisson(rate * response * gain).astype(float)  # (M, T, N)


def short_trials(seed: int, N: int = 1500) -> tuple[InputDrift, np.ndarray]:
    """The statistics of 80 trials, and the counts of 40 others."""
    x = trials(120, seed, N)

    return InputDrift.fit(list(x[:80]), [np.ones(20, bool)] * 80, bin_size=0.02), x[80:]


@pytest.mark.slow
def test_many_units_in_short_trials_are_flagged_at_about_the_stated_rate() -> None:
    """Windows of 1.3 trials, 60 of them in training, estimate a rate of 0.01 only roughly."""
    shares, silent = [], []
    for seed in range(12):
        found, x = short_trials(seed)
        flags = found.check(list(x))
        shares.append(flags.flagged.mean())
        silent.append(flags.silent.any(1).mean())
        assert found.window == 26
    assert np.mean(shares) < 0.03
    assert np.mean(silent) < 0.01


def test_drift_of_many_units_in_short_trials_is_caught() -> None:
    found, x = short_trials(0, N=500)
    later, rng = np.arange(800) >= 100, np.random.default_rng(3)
    assert found.check(list(x)).flagged.mean() < 0.1
    half = x * np.where(rng.random(500) < 0.5, 0, 1)  # half of the units are lost
    other = rng.permuted(x, axis=2)  # units in another order in each bin
    doubled = x + rng.poisson(x)
    for drifted in (half, other, doubled):
        assert found.check(list(drifted)).select(later).flagged.mean() > 0.95


def test_one_silent_unit_in_hundreds_is_named_and_flags_nothing() -> None:
    found, x = short_trials(1, N=500)
    before = found.check(list(x))
    active = np.argsort(found.silence)
    assert found.limit_silent == 4
    for number, flagged in ((1, False), (4, False), (5, True)):
        lost = x.copy()
        lost[:, :, active[:number]] = 0
        flags = found.check(list(lost))
        assert set(active[:number]) <= set(flags.silent_units.tolist())
        late = np.arange(800) >= found.silence[active[4]]
        assert flags.flagged[late].all() == flagged
        if not flagged:
            assert flags.flagged.mean() <= before.flagged.mean() + 0.03


@pytest.mark.slow
def test_a_real_session_of_short_trials_is_in_its_own_distribution() -> None:
    """The middle fifth of a mouse recording against the rest; the end of a session drifts, its middle hardly."""
    session = read_nwb(real_file("mouse/*/sub-Cori_ses-20161214_*.nwb"), IngestConfig(unit_identity="session"))
    binned = BinnedSession(assign_splits(session, "fold:3/5"), 0.02, 0.4)
    segments = partial(np.split, indices_or_sections=np.flatnonzero(np.diff(binned.segment)) + 1)
    counts, train, test = segments(binned.all_counts()), segments(binned.split == TRAIN), binned.split == TEST
    found = InputDrift.fit(counts, train, 0.02)
    assert found.check(counts).select(test).flagged.mean() < 0.05
    order = np.random.default_rng(0).permutation(session.num_units)
    assert found.check([x[:, order] for x in counts]).select(test).flagged.mean() > 0.95


def test_limits_by_the_law_of_an_exponential() -> None:
    # a new value exceeds q with probability exp(-q), whose mean over draws of the 600 values is to be p
    rng, p = np.random.default_rng(0), 0.002
    found = [_limit(rng.exponential(size=600), p, 600) for _ in range(300)]
    np.testing.assert_allclose(np.mean(np.exp(-np.array(found))), p, rtol=0.2)
    np.testing.assert_allclose(_limit(np.arange(1000.0), 0.25, 1000), np.quantile(np.arange(1000.0), 0.75))
    assert _limit(np.ones(50), 0.01, 50) == 1


def test_cross_validated_bins_exceed_limits_at_about_the_stated_rate() -> None:
    # in training itself less often: its own mean and spread fit it
    x, rate = population(6000, 3), 0.05
    found = InputDrift.fit([x], [np.ones(6000, bool)], bin_size=BIN, false_alarms=rate)
    assert found.check([x]).flagged.mean() <= rate
    exceeded = 0
    for rows in np.array_split(np.arange(6000), 5):  # the same, by the definition
        rest = np.sqrt(np.delete(x, rows, 0))
        deviation = np.sqrt(x) - rest.mean(0)
        windows = np.lib.stride_tricks.sliding_window_view(rest - rest.mean(0), 100, 0).mean(2)
        held = np.lib.stride_tricks.sliding_window_view(deviation[rows], 100, 0).mean(2)
        z = held / np.sqrt(np.mean(windows**2, 0))
        shift = held.mean(1) / windows.mean(1).std()
        distance = np.sqrt(np.mean(np.minimum(z**2, 25), 1))
        exceeded += np.sum((np.abs(shift) > found.limit_shift) | (distance > found.limit_distance))
    np.testing.assert_allclose(exceeded / (6000 - 5 * 99), rate, rtol=0.25)


def test_a_silent_unit_is_found_by_its_index_as_soon_as_stated() -> None:
    found, x, at = fitted(), population(2000, 7), 600
    unit = int(np.argsort(found.silence)[3])
    x[at:, unit] = 0
    flags = found.check([x])
    last_spike = int(np.flatnonzero(x[:, unit])[-1])
    np.testing.assert_array_equal(np.flatnonzero(flags.silent[:, unit])[0], last_spike + found.silence[unit])
    assert found.silence[unit] * BIN < 5
    np.testing.assert_array_equal(flags.silent_units, [unit])
    assert flags.flagged[last_spike + int(found.silence[unit]) :].all()
    assert not flags.silent[:at].any()
    x[1500, unit] = 1  # it fires again
    assert not found.check([x]).silent[1500, unit]


def test_silences_of_a_poisson_unit_by_its_law() -> None:
    # one of n bins or more has probability e^-rate n, so the longest twentieth exceeds log(20) / rate by 1 / rate in
    # the mean; M of those expect 0.01 / N that exceed it by log(100 M N) / rate
    rng, N = np.random.default_rng(0), 50
    for rate in (0.02, 0.1):  # spikes a bin, few, so that silences are long against a bin
        counts = rng.poisson(rate, int(1e4 / rate))
        M = 0.05 * np.sum(counts > 0)
        np.testing.assert_allclose(_silence(counts, N), np.log(20 * 100 * M * N) / rate, rtol=0.1)


def test_silences_by_hand() -> None:
    # 40 silences: 37 of 0 bins, one of them before the first spike, then 1, 4 and, after the last spike, 7; the longest
    # two (a twentieth) exceed the third by 3 and 6, 4.5 in the mean; another exceeds it by more than y with
    # (1 + y / 9)^-2, which is 0.01 / (2 N) at y = 9 (sqrt(200 N) - 1)
    gaps = np.r_[np.zeros(36, int), 1, 4]
    spikes = np.r_[0, np.cumsum(gaps + 1)]
    counts = np.zeros(spikes[-1] + 1 + 7)
    counts[spikes] = 2
    assert _silence(counts, num_units=2) == 1 + 9 * (20 - 1)
    assert _silence(np.array([0, 1, 0, 1]), 2) == np.inf  # one silence between spikes has no tail
    assert _silence(np.zeros(100), 2) == np.inf


def test_a_unit_that_fires_in_every_bin_is_soon_missed() -> None:
    found = InputDrift.fit([np.ones((2000, 3))], [np.ones(2000, bool)], bin_size=BIN)
    assert np.all(found.silence < 20)
    quiet = np.ones((100, 3))
    quiet[50:, 1] = 0
    np.testing.assert_array_equal(found.check([quiet]).silent_units, [1])


def test_a_rarely_firing_unit_is_never_called_lost() -> None:
    x = population(4000, 0)
    x[:, 4] = 0
    x[[100, 900, 1300, 3500], 4] = 1
    found = InputDrift.fit([x], [np.ones(4000, bool)], bin_size=BIN)
    assert found.silence[4] > 4000


def test_higher_rates_are_flagged_and_say_which_way() -> None:
    found, rng = fitted(), np.random.default_rng(1)
    x = population(3000, 8)
    more, fewer = x + rng.binomial(x.astype(int), 0.5), rng.binomial(x.astype(int), 0.6)  # rates times 1.5 and 0.6
    up, down, same = (found.check([k]).select(np.arange(3000) >= 100) for k in (more, fewer, x))
    assert up.flagged.mean() > 0.8
    assert down.flagged.mean() > 0.8
    assert same.flagged.mean() < 0.05
    assert up.shift.mean() > 3
    assert down.shift.mean() < -3
    assert abs(same.shift.mean()) < 1


def test_units_in_another_order_are_flagged_though_the_population_fires_as_before() -> None:
    found, x = fitted(), population(3000, 9)
    mixed = found.check([x[:, np.random.default_rng(2).permutation(30)]]).select(np.arange(3000) >= 100)
    assert mixed.flagged.mean() > 0.99
    np.testing.assert_allclose(mixed.shift, found.check([x]).shift[100:], atol=1e-9)  # it cannot see an order
    assert np.median(mixed.distance) > 1.5 * found.limit_distance
    two = x.copy()
    two[:, [3, 17]] = 4 * x[:, [3, 17]]
    moved = np.abs(found.check([two]).unit_shift[100:]).mean(0)
    assert set(np.argsort(moved)[-2:].tolist()) == {3, 17}


def test_one_unit_however_loud_is_no_other_population() -> None:
    found, x = fitted(), population(1000, 16)
    x[500:, 3] = 250
    flags, before = found.check([x]), found.check([population(1000, 16)])
    assert flags.unit_shift[-1, 3] > 50
    extra = flags.distance[600:] ** 2 - before.distance[600:] ** 2
    np.testing.assert_array_less(extra, 25 / 30 + 1e-9)  # five standard deviations of one unit in thirty


def test_unobserved_units_are_neither_silent_nor_shifted() -> None:
    found, x = fitted(), population(2000, 10)
    x[500:, :10] = np.nan
    flags = found.check([x])
    assert not flags.silent[:, :10].any()
    np.testing.assert_allclose(flags.unit_shift[700:, :10], 0, atol=1e-6)
    assert flags.flagged.mean() < 0.05
    # a silence goes on where it was: bins that were not observed do not add to it
    unit = int(np.argmin(found.silence))
    need = int(found.silence[unit])
    y = population(2000, 11)
    y[500:, unit] = 0
    y[500, unit] = 1
    y[502:902, unit] = np.nan
    np.testing.assert_array_equal(np.flatnonzero(found.check([y]).silent[500:, unit])[0], need + 400)


def test_a_unit_never_observed_in_training_says_nothing() -> None:
    x = population(3000, 0)
    x[:, 5] = np.nan
    found = InputDrift.fit([x], [np.ones(3000, bool)], bin_size=BIN)
    loud = population(1000, 12)
    loud[:, 5] = 50
    flags = found.check([loud])
    np.testing.assert_array_equal(flags.unit_shift[:, 5], 0)
    assert not flags.silent[:, 5].any()


def test_a_unit_half_observed_has_the_spread_of_its_observed_windows() -> None:
    x = population(8000, 0)
    x[4000:, 2] = np.nan
    half = InputDrift.fit([x], [np.ones(8000, bool)], bin_size=BIN, window=2.0)
    whole = InputDrift.fit([x[:4000]], [np.ones(4000, bool)], bin_size=BIN, window=2.0)
    np.testing.assert_allclose(half.spread[2], whole.spread[2], rtol=1e-9)
    np.testing.assert_allclose(half.mean[2], whole.mean[2], rtol=1e-12)


def test_it_is_causal_and_pieces_are_one_after_another() -> None:
    found, x = fitted(), population(1000, 13)
    changed = x.copy()
    changed[600:] += 3
    one, two = found.check([x]), found.check([changed])
    for name, values in vars(one).items():
        np.testing.assert_array_equal(values[:600], vars(two)[name][:600])
    assert two.shift[600] > one.shift[600]
    cut = found.check(np.split(x, [7, 300, 301]))
    for name, values in vars(one).items():
        np.testing.assert_array_equal(values, vars(cut)[name])


def test_before_the_first_bin_the_training_mean_stands() -> None:
    found, x = fitted(), population(300, 14)
    shift = found.check([x]).shift
    deviation = (np.sqrt(x) - found.mean).mean(1)
    expected = [deviation[max(0, t - 99) : t + 1].sum() / 100 / found.population for t in range(300)]
    np.testing.assert_allclose(shift, expected, atol=1e-9)


def test_only_training_rows_enter_the_statistics() -> None:
    x, mask = population(4000, 0), np.arange(4000) < 3000
    spoilt = np.where(mask[:, None], x, 200.0)
    one, two = (InputDrift.fit([k], [mask], bin_size=BIN) for k in (x, spoilt))
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, vars(two)[name])


def test_short_training_has_shorter_windows() -> None:
    assert fitted(6000).window == 100
    assert fitted(6000, window=2.0).window == 40
    assert fitted(1200).window == 20  # a sixtieth
    assert fitted(10).window == 1
    with pytest.raises(ValueError, match="at least 10 rows, got 9"):
        fitted(9)


def test_saved_and_read_it_is_the_same() -> None:
    x = population(3000, 0)
    x[:, 5], x[:, 6] = np.nan, 0
    found = InputDrift.fit([x], [np.ones(3000, bool)], bin_size=BIN)
    arrays: dict = {}
    again = unflatten(flatten(found, arrays), arrays)
    new = population(500, 15) + 1
    for name, values in vars(found.check([new])).items():
        np.testing.assert_array_equal(values, vars(again.check([new]))[name])
    np.testing.assert_array_equal(again.silence[[5, 6]], np.inf)


def test_other_units_are_refused() -> None:
    with pytest.raises(ValueError, match="N=30\\), got 29 units"):
        fitted().check([np.zeros((5, 29))])
