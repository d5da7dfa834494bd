"""First-order baselines: laws of the first order are found again."""

import numpy as np
import pytest
import torch

from ndt.config.dynamics import DynamicsConfig
from ndt.dynamics.distances import wasserstein
from ndt.dynamics.features import Fourier, ridge
from ndt.dynamics.first_order import FlowMatching, GradientFlow
from ndt.dynamics.methods import make_model
from ndt.dynamics.potentials import scales_of
from ndt.dynamics.references import ConstantVelocity, LinearExtrapolation, Persistence
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.diffusion import Diffusion
from ndt.errors import InputError

TIMES = np.linspace(0, 1, 6)


def shifted(num: int = 60) -> Snapshots:
    """Particles that all move on at the same velocity, in snapshots whose order says nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 2))
    frames = [rng.permutation(x + t * np.array([1.0, -0.5])) for t in TIMES]

    return Snapshots.from_arrays(frames, TIMES, velocity=[np.broadcast_to([1.0, -0.5], x.shape)] * len(TIMES))


def test_features_have_the_slopes_and_curvatures_of_finite_differences() -> None:
    torch.manual_seed(0)
    seen = shifted()
    found = Fourier(scales_of(seen), 9).double()
    x, v = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    h = 1e-4
    for j in range(2):
        e = h * torch.eye(2, dtype=torch.float64)[j]
        slope = (found.features(x + e) - found.features(x - e)) / (2 * h)
        torch.testing.assert_close(found.slopes(x)[:, j], slope, atol=1e-6, rtol=0)
    bent = (found.features(x + h * v) - 2 * found.features(x) + found.features(x - h * v)) / h**2
    torch.testing.assert_close(found.curvatures(x, v), bent, atol=1e-5, rtol=0)


def test_ridge_equals_least_squares_unless_the_bound_is_active() -> None:
    rng = np.random.default_rng(0)
    design, true = rng.normal(size=(200, 3)), np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(ridge(design, design @ true, least=0.0, strength=1e-10), true, atol=1e-6)
    bound = ridge(design, design @ (true * [1, 1, -1]), least=0.0, strength=1e-10)
    np.testing.assert_allclose(bound[2], 0, atol=1e-6)
    np.testing.assert_allclose(bound[:2], np.linalg.lstsq(design[:, :2], design @ (true * [1, 1, -1]))[0], atol=1e-5)


def test_flow_matching_recovers_a_constant_velocity() -> None:
    seen = shifted()
    model = FlowMatching(steps=400).fit(seen)
    path = model.advance(seen[0], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(path[0], seen[0].x.astype(np.float32))
    moved = path[2] - path[0]
    np.testing.assert_allclose(moved.mean(0), [1.0, -0.5], atol=0.05)
    assert np.abs(moved - [1.0, -0.5]).mean() < 0.1
    beyond = model.forecast(seen, [1.5])[0]
    np.testing.assert_allclose(beyond.mean(0), seen[5].x.mean(0) + np.array([0.5, -0.25]), atol=0.1)


def test_gradient_flow_recovers_a_quadratic_potential_and_its_temperature() -> None:
    """x' = -2 x: paths without noise have the exact potential, and no temperature."""
    rng = np.random.default_rng(0)
    times = np.linspace(0, 1, 41)
    x = rng.normal([1.0, 0.0], 0.5, (300, 2))
    seen = Snapshots.from_arrays([x * np.exp(-2 * t) for t in times], times)
    model = GradientFlow(fourier_features=6).fit(seen)
    end = model.advance(seen[0], [0.0, 1.0])[1]
    assert wasserstein(end, seen[40].x, 1) < 0.02
    noisy = Diffusion(potential="poly", variance=0.05, fresh=False).simulate(800, np.linspace(0, 1, 11))
    warm = GradientFlow(fourier_features=0).fit(noisy)
    assert 0.05 < warm.temperature < 0.6  # 0.5; transport pairs take some of it for drift
    assert wasserstein(warm.advance(noisy[0], [0.0, 1.0])[1], noisy[10].x, 1) < 0.15


def test_reference_forecasts_are_exact_for_a_common_velocity() -> None:
    seen = shifted()
    for kind, moved in ((Persistence, 0.0), (ConstantVelocity, 1.0), (LinearExtrapolation, 1.0)):
        found = kind().fit(seen).forecast(seen, [1.5])[0]
        np.testing.assert_allclose(found.mean(0) - seen[5].x.mean(0), moved * np.array([0.5, -0.25]), atol=1e-9)
    first = LinearExtrapolation().fit(seen).advance(seen[0], [0.0, 0.2])[1]
    assert wasserstein(first, seen[1].x, 1) < 1e-9  # McCann's displacement ends in the next snapshot
    bare = Snapshots.from_arrays([s.x for s in seen.of(0)], seen.time)
    with pytest.raises(InputError, match="velocity: expected velocities"):
        ConstantVelocity().fit(bare).forecast(bare, [2.0])
    alone = Snapshots.from_arrays(bare.x[None, :5], [0.0])
    with pytest.raises(InputError, match="baselines: expected no linear_extrapolation of a trajectory"):
        LinearExtrapolation().fit(alone).advance(alone[0], [0.0, 1.0])
    for kind in (FlowMatching, GradientFlow):
        with pytest.raises(InputError, match="expected one that was fitted, found none"):
            kind().advance(seen[0], [0.0, 1.0])


def test_interpolation_of_large_snapshots_uses_the_paired_samples() -> None:
    rng = np.random.default_rng(0)
    seen = Snapshots.from_arrays([rng.normal(size=(n, 1)) for n in (1100, 1050, 1200)], [0.0, 1.0, 2.0])
    for kind, endpoint_conditioned in ((LinearExtrapolation, False), (LinearExtrapolation, True), (Persistence, True)):
        found = kind().fit(seen).interpolate(seen, [0.5, 1.5], endpoint_conditioned=endpoint_conditioned)
        assert found.shape == (2, 1000, 1)
        assert np.isfinite(found).all()


def test_gradient_flow_refuses_periodic_dimensions() -> None:
    seen = Snapshots.from_arrays(np.random.default_rng(0).random((2, 20, 1)), [0.0, 1.0], period=[1.0])
    with pytest.raises(InputError, match="fourier: expected no fourier or gradient_flow with a periodic dimension"):
        GradientFlow().fit(seen)


def test_all_models_have_the_seed_of_the_run() -> None:
    config = DynamicsConfig(method="wlm", seed=3)
    for name in (
        "hoam",
        "wlm",
        "flow_matching",
        "gradient_flow",
        "action_matching",
        "conditional_flow_matching",
        "conditional_diffusion",
    ):
        assert make_model(name, config).seed == 3
