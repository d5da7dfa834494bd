"""Lagrangian mechanics from snapshots: gradients, laws that are found again, and models on disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ndt.config.dynamics import FunctionalConfig, HOAMConfig, PotentialConfig, WLMConfig
from ndt.dynamics.distances import wasserstein
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.potentials import Scales
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.wlm import WLM
from ndt.errors import InputError
from tests.dynamics.test_lagrangian import harmonic

SMALL = FunctionalConfig(potential=PotentialConfig(kind="concat", width=8, depth=2, time_frequencies=0))
QUICK = WLMConfig(functional=SMALL, steps=4, step=0.2, action_matching=HOAMConfig(steps=3))
TIMES = np.linspace(0, 2, 9)
NONE = torch.zeros(0, dtype=torch.float64)


def plain(dims: int, functional: FunctionalConfig, *, learned: bool = False, **options) -> Lagrangian:
    """A Lagrangian in double precision, its scales all 1."""
    scales = Scales(np.zeros(dims), np.ones(dims), np.full(dims, np.inf), (0.0, 1.0), np.zeros((1, 0)))
    torch.manual_seed(0)

    return Lagrangian(WLMConfig(functional=functional, **options), scales, learned=learned).double()


def oscillator(k: float, gamma: float, num: int = 200, times: np.ndarray = TIMES) -> Snapshots:
    """Particles in a harmonic potential with friction, off its centre; velocities are those of each time."""
    rng = np.random.default_rng(0)
    x0, v0 = 1 + 0.5 * rng.normal(size=(num, 1)), 0.2 * rng.normal(size=(num, 1))
    h, path, speed = 1e-5, [], []
    for t in times:
        (A, B), (C, D), (E, F) = (harmonic(k, gamma, s) for s in (t, t + h, t - h))
        path.append(A * x0 + B * v0)
        speed.append(((C - E) * x0 + (D - F) * v0) / (2 * h))

    return Snapshots.from_arrays(path, times, velocity=speed)


@pytest.mark.slow
def test_rollouts_recover_a_quadratic_potential_and_friction_within_1_percent() -> None:
    seen = oscillator(4.0, 0.5, num=80)
    form = FunctionalConfig(potential=PotentialConfig(kind="concat", width=4, depth=1, time_frequencies=0))
    config = WLMConfig(functional=form, steps=600, step=0.05, friction=0.2)
    model = WLM(config).fit(seen)
    force = model.acceleration(np.array([[0.5], [1.5]]))
    np.testing.assert_allclose(force[0] - force[1], 4.0, rtol=0.01)
    np.testing.assert_allclose(model.friction, 0.5, rtol=0.01)


@pytest.mark.parametrize("scale", ["physical", "mobility"])
def test_gradients_of_a_rollout_equal_finite_differences(scale) -> None:
    """In double precision, through forces, friction and first velocities; a force that is held still would fail."""
    both = FunctionalConfig(terms=("external", "attention"), potential=SMALL.potential, width=8)
    model = plain(2, both, learned=True, scale=scale)
    x = torch.randn(5, 2, dtype=torch.float64)

    def loss() -> torch.Tensor:
        found, _ = model.roll(x, model.velocity(x, NONE), np.array([0.0, 0.4, 1.0]), NONE, 0.1)
        return found[1:].square().sum()

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    found = torch.autograd.grad(loss(), parameters, allow_unused=True)
    worst, h = 0.0, 1e-6
    for name, parameter, gradient in zip(names, parameters, found, strict=True):
        flat = parameter.data.view(-1)
        i = len(flat) // 2
        flat[i] += h
        up = loss().item()
        flat[i] -= 2 * h
        down = loss().item()
        flat[i] += h
        exact = 0.0 if gradient is None else gradient.view(-1)[i].item()
        worst = max(worst, abs((up - down) / (2 * h) - exact) / (1 + abs(exact)))
        assert worst < 1e-6, name


def test_a_gas_that_spreads_and_a_quantum_packet_follow_their_widths() -> None:
    """sigma'' = T / sigma, and sigma² = s² + hbar² t² / (4 s²), from rest."""
    z = np.random.default_rng(1).normal(size=(60, 2))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T, bias=True))).T
    for options, width in (
        ({"fisher": 0.8}, lambda t: np.sqrt(0.7**2 + 0.8**2 * t**2 / (4 * 0.7**2))),
        ({"entropy": 0.5}, None),
    ):
        model = plain(2, FunctionalConfig(terms=(), density="gaussian", **options), friction=0.0)
        x = torch.as_tensor(0.7 * z)
        times = np.linspace(0, 2, 5)
        found, _ = model.roll(x, torch.zeros_like(x), times, NONE, 0.005)
        spread = found.detach().std(1, unbiased=False).mean(1).numpy()
        if width is None:
            exact = solve_ivp(lambda t, y: [y[1], 0.5 / y[0]], (0, 2), [0.7, 0.0], t_eval=times, rtol=1e-10).y[0]
        else:
            exact = width(times)
        np.testing.assert_allclose(spread, exact, rtol=1e-4)


def test_mean_field_springs_oscillate_about_a_ballistic_mean() -> None:
    """W = kappa / 2 |x - y|²: deviations swing at the root of kappa, whatever their number."""

    class Springs(torch.nn.Module):
        def forward(self, h):
            square = h / (1 - h)  # of the scaled distance
            return 2.0 / 2 * square

    model = plain(1, FunctionalConfig(terms=("pairwise",), width=4), friction=0.0)
    model.functional.pairwise = Springs()
    x = torch.tensor([[0.0], [1.0], [0.5], [2.0]], dtype=torch.float64)
    v = torch.full_like(x, 0.3)
    found, _ = model.roll(x, v, np.array([0.0, 1.5]), NONE, 0.002)
    found = found.detach()
    mean = x.mean(0)
    torch.testing.assert_close(found[1].mean(0), mean + 0.45, rtol=0, atol=1e-9)
    swung = (x - mean) * np.cos(np.sqrt(2.0) * 1.5)
    torch.testing.assert_close(found[1] - found[1].mean(0), swung, rtol=0, atol=1e-5)


@pytest.mark.parametrize("velocity", ["observed", "zero", "action_matching", "learned"])
def test_a_loaded_model_is_bit_equal(tmp_path, velocity) -> None:
    seen = oscillator(4.0, 0.5, num=30)
    model = WLM(replace(QUICK, velocity=velocity)).fit(seen)
    again = WLM.load(model.save(tmp_path / "run"))
    first = seen.of(0)[0]
    one, other = (each.advance(first, [0.0, 0.7, 1.1]) for each in (model, again))
    np.testing.assert_array_equal(one, other)
    assert (again.config, again.step, again.friction) == (model.config, model.step, model.friction)


def test_interpolation_and_forecast_start_from_the_latest_fitted_snapshot() -> None:
    seen = oscillator(4.0, 0.5, num=30)
    held = Snapshots(**{**vars(seen), "held_out": np.isin(seen.time, [0.5, 2.0])})
    model = WLM(QUICK).fit(held)
    at = model.interpolate(held, [0.25, 0.5, 0.6])
    np.testing.assert_allclose(at[0], held.of(0)[1].x, atol=1e-6)
    np.testing.assert_array_equal(at[1], model.advance(held.of(0)[1], [0.25, 0.5])[1])
    ahead = model.forecast(held, [2.0, 2.5])
    np.testing.assert_array_equal(ahead, model.advance(held.of(0)[7], [1.75, 2.0, 2.5])[1:])
    free = model.forecast(held, [2.0], forecast_from="first")
    np.testing.assert_array_equal(free, model.advance(held.of(0)[0], [0.0, 2.0])[1:])


def test_fits_are_reproducible() -> None:
    seen = oscillator(4.0, 0.5, num=30)
    for loss in ("assignment", "sliced"):  # the directions of the sliced loss are drawn
        fits = [WLM(replace(QUICK, loss=loss), seed).fit(seen).losses for seed in (0, 0, 1)]
        np.testing.assert_array_equal(fits[0], fits[1])
        assert np.abs(fits[0] - fits[2]).max() > 1e-6


def test_energy_falls_by_friction_alone() -> None:
    seen = oscillator(4.0, 0.5, num=30)
    first = seen.of(0)[0]
    for friction, falls in ((0.0, False), (0.5, True)):
        model = WLM(replace(QUICK, friction=friction)).fit(seen)
        x, v = model.trajectories(first.x, [0.0, 1.0], v0=first.velocity, step=0.005)
        energy = [model.energy(a, b) for a, b in zip(x, v, strict=True)]
        assert (energy[1] < energy[0] - 1e-3) == falls
        if not falls:
            np.testing.assert_allclose(energy[1], energy[0], atol=1e-3)


def at_rest(num: int) -> Snapshots:
    return Snapshots.from_arrays(np.zeros((num, 3, 1)), np.arange(float(num)))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: WLM().simulate(np.zeros((3, 1)), [0.0]), "a model that was fitted or loaded, found one that was"),
        (lambda m: WLM(WLMConfig(velocity="observed")).fit(at_rest(2)), "velocity: expected velocities"),
        (lambda m: WLM(QUICK).fit(at_rest(1)), "trajectory 0: expected at least two snapshots to fit, found 1"),
        (lambda m: m.simulate(np.zeros((3, 2)), [0.0, 1.0]), r"x0: expected \(N, 1\), found \(3, 2\)"),
        (lambda m: m.simulate(np.zeros((3, 1)), [0.0, 1.0]), "v0: expected velocities of the samples"),
        (lambda m: m.forecast(oscillator(4.0, 0.5), [1.0]), "times: expected after 2, the last snapshot's, found 1.0"),
        (lambda m: m.interpolate(oscillator(4.0, 0.5), [-1.0]), "times: expected at least 0, the first snapshot's"),
        (lambda m: WLMConfig(scale="cosmic"), "scale: expected physical or mobility, found cosmic"),
    ],
)
def test_invalid_calls_are_refused(call, told) -> None:
    model = WLM(QUICK).fit(oscillator(4.0, 0.5, num=30))
    with pytest.raises(InputError, match=told):
        call(model)


def test_forecasts_with_the_true_law_are_exact() -> None:
    """A harmonic potential whose coefficients are set by hand: two periods ahead, W1 is that of the solver."""
    seen = oscillator(4.0, 0.0, num=40, times=np.linspace(0, 2 * np.pi, 9))
    model = WLM(replace(QUICK, friction=0.0, steps=1)).fit(seen.select(seen.time < 4))
    external = model._fitted().functional.external
    for parameter in external.parameters():
        parameter.data.zero_()
    scale = model._fitted().scales
    unit = float(scale.action / (scale.span[1] - scale.span[0]))
    bias = external.conditioner[-1].bias
    z, length = float(scale.centre), float(scale.length)
    with torch.no_grad():  # V = 2 x² = 2 (z + length y)² in the scaled position y
        bias[-2], bias[-1] = 4 * z * length / unit, 4 * length**2 / unit
    last = seen.of(0)[-1]
    made = model.advance(seen.of(0)[0], [0.0, last.time], step=0.01)[1]
    assert wasserstein(made, last.x, 1) < 0.01


def test_endpoint_conditioned_paths_end_in_the_next_snapshot_with_its_velocities() -> None:
    """A cubic through both ends: with a law that is wrong it is Hermite's, and at the snapshots exact."""
    seen = oscillator(4.0, 0.5, num=30)
    held = Snapshots(**{**vars(seen), "held_out": np.isin(seen.time, [0.5, 1.0])})
    model = WLM(QUICK).fit(held)
    h = 1e-3
    near = model.interpolate(held, [0.25, 0.5, 1.25 - 2 * h, 1.25 - h], endpoint_conditioned=True)
    np.testing.assert_allclose(np.sort(near[0], 0), np.sort(seen.of(0)[1].x, 0), atol=1e-6)
    end = seen.of(0)[5]
    np.testing.assert_allclose(np.sort(near[3], 0), np.sort(end.x, 0), atol=3 * h * np.abs(end.velocity).max())
    speed = (near[3] - near[2]) / h
    order = np.argsort(near[3][:, 0])
    np.testing.assert_allclose(speed[order], end.velocity[np.argsort(end.x[:, 0])], atol=0.05)
    wrong = [
        np.abs(
            np.sort(model.interpolate(held, [1.0], endpoint_conditioned=way)[0], 0) - np.sort(seen.of(0)[4].x, 0)
        ).mean()
        for way in (False, True)
    ]
    assert wrong[1] < 0.5 * wrong[0]  # the law has hardly been fitted
    last = model.interpolate(held, [2.0], endpoint_conditioned=True)[0]
    np.testing.assert_allclose(last, seen.of(0)[8].x, atol=1e-6)  # nothing after it to end in


def test_gradient_flow_velocities_need_the_mobility_scale() -> None:
    with pytest.raises(InputError, match="scale: expected mobility, if velocity is gradient_flow"):
        WLMConfig(velocity="gradient_flow")


def test_gradient_flow_velocities_equal_the_force_at_high_friction() -> None:
    functional = FunctionalConfig(terms=("fourier",), fourier_features=0)
    config = replace(QUICK, functional=functional, scale="mobility", velocity="gradient_flow", friction=1e4)
    seen = oscillator(4.0, 0.5, num=30)
    bare = Snapshots.from_arrays([s.x for s in seen.of(0)], seen.time)
    model = WLM(config).fit(bare)
    with torch.no_grad():
        form = model.lagrangian.functional.fourier
        form.weight.zero_()
        form.weight[1] = float(2 * form.scales.length.square() / form.unit)  # V = (x - centre)²
    centre = model.lagrangian.scales.centre.numpy()
    x, v = model.trajectories(bare[0].x, [0.0, 0.5], step=0.01)
    np.testing.assert_allclose(v[0], -2 * (bare[0].x - centre), rtol=1e-5)
    np.testing.assert_allclose(x[1] - centre, np.exp(-1.0) * (bare[0].x - centre), rtol=0.02)


def test_the_potential_depends_on_the_parameter() -> None:
    """Bowls of stiffness mu: friction is one, weights that differ choose samples, unseen parameters are between."""
    rng, times, stiff = np.random.default_rng(0), np.linspace(0, 1, 6), (1.0, 2.0, 4.0)
    x0 = rng.normal(1.0, 0.3, (40, 1))
    paths = [[np.cos(np.sqrt(k) * t) * x0 for t in times] for k in stiff]
    speeds = [[-np.sqrt(k) * np.sin(np.sqrt(k) * t) * x0 for t in times] for k in stiff]
    twice = np.where(x0[:, 0] > 1, 2.0, 1.0)
    seen = Snapshots.from_arrays(paths, times, list(stiff), velocity=speeds, weight=[[twice] * 6] * 3)
    network = FunctionalConfig(potential=PotentialConfig(kind="film", width=16, depth=2, time_frequencies=0))
    model = WLM(replace(QUICK, functional=network, steps=150, friction=0.01, weak_form_steps=100, learning_rate=1e-2))
    model.fit(seen)
    slopes = [float(np.diff(-model.acceleration([[0.5], [1.0]], 0.0, [k]), axis=0)[0, 0]) / 0.5 for k in (1, 3, 4)]
    assert slopes[0] < slopes[1] < slopes[2]
    np.testing.assert_allclose(slopes, [1, 3, 4], atol=0.7)
    with pytest.warns(UserWarning, match="mu = 5 lies outside the fitted range 1 to 4"):
        model.simulate(x0, times, [5.0], v0=0 * x0)


@pytest.mark.parametrize("gamma", [1e3, 1e4])
def test_pressure_at_high_friction_is_diffusion(gamma) -> None:
    """Ornstein and Uhlenbeck: mean exp(-k t), variance T / k + (v - T / k) exp(-2 k t), within W1 0.02."""
    T, k, wide = 0.5, 1.3, 0.2
    functional = FunctionalConfig(terms=("fourier",), fourier_features=0, entropy=T, density="gaussian")
    model = plain(1, functional, friction=gamma, scale="mobility")
    with torch.no_grad():
        model.functional.fourier.weight[1] = k
    levels = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    normal = torch.special.ndtri(levels)[:, None]
    normal = normal / normal.std(unbiased=False)
    times = np.array([0.0, 0.3, 1.0, 2.0])
    x = 1.0 + wide * normal
    v = model.functional.acceleration(x, 0.0, NONE)
    found, _ = model.roll(x, v, times, NONE, 0.005)
    for at, t in zip(found.detach(), times, strict=True):
        width = np.sqrt(T / k + (wide**2 - T / k) * np.exp(-2 * k * t))
        assert (at - (np.exp(-k * t) + width * normal)).abs().mean() < 0.02  # W1: order is kept
