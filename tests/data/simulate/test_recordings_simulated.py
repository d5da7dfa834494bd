"""The simulator's files hold what its truth says, and its oracle is one."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO

from ndt.config import SimulateConfig
from ndt.config.data import AWKWARD
from ndt.data.read.nwb import read_nwb
from ndt.data.reading import read
from ndt.data.simulate.population import BIN_SIZE, STEP, Tuning, simulate_latents, spike_times, transition, velocity
from ndt.data.simulate.recordings import Simulated, simulate
from ndt.decoders.kalman import fit_kalman
from ndt.decoders.ridge import fit_ridge
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.intervals import Intervals

SMALL = SimulateConfig(num_subjects=1, num_sessions=1, num_units=12, num_electrodes=16, seconds=30.0)


def datasets(path: Path) -> dict[str, np.ndarray]:
    """Everything in an HDF5 file except object identifiers, which NWB draws anew each time."""
    found = {}
    with h5py.File(path) as file:

        def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("specifications"):
                if h5py.check_ref_dtype(item.dtype) is None and item.dtype.kind != "V":  # references are of one file
                    found[name] = item[()]

        file.visititems(keep)
    return found


def scores(truth: Simulated) -> dict[str, float]:
    """Test R² of oracle and baselines, trained on the first 70 %, chosen on the next 10 %."""
    T = len(truth.time)
    rows = np.arange(T)
    train, valid, test = rows < 0.7 * T, (rows >= 0.7 * T) & (rows < 0.8 * T), rows >= 0.8 * T
    y, x = truth.velocity, truth.counts
    out = {"oracle": truth.oracle_r2(Intervals([truth.time[test][0]], [truth.time[-1] + truth.bin_size]))}
    for name, fit in (("ridge", fit_ridge), ("kalman", fit_kalman)):
        model = fit([x], [y], [train], [valid], bin_size=truth.bin_size)
        out[name] = r2(y[test], model.predict([x])[0][test])
    return out


@pytest.fixture(scope="module")
def nonlinear(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    config = SimulateConfig(num_subjects=1, num_sessions=1, seconds=300.0)
    return simulate(tmp_path_factory.mktemp("nonlinear"), config)[0]


def test_latents_have_the_stationary_distribution_they_claim() -> None:
    z = simulate_latents(200_000, np.random.default_rng(0))  # 2000 s
    np.testing.assert_allclose(z[:, :4].mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(z.T), np.eye(6), atol=0.15)  # the slow one has 170 independent samples
    lag = 30  # 0.3 s
    F = transition(lag * STEP)
    np.testing.assert_allclose(z[lag:].T @ z[:-lag] / (len(z) - lag), F, atol=0.15)
    assert 0.3 < F[0, 0] < 0.8  # intended velocity is smooth over a few tenths of a second


def test_transition_composes() -> None:
    np.testing.assert_allclose(transition(0.05), np.linalg.matrix_power(transition(0.01), 5), atol=1e-12)


def test_mean_rates_are_as_configured() -> None:
    rng = np.random.default_rng(0)
    tuning = Tuning.draw(400, 8.0, rng)
    rates = tuning.rates_hz(rng.standard_normal((20_000, 6)))
    np.testing.assert_allclose(rates.mean(0), np.exp(tuning.log_rate), rtol=0.06)
    np.testing.assert_allclose(rates.mean(), 8.0, rtol=0.1)


def test_slope_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    tuning, z, h = Tuning.draw(5, 8.0, rng), rng.standard_normal(6), 1e-6
    deviation, slope = tuning.slope(z)
    steps = h * np.eye(6)
    np.testing.assert_allclose(tuning.deviation(z[None])[0], deviation, rtol=1e-12)
    np.testing.assert_allclose(
        (tuning.deviation(z + steps) - tuning.deviation(z - steps)).T / (2 * h), slope, atol=1e-8
    )


def test_spikes_have_the_mean_and_variance_of_a_poisson_process() -> None:
    rates = np.tile([5.0, 20.0, 60.0], (100_000, 1))  # 20,000 bins
    times = spike_times(rates, np.random.default_rng(0))
    counts = np.stack([np.histogram(t, np.arange(20_001) * BIN_SIZE)[0] for t in times], 1)
    mean = rates[0] * BIN_SIZE
    assert (np.abs(counts.mean(0) - mean) < 4 * np.sqrt(mean / 20_000)).all()
    np.testing.assert_allclose(counts.var(0), mean, rtol=0.08)
    assert all((np.diff(t) >= 0).all() for t in times)


def test_file_holds_the_truth(nonlinear: Simulated) -> None:
    with NWBHDF5IO(nonlinear.path, "r") as io:
        nwb = io.read()
        times = [np.asarray(nwb.units["spike_times"][n]) for n in range(len(nwb.units))]
        assert nwb.subject.subject_id == "simA"
        np.testing.assert_array_equal(nwb.units["unit_name"].data[:].astype(str), nonlinear.unit_names)
        np.testing.assert_array_equal(nwb.units["electrodes"].target.data[:], nonlinear.electrodes)
        np.testing.assert_array_equal(nwb.units["obs_intervals"][3], [[0.0, 300.0]])
        module = nwb.processing["behavior"]
        np.testing.assert_array_equal(module["cursor_vel"].data[:], nonlinear.velocity)
        np.testing.assert_array_equal(module["cursor_vel"].timestamps[:], nonlinear.time + 0.025)
        position = module["cursor_pos"].data[:]
        targets = nwb.trials["target"].data[:]
    moved = np.gradient(position, 0.05, axis=0)[1:-1]
    assert r2(nonlinear.velocity[1:-1], moved) > 0.98  # position is the integral of velocity
    assert set(targets) == set(range(8))

    edges = np.r_[nonlinear.time, 300.0]
    np.testing.assert_array_equal(np.stack([np.histogram(t, edges)[0] for t in times], 1), nonlinear.counts)
    expected = nonlinear.rates_hz.sum(0) * BIN_SIZE
    z = (nonlinear.counts.sum(0) - expected) / np.sqrt(expected)  # standard normal, were the rates the truth
    assert np.abs(z).max() < 4.5
    assert 0.5 < z.std() < 1.5
    high = nonlinear.rates_hz > np.median(nonlinear.rates_hz, 0)  # and in time: so many spikes where rates are high
    expected = np.where(high, nonlinear.rates_hz, 0).sum() * BIN_SIZE
    assert abs(nonlinear.counts[high].sum() - expected) < 4.5 * np.sqrt(expected)
    np.testing.assert_allclose(nonlinear.velocity, velocity(nonlinear.latents), rtol=1e-12)


@pytest.mark.slow
def test_oracle_is_above_ridge_and_ridge_is_no_straw_man(nonlinear: Simulated) -> None:
    found = scores(nonlinear)
    assert found["oracle"] > found["ridge"] + 0.05
    assert found["oracle"] > found["kalman"] + 0.05
    assert found["oracle"] > 0.8
    assert 0.55 < found["ridge"] < 0.85


@pytest.mark.slow
def test_oracle_is_causal_and_scores_only_inside_intervals(nonlinear: Simulated) -> None:
    arrays = {name: getattr(nonlinear, name)[:600] for name in ("time", "latents", "rates_hz", "velocity", "counts")}
    first = replace(nonlinear, **arrays)  # 30 s
    cut = replace(first, counts=np.where(np.arange(600)[:, None] < 400, first.counts, 0))
    np.testing.assert_array_equal(cut.oracle_velocity()[:400], first.oracle_velocity()[:400])
    assert cut.oracle_r2(Intervals([0.0], [20.0])) == first.oracle_r2(Intervals([0.0], [20.0]))
    assert cut.oracle_r2(Intervals([0.0], [30.0])) < first.oracle_r2(Intervals([0.0], [30.0]))


@pytest.mark.slow
def test_one_seed_one_content_whatever_the_workers(tmp_path: Path) -> None:
    config = replace(SMALL, num_subjects=2, num_sessions=2, workers=1)
    one = simulate(tmp_path / "one", config)
    two = simulate(tmp_path / "two", replace(config, workers=2))
    alone = simulate(tmp_path / "alone", replace(config, num_sessions=1))  # more sessions change nothing in the first
    other = simulate(tmp_path / "other", replace(config, seed=1))
    for a, b in [*zip(one, two, strict=True), (one[0], alone[0]), (one[2], alone[1])]:
        left, right = datasets(a.path), datasets(b.path)
        assert left.keys() == right.keys()
        assert "units/spike_times" in left
        for name, values in left.items():
            np.testing.assert_array_equal(values, right[name], err_msg=name)
    assert len(datasets(one[0].path)["units/spike_times"]) != len(datasets(other[0].path)["units/spike_times"])
    assert [s.session_id for s in one] == [f"sub-sim{a}_ses-0{n}" for a in "AB" for n in (1, 2)]


def test_units_are_listed_in_another_order_than_that_of_their_identities(tmp_path: Path) -> None:
    """As in real files, and in each file in another; rates, counts, tuning and electrodes are of the same units."""
    sessions = simulate(tmp_path, replace(SMALL, num_sessions=2, persistence=1.0, drift=0.0))
    found = [read(s.path) for s in sessions]
    for truth, session in zip(sessions, found, strict=True):
        names = [str(u) for u in session.units.id]
        assert names != sorted(names)
        np.testing.assert_array_equal(session.units.columns["unit_name"], truth.unit_names)
        np.testing.assert_array_equal(np.bincount(session.spikes.unit_index, minlength=12), truth.counts.sum(0))
        expected = truth.tuning.rates_hz(truth.latents)  # at bin centres, for means over bins
        np.testing.assert_allclose(truth.rates_hz.mean(0), expected.mean(0), rtol=0.02)
    one, two = (dict(zip(s.units.id.tolist(), s.units.columns["unit_name"].tolist(), strict=True)) for s in found)
    assert one == two
    assert list(one) != list(two)


def test_persistence_and_drift(tmp_path: Path) -> None:
    config = replace(SMALL, num_subjects=2, num_sessions=3, num_units=40, num_electrodes=60, persistence=0.7, drift=0.2)
    sessions = simulate(tmp_path, replace(config, seconds=1.0))
    for a, b in [(0, 1), (1, 2), (3, 4), (4, 5)]:
        one, two = sessions[a], sessions[b]
        _, i, j = np.intersect1d(one.unit_names, two.unit_names, return_indices=True)
        assert len(i) == 28  # 70 % of 40
        np.testing.assert_array_equal(one.electrodes[i], two.electrodes[j])
        fresh = np.setdiff1d(np.arange(40), j)
        assert not set(two.electrodes[fresh]) & set(one.electrodes)  # there are 20 free electrodes for 12 new units
        change = two.tuning.weights[j] - one.tuning.weights[i]
        np.testing.assert_allclose(change.std() / one.tuning.weights.std(), 0.2, rtol=0.3)
    assert not set(sessions[2].unit_names) & set(sessions[3].unit_names)
    for s in sessions:
        assert len(set(s.electrodes)) == len(set(s.unit_names)) == 40


def test_the_truth_is_saved_as_arrays(tmp_path: Path) -> None:
    truth = simulate(tmp_path, replace(SMALL, awkward=("gaps",)))[0]
    with np.load(tmp_path / "truth" / f"{truth.session_id}.npz", allow_pickle=False) as file:
        saved = dict(file)
    for name in ("time", "latents", "rates_hz", "velocity", "counts", "unit_names", "electrodes", "bin_size"):
        np.testing.assert_array_equal(saved[name], getattr(truth, name), err_msg=name)
    for name, values in vars(truth.tuning).items():
        np.testing.assert_array_equal(saved[f"tuning_{name}"], values, err_msg=name)
    np.testing.assert_array_equal(saved["observed"].T, [truth.observed.start, truth.observed.end])
    assert (saved["path"], saved["session_id"]) == (str(truth.path), truth.session_id)


def test_gaps_hold_no_spikes_and_the_oracle_leaves_them_out(tmp_path: Path) -> None:
    truth = simulate(tmp_path, replace(SMALL, seconds=120.0, awkward=("gaps",)))[0]
    assert len(truth.observed) >= 3
    gaps = Intervals([0.0], [120.0]) - truth.observed
    with NWBHDF5IO(truth.path, "r") as io:
        nwb = io.read()
        times = np.concatenate([nwb.units["spike_times"][n] for n in range(12)])
        segments = nwb.units["obs_intervals"][5]
        samples = nwb.processing["behavior"]["cursor_vel"].timestamps[:]
    np.testing.assert_array_equal(segments, np.stack([truth.observed.start, truth.observed.end], 1))
    assert len(times) > 0
    assert not gaps.contains(times).any()
    missing = [not gaps.select(np.array([i])).contains(samples).any() for i in range(len(gaps))]
    assert missing == [i % 2 == 0 for i in range(len(gaps))]  # the cursor goes on through every second gap
    assert not truth.counts[truth.valid(gaps)].any()
    with np.errstate(invalid="ignore"):
        assert np.isnan(truth.oracle_r2(gaps))  # no observed bin in there


@pytest.mark.parametrize("options", [*((name,) for name in AWKWARD), AWKWARD])
def test_awkward_files_are_readable(tmp_path: Path, options: tuple[str, ...]) -> None:
    truth = simulate(tmp_path, replace(SMALL, awkward=options))[0]
    with NWBHDF5IO(truth.path, "r") as io:
        nwb = io.read()
        num_spikes = np.array([len(nwb.units["spike_times"][n]) for n in range(12)])
        trials = nwb.trials.to_dataframe()
        series = nwb.processing["behavior"]["cursor_vel"]
        assert len(nwb.units["obs_intervals"][0]) == (len(truth.observed) if "gaps" in options else 1)
        assert np.sum(num_spikes == 0) == (2 if "empty_units" in options else 0)
        assert (nwb.electrodes is None) == ("no_electrodes" in options)
        assert ("electrodes" in nwb.units.colnames) == ("no_electrodes" not in options)
        assert ("heldout" in nwb.units.colnames) == ("heldout" in options)
        overlap = trials["start_time"].to_numpy()[1:] < trials["stop_time"].to_numpy()[:-1]
        assert overlap.all() == overlap.any() == ("overlapping_trials" in options)
        assert (series.rate == 20.0) == ("rate_series" in options)
        if "rate_series" in options:
            assert (series.starting_time, len(series.data)) == (0.025, 600)
    np.testing.assert_array_equal(truth.counts.sum(0), num_spikes)


def test_electrodes_lie_in_as_many_regions_as_asked_for(tmp_path: Path) -> None:
    """Half of the array in each of two regions; what the units fire does not depend on it."""
    one, two = (simulate(tmp_path / str(n), replace(SMALL, num_regions=n))[0] for n in (1, 2))
    np.testing.assert_array_equal(one.counts, two.counts)
    regions = [read_nwb(truth.path).units.columns["location"].tolist() for truth in (one, two)]
    assert set(regions[0]) == {"M1"}
    assert regions[1] == ["M1" if e < 8 else "PMd" for e in two.electrodes]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dynamics": "cubic"}, "dynamics: expected nonlinear or rotational, found cubic"),
        ({"awkward": ("gap",)}, "awkward: expected some of gaps, empty_units"),
        ({"num_electrodes": 4}, "num_electrodes: expected 12 to 1e\\+06, found 4"),
        ({"num_regions": 5}, "num_regions: expected 1 to 4, found 5"),
        ({"persistence": 1.5}, "persistence: expected 0 to 1, found 1.5"),
        ({"seconds": float("nan")}, "seconds: expected 1 to 1e\\+07, found nan"),
        ({"seconds": float("inf")}, "seconds: expected 1 to 1e\\+07, found inf"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"num_sessions": 0}, "num_sessions: expected 1 to 99"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(tmp_path, replace(SMALL, **wrong))


def test_one_session_can_be_written_alone_and_longer_with_the_same_units(tmp_path):
    """A day to decode after those to pretrain on: its units are what the days before made of them."""
    config = SimulateConfig(
        num_subjects=2, num_sessions=3, num_units=8, num_electrodes=12, seconds=4.0, seed=3, workers=1
    )
    whole = {s.session_id: s for s in simulate(tmp_path / "all", config)}
    (alone,) = simulate(tmp_path / "one", replace(config, seconds=6.0), only=[(1, 2)])
    assert [p.name for p in (tmp_path / "one").glob("*.nwb")] == ["sub-simB_ses-03_behavior+ecephys.nwb"]
    same = whole[alone.session_id]
    np.testing.assert_array_equal(alone.unit_names, same.unit_names)
    np.testing.assert_array_equal(alone.electrodes, same.electrodes)
    for name, values in vars(same.tuning).items():
        np.testing.assert_array_equal(getattr(alone.tuning, name), values, err_msg=name)
    assert len(alone.time) == 1.5 * len(same.time)
