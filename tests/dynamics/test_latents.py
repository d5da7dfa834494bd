"""Latents as a population of trials, and the frequency at which it turns."""

import numpy as np
import pytest

from ndt.config import SimulateConfig
from ndt.config.dynamics import DynamicsConfig, TrialsConfig
from ndt.data.simulate.population import PREPARED, ROTATION_HZ, ROTATION_SECONDS, STEP, rotating_latents
from ndt.data.simulate.recordings import simulate
from ndt.dynamics.latents import _aligned, rotation, trials
from ndt.errors import InputError
from ndt.fit_dynamics import fit_run, read_trials
from ndt.model.inference import Embeddings


def spiral(hz: float, times: np.ndarray, num: int = 30) -> np.ndarray:
    """Particles that turn in a plane of three dimensions, and shrink."""
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2]
    z = rng.normal([1.0, 0.5], 0.3, (num, 2)) @ np.array([1, 1j])
    turned = z[None] * np.exp((2j * np.pi * hz - 0.2) * times[:, None])

    return np.stack([turned.real, turned.imag], -1) @ plane.T + 3.0


def test_the_rotation_frequency_is_recovered_for_any_plane_and_bin() -> None:
    for step in (0.01, 0.05):
        times = np.arange(0, 1.2, step)
        found = rotation(spiral(1.6, times), times)
        np.testing.assert_allclose(found.frequency, 1.6, rtol=1e-3)
        assert found.r2 > 0.99
    still = np.random.default_rng(0).normal(size=(1, 20, 2)) * np.exp(-times)[:, None, None]
    np.testing.assert_allclose(rotation(still, times).frequency, 0, atol=1e-6)


def test_trials_are_aligned_scaled_and_have_velocities() -> None:
    time = np.arange(2000) * 0.05 + 7.0
    onsets = np.arange(8.0, 100.0, 2.0)
    latents = np.random.default_rng(0).normal(0, 1e-3, (2000, 6))
    for onset in onsets:
        rows = (time >= onset - 1e-9) & (time < onset + 1.5)
        latents[rows, 1] += np.sin(3 * (time[rows] - onset))
        latents[rows, 4] += 2 * np.cos(3 * (time[rows] - onset))
    for smooth in (0.0, 0.35):
        seen, share = trials(latents, time, onsets, 1.5, 2, smooth)
        assert (len(seen), len(seen[0].x), seen.paired) == (30, len(onsets), True)
        assert share > 0.999
        np.testing.assert_allclose(seen.x.var(0).sum(), 2, rtol=0.01)
        turned = rotation(seen.x.reshape(30, -1, 2), seen.time)
        np.testing.assert_allclose(turned.frequency, 3 / (2 * np.pi), rtol=0.01)
        between = (seen[12].x - seen[10].x) / (seen[12].time - seen[10].time)
        np.testing.assert_allclose(seen[11].velocity, between, atol=0.05)
    for options, told in (((7, 0.0), "num_components: expected 1 to 6, found 7"), ((2, 2.0), "smooth: expected less")):
        with pytest.raises(InputError, match=told):
            trials(latents, time, onsets, 1.5, *options)


def test_trials_with_a_gap_are_excluded() -> None:
    time = np.concatenate([np.arange(0.05, 10, 0.1), np.arange(12.05, 15, 0.1)])
    rows, step = _aligned(time, [1.0, 9.7, 13.0, 14.95], 0.5)
    np.testing.assert_allclose(step, 0.1)
    np.testing.assert_allclose(time[rows], [1.05 + np.arange(5) / 10, 13.05 + np.arange(5) / 10])
    with pytest.raises(InputError, match="a trial of 3 s without a gap"):
        _aligned(np.arange(9.0), [20.0], 3.0)


def test_simulated_latents_rotate_within_trials_and_are_linear_between_them() -> None:
    z = np.random.default_rng(0).normal(size=(1000, 5))
    spans = np.array([[100, 250], [300, 460], [520, 700]])
    found = rotating_latents(z, spans, np.random.default_rng(1))
    np.testing.assert_array_equal(found[:, 4], z[:, 4])
    for first, last in spans:
        t = np.arange(last - first + 1) * STEP
        made = (found[first : last + 1, 0] + 1j * found[first : last + 1, 2]) * np.exp(t / ROTATION_SECONDS)
        np.testing.assert_allclose(made, made[0] * np.exp(-2j * np.pi * ROTATION_HZ * t), atol=1e-9)
        np.testing.assert_allclose(found[first, :4], PREPARED, atol=1.6)
    np.testing.assert_allclose(np.diff(found[250:301, :4], 2, axis=0), 0, atol=1e-12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A recording that rotates, and its true latents as if they had been exported."""
    out = tmp_path_factory.mktemp("rotating")
    config = SimulateConfig(
        num_subjects=1, num_sessions=1, num_units=8, num_electrodes=8, seconds=60.0, dynamics="rotational", workers=1
    )
    (made,) = simulate(out, config)
    found = Embeddings(
        latents=made.latents.astype(np.float32), time=made.time + made.bin_size / 2,
        segment=np.zeros(len(made.time), np.int64), options={"session": made.session_id},
    )  # fmt: skip
    return found.to_npz(out / "latents.npz"), made.path


def test_exported_latents_have_the_simulated_frequency(exported) -> None:
    path, nwb = exported
    seen = read_trials(path, TrialsConfig(nwb=str(nwb), duration=1.3, num_components=4))
    paths = seen.x.reshape(len(seen), -1, 4)
    np.testing.assert_allclose(rotation(paths.mean(1, keepdims=True), seen.time).frequency, ROTATION_HZ, rtol=0.02)


def test_latents_without_their_recording_are_refused(exported, sim_truth, tmp_path) -> None:
    path, _ = exported
    with pytest.raises(InputError, match=r"trials\.nwb: expected the NWB file of the session"):
        fit_run(str(path), tmp_path / "run", DynamicsConfig(), progress=False)
    np.savez(tmp_path / "bare.npz", latents=np.zeros((4, 2)))
    with pytest.raises(InputError, match="time: expected an array of that name, found latents"):
        read_trials(tmp_path / "bare.npz", TrialsConfig(nwb="x.nwb"))
    with pytest.raises(InputError, match="rotation: times: expected at least three, as many as positions, found 2"):
        rotation(np.zeros((2, 5, 2)), np.arange(2.0))
    other = sim_truth[1]
    with pytest.raises(InputError, match="session: expected sub-simA_ses-01, found sub-simA_ses-02"):
        read_trials(path, TrialsConfig(nwb=str(other.path)))
    assert not (tmp_path / "run").exists()
