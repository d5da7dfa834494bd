"""Systems beside theory: moments, growth and damping rates, energies, and how fast phase space shrinks."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import root
from scipy.special import wofz
from scipy.stats import norm, qmc

from ndt.dynamics.systems.lorenz import Lorenz
from ndt.dynamics.systems.named import SYSTEMS
from ndt.dynamics.systems.oscillator import Oscillator
from ndt.dynamics.systems.plasma import Beams, Landau, Mesh
from ndt.dynamics.systems.trap import Trap
from ndt.errors import InputError


def test_oscillator_has_the_moments_of_its_equation() -> None:
    system = Oscillator(sigma=2.0)  # so much that noise matters
    times = np.array([0.0, 0.13, 0.5, 1.0])
    x = system.simulate(40_000, times, seed=1).x.reshape(4, -1, 2)
    mean, variance = system.moments(times)
    n = 80_000  # both coordinates
    np.testing.assert_allclose((x.mean((1, 2)) - mean) / np.sqrt(variance / n), 0, atol=4)
    np.testing.assert_allclose(x.reshape(4, -1).var(1) / variance, 1, atol=4 * np.sqrt(2 / n))


def test_the_oscillator_does_not_depend_on_the_number_of_times() -> None:
    system = Oscillator(sigma=2.0)
    often = system.simulate(20_000, np.linspace(0, 1, 11), seed=2).x.reshape(11, -1)[-1]
    once = system.simulate(20_000, np.array([0.0, 1.0]), seed=3).x.reshape(2, -1)[-1]
    np.testing.assert_allclose(often.std() / once.std(), 1, atol=4 * np.sqrt(1 / 40_000))


def oscillator_field(system: Oscillator, x: np.ndarray, time: float) -> np.ndarray:
    """The gradient of the optimal potential, without noise."""
    step = 1e-6
    (before, at, after), (v0, v1, v2) = system.moments(np.array([time - step, time, time + step]))

    return (after - before) / (2 * step) + (v2 - v0) / (4 * step) / v1 * (x - at)


def trap_moments(system: Trap, mu: float, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a particle in the harmonic trap.

    The mean of all particles and the deviations from it are independent: m' = a - m, V' = -2 V + 2 / (beta d) of the
    mean, and W' = -2 (1 + mu) W + 2 (1 - 1 / d) / beta of a deviation.
    """

    def change(t: float, y: np.ndarray) -> list[float]:
        mean, common, own = y
        return [
            system.centre(t) - mean,
            -2 * common + system.noise**2 / system.dims,
            -2 * (1 + mu) * own + system.noise**2 * (1 - 1 / system.dims),
        ]

    start = [system.mean, system.spread**2 / system.dims, system.spread**2 * (1 - 1 / system.dims)]
    found = solve_ivp(change, (0.0, float(times[-1])), start, t_eval=times, rtol=1e-9, atol=1e-12)

    return found.y[0], found.y[1] + found.y[2]


def test_the_optimal_field_of_the_oscillator_matches_its_moments() -> None:
    """The field is linear: its slope is the rate of the standard deviation, its value at the mean the mean's rate."""
    system, h = Oscillator(sigma=0.0), 1e-5
    mean, variance = system.moments(np.array([0.3 - h, 0.3, 0.3 + h]))
    at = np.array([[mean[1], mean[1]], [mean[1] + np.sqrt(variance[1])] * 2])
    field = oscillator_field(system, at, 0.3)
    np.testing.assert_allclose(field[0], (mean[2] - mean[0]) / (2 * h), rtol=1e-5)
    np.testing.assert_allclose(field[1] - field[0], (np.sqrt(variance[2]) - np.sqrt(variance[0])) / (2 * h), rtol=1e-4)
    np.testing.assert_allclose(Oscillator(sigma=0.0).least_loss(), -48.105, atol=0.01)  # methods' own figure


def test_a_mesh_conserves_charge_and_a_uniform_plasma_has_no_force() -> None:
    rng = np.random.default_rng(0)
    for dims in (1, 2, 3):
        mesh = Mesh(4.0, 8, dims)
        x = rng.uniform(0, 4, (500, dims))
        np.testing.assert_allclose(mesh.density(x).mean(), 1.0, rtol=1e-12)
        grid = np.stack(np.meshgrid(*[np.arange(8) * 0.5] * dims, indexing="ij"), -1).reshape(-1, dims)
        np.testing.assert_allclose(mesh.acceleration(grid), 0, atol=1e-12)
        np.testing.assert_allclose(mesh.acceleration(x).sum(0), 0, atol=1e-10)  # momentum: none pushes itself


def test_the_field_of_a_sine_is_that_of_poissons_equation() -> None:
    mesh, mu, L = Mesh(2 * np.pi, 64, 1, mu=1.5), 1.5, 2 * np.pi
    grid = np.linspace(0, L, 200_001)
    level = (np.arange(200_000) + 0.5) / 200_000
    x = np.interp(level, (grid + 0.2 * np.sin(grid)) / L, grid)[:, None]  # density 1 + 0.2 cos x
    expected = 0.2 * np.sin(np.arange(64) * L / 64) / mu**2  # mu² phi'' = 0.2 cos x, phi' = 0.2 sin x / mu²
    np.testing.assert_allclose(mesh.field(x)[0], expected, atol=3e-4)  # clouds smooth: a thousandth of 0.2


def test_energy_is_conserved_to_the_second_order_of_the_step() -> None:
    system, drift = Beams(cells=64), []
    x, v = system.start(1.0, 4000, seed=0)
    mesh = system.mesh(1.0)

    def energy(x: np.ndarray, v: np.ndarray) -> float:
        return (v**2).mean() * mesh.length / 2 + mesh.electric_energy(x)  # the particles' mass is the box's volume

    before = energy(x, v)
    for step in (0.4, 0.2):
        drift.append(abs(energy(*mesh.advance(x, v, 4.0, step)) / before - 1))
    assert drift[1] < 2e-4
    assert drift[1] < drift[0] / 2.5  # four times less, but for the mesh's own heating


def _z_slope(z: complex) -> complex:
    """The derivative of the plasma dispersion function."""
    return -2 * (1 + z * 1j * np.sqrt(np.pi) * wofz(z))


def _growth(speeds, widths, shares, k: float, guess: complex) -> complex:
    def dispersion(w):
        omega = w[0] + 1j * w[1]
        zs = [(omega / k - u) / (np.sqrt(2) * s) for u, s in zip(speeds, widths, strict=True)]
        total = 1 - sum(p * _z_slope(z) / (2 * k**2 * s**2) for p, z, s in zip(shares, zs, widths, strict=True))
        return [total.real, total.imag]

    found = root(dispersion, [guess.real, guess.imag], tol=1e-12)
    assert found.success
    return complex(*found.x)


@pytest.mark.slow
def test_landau_damping_has_its_textbook_rate() -> None:
    """k = 0.5: frequency 1.4156, damping 0.1533; the field's energy falls at twice that, in beats of half a period."""
    exact = _growth([0.0], [1.0], [1.0], 0.5, 1.4 - 0.15j)
    np.testing.assert_allclose([exact.real, exact.imag], [1.4156, -0.1533], atol=1e-4)
    system = Landau(dims=1, cells=32)
    times = np.arange(0, 12, 0.05)
    x, v = system.start(0.05, 100_000, seed=0)
    mesh, energy = system.mesh(0.05), []
    for _ in times:
        energy.append(mesh.electric_energy(x))
        x, v = mesh.advance(x, v, 0.05, 0.05)
    log = np.log(energy)
    tops = [i for i in range(1, len(log) - 1) if log[i - 1] < log[i] > log[i + 1] and 1 < times[i] < 11]
    slope = np.polyfit(times[tops], log[tops], 1)[0]
    np.testing.assert_allclose(slope / 2, exact.imag, rtol=0.05)
    np.testing.assert_allclose(np.pi / np.diff(times[tops]).mean(), exact.real, rtol=0.03)


def test_two_streams_grow_at_their_linear_rate() -> None:
    system = Beams(speeds=(-3.0, 3.0), widths=(0.5, 0.5), box=2 * np.pi / 0.2, perturbation=0.0, cells=64)
    exact = _growth(system.speeds, system.widths, system.shares, 0.2, 0.0 + 0.3j)
    assert exact.imag > 0.2
    level = qmc.Halton(2, rng=np.random.default_rng(0)).random(20_000)  # spread evenly: shot noise would grow, too
    x = np.mod(level[:, :1] * system.box + 1e-3 * np.sin(2 * np.pi * level[:, :1]), system.box)
    v = 0.5 * norm.ppf(level[:, 1:]) + 3.0
    x, v = np.concatenate([x, x]), np.concatenate([v, -v])
    mesh, log = Mesh(system.box, 64, 1), []
    times = np.arange(0, 22.5, 0.5)
    for _ in times:
        log.append(np.log(np.abs(np.fft.rfft(mesh.field(x)[0]))[1]))  # the first wave alone
        x, v = mesh.advance(x, v, 0.5, 0.05)
    window = times >= 13  # other waves of the perturbation have died away, and the beams do not yet roll up
    slope = np.polyfit(times[window], np.array(log)[window], 1)[0]
    np.testing.assert_allclose(slope, exact.imag, rtol=0.05)


def test_beams_and_waves_have_their_initial_moments() -> None:
    bump = SYSTEMS["bump_on_tail"].model.simulate([1.25, 1.85], 4000, np.array([0.0, 0.1]))
    assert bump.mu.tolist() == [[1.25], [1.85]]
    assert bump.paired
    v = bump[0].x[:, 1]
    np.testing.assert_allclose(v.mean(), 0.4, atol=4 * v.std() / np.sqrt(4000))
    assert np.all((bump.x[:, 0] >= 0) & (bump.x[:, 0] < 50))
    strong = Landau(cells=8).simulate([0.5], 4096, np.array([0.0, 0.1]))
    x = strong[0].x
    assert x.shape == (4096, 6)
    np.testing.assert_allclose(np.cos(0.5 * x[:, :3]).mean(0), 0.25, atol=0.01)  # the mean of cos (1 + cos / 2)
    np.testing.assert_allclose(x[:, 3:].std(0), 1.0, atol=0.02)


def test_the_lorenz_system_contracts_phase_space_at_a_constant_rate() -> None:
    system = Lorenz()
    b1, _, _, _, b5, b6 = system.constants
    expected = -(2 * system.sigma * b1 + 2 * system.sigma + system.sigma * b5 + b6 + 2 * b1 + 1)
    rng, h = np.random.default_rng(0), 1e-6
    for r in (5.0, 20.0):
        c = rng.normal(size=9)
        slope = [
            (system.field(c + h * e, r) - system.field(c - h * e, r))[i] / (2 * h) for i, e in enumerate(np.eye(9))
        ]
        np.testing.assert_allclose(sum(slope), expected, rtol=1e-6)
    rest = Lorenz(step=0.03).simulate([0.5], 20, np.array([0.0, 30.0]))
    assert np.abs(rest[1].x).max() < 1e-3 * np.abs(rest[0].x).max()
    wild = system.simulate([30.0], 50, np.array([0.0, 2.0]))
    assert 1 < np.abs(wild[1].x).max() < 1e3


def test_the_lorenz_scheme_is_of_fourth_order() -> None:
    times = np.array([0.0, 0.5])
    found = [Lorenz(step=h).simulate([15.0], 20, times)[1].x for h in (0.05, 0.025, 0.0125, 0.001)]
    errors = [np.abs(f - found[-1]).max() for f in found[:3]]
    np.testing.assert_allclose(np.polyfit(np.log([0.05, 0.025, 0.0125]), np.log(errors), 1)[0], 4, atol=0.4)


@pytest.mark.slow
def test_a_harmonic_trap_has_the_moments_of_its_equations() -> None:
    system, times = Trap(power=1, dims=4, step=0.005), np.array([0.0, 0.5, 1.0, 2.0])
    seen = system.simulate([0.0, 3.0], 20_000, times)
    for m, mu in enumerate((0.0, 3.0)):
        mean, variance = trap_moments(system, mu, times)
        for k, snapshot in enumerate(seen.of(m)):
            n = snapshot.x.size / 4  # particles of a copy go together
            np.testing.assert_allclose(snapshot.x.mean(), mean[k], atol=4 * np.sqrt(variance[k] / n) + 0.01)
            np.testing.assert_allclose(snapshot.x.var(0).mean() / variance[k], 1, atol=4 * np.sqrt(2 / n) + 0.01)


def test_an_aharmonic_trap_without_noise_follows_its_equation() -> None:
    system = Trap(power=3, dims=2, beta=1e12, spread=0.0, step=1e-3)
    found = system.simulate([1.0], 3, np.array([0.0, 1.0]))[1].x
    exact = solve_ivp(lambda t, x: (system.centre(t) - x) ** 3, (0, 1), [system.mean], rtol=1e-9).y[0, -1]
    np.testing.assert_allclose(found, exact, atol=2e-3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Beams(shares=(0.5, 0.4)), "one for each beam, with sum 1"),
        (lambda: Landau(dims=1).start(1.5, 10, 0), "an amplitude of 0 to below 1, found 1.5"),
        (lambda: Trap(power=2), "1 or 3, found 2"),
    ],
)
def test_invalid_systems_are_refused(call, told) -> None:
    with pytest.raises(InputError, match=told):
        call()


def test_systems_depend_on_the_seed_alone() -> None:
    times = np.array([0.0, 0.1])
    for system, mu in ((Beams(), [1.0]), (Landau(dims=1), [0.3]), (Trap(), [0.5]), (Lorenz(), [14.0])):
        one, same, other = (system.simulate(mu, 32, times, seed=s).x for s in (0, 0, 1))
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(same), rtol=0, atol=0)
        assert np.abs(one - other).max() > 1e-3
