"""Systems that are forecast: each obeys its law, and files of the literature are read or refused."""

import numpy as np
import pytest

from ndt.dynamics.systems import ensembles
from ndt.dynamics.systems.boids import Boids
from ndt.dynamics.systems.diffusion import POTENTIALS, Diffusion
from ndt.dynamics.systems.named import SYSTEMS
from ndt.dynamics.systems.published import STEP, drifters, embryoid
from ndt.errors import InputError
from tests.realdata import real_file
from tests.stand_ins import write_embryoid


def accelerations(system: ensembles.Ensemble, t: float, num: int = 50) -> tuple[np.ndarray, ...]:
    """Positions, velocities as told and as positions change, and accelerations, at one time."""
    h = 1e-4
    seen = system.simulate(num, np.array([t - h, t, t + h]), seed=1)
    before, at, after = (seen[i] for i in range(3))
    rate = (after.x - before.x) / (2 * h)

    return at.x, at.velocity, rate, (after.velocity - before.velocity) / (2 * h)


LAWS = {
    "harmonic_oscillator": (ensembles.harmonic_oscillator(4.0, 0.5), lambda x, v: -4 * x - 0.5 * v),
    "heavily damped": (ensembles.harmonic_oscillator(1.0, 5.0), lambda x, v: -x - 5 * v),
    "critically damped": (ensembles.harmonic_oscillator(1.0, 2.0), lambda x, v: -x - 2 * v),
    "solid_rotation": (ensembles.solid_rotation(2.0), lambda x, v: -4 * x),
    "point vortex": (
        ensembles.vortex_tracers(core=0.0), lambda x, v: -((2 * np.pi) ** 2) * x / (x**2).sum(1, keepdims=True) ** 2,
    ),
    "vortex": (
        ensembles.vortex_tracers(), lambda x, v: -x * (v**2).sum(1, keepdims=True) / (x**2).sum(1, keepdims=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_an_ensemble_obeys_newtons_law(name) -> None:
    system, law = LAWS[name]
    x, v, rate, pushed = accelerations(system, 0.7)
    scale = np.abs(pushed).max()
    np.testing.assert_allclose(rate, v, atol=1e-5 * np.abs(v).max())
    np.testing.assert_allclose(pushed, law(x, v), atol=2e-4 * scale)


def test_an_isothermal_gas_obeys_its_equation() -> None:
    """Of a Gaussian of width sigma: T x / sigma² - k x - gamma v."""
    system = ensembles.isothermal_gas(0.5, 1.0, 0.3, width=0.4)
    x, v, rate, pushed = accelerations(system, 0.8)
    first = system.simulate(50, np.array([0.0]), seed=1)[0].x
    sigma = 0.4 * np.abs(x).sum() / np.abs(first).sum()
    law = 0.5 * x / sigma**2 - x - 0.3 * v
    np.testing.assert_allclose(rate, v, atol=1e-4)
    np.testing.assert_allclose(pushed, law, atol=1e-3 * np.abs(law).max())


def test_a_vortex_core_rotates_rigidly_and_the_period_at_radius_1_is_1() -> None:
    found = ensembles.vortex_tracers(core=50.0, width=0.1).simulate(20, np.array([0.0, 0.25]))
    x, y = (found[i].x for i in range(2))
    np.testing.assert_allclose(y, np.stack([-x[:, 1], x[:, 0]], 1), atol=1e-3)
    for core in (0.0, 0.5, 1.0):
        system = ensembles.vortex_tracers(core=core, width=1e-9)
        np.testing.assert_allclose(system.simulate(2, np.array([1.0]))[0].x, [[1.0, 0.0]] * 2, atol=1e-7)


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_potentials_slope_is_that_of_its_formula(name) -> None:
    formulas = {
        "poly": lambda x, y: (x**2 + y**2) / 2,
        "styblinski": lambda x, y: sum(u**4 - 16 * u**2 + 5 * u for u in (x, y)) / 2,
        "bohachevsky": lambda x, y: (
            x**2 + 2 * y**2 - 0.3 * np.cos(3 * np.pi * x) - 0.4 * np.cos(4 * np.pi * y) + 0.7
        ),
        "oakley_ohagan": lambda x, y: x + y + x**2 + y**2 + x * y,
        "wavy_plateau": lambda x, y: np.sin(x) + np.sin(y),
    }  # fmt: skip
    points, h = np.random.default_rng(0).normal(size=(20, 2)), 1e-5
    slopes = [
        (formulas[name](*(points + h * e).T) - formulas[name](*(points - h * e).T)) / (2 * h) for e in np.eye(2)
    ]  # fmt: skip
    np.testing.assert_allclose(POTENTIALS[name](points), np.stack(slopes, 1), atol=1e-5)


def test_a_diffusion_in_a_bowl_has_the_variance_of_ornstein_and_uhlenbeck() -> None:
    for fresh in (True, False):
        seen = Diffusion(potential="poly", step=5e-3, fresh=fresh).simulate(4000, np.array([0.0, 0.5, 1.0]))
        for s in seen.of(0):
            exact = 0.5 + (0.2 - 0.5) * np.exp(-2 * s.time)
            np.testing.assert_allclose(s.x.var(), exact, rtol=0.05)
        assert seen.paired is not fresh
        moved = np.abs(np.corrcoef(seen[0].x[:, 0], seen[1].x[:, 0])[0, 1])
        assert moved < 0.1 if fresh else moved > 0.3  # the same particles remember


def test_boids_keep_their_speed_turn_at_walls_and_align_with_their_neighbours() -> None:
    seen = Boids().simulate(300, np.arange(81) * 0.5, seed=0)
    for s in seen.of(0):
        np.testing.assert_allclose(np.linalg.norm(s.velocity, axis=1), 1, rtol=1e-9)
    assert np.quantile(np.abs(seen[80].x), 0.95) < 9  # one that flies straight at a wall is not turned by it
    aligned = []
    for s in (seen[0], seen[16]):
        apart = np.linalg.norm(s.x[:, None] - s.x, axis=-1)
        aligned.append(np.mean((s.velocity @ s.velocity.T)[(apart < 0.5) & (apart > 0)]))
    assert aligned[1] > aligned[0] + 0.3
    some = Boids().simulate(300, np.array([0.0, 2.0, 40.0]), seed=0)
    np.testing.assert_array_equal(some[2].x, seen[80].x)
    order = np.random.default_rng(0).permutation(300)
    turn = Boids()._turn(seen[3].x, seen[3].velocity)
    np.testing.assert_allclose(Boids()._turn(seen[3].x[order], seen[3].velocity[order]), turn[order], atol=1e-12)
    with pytest.raises(InputError, match=r"boids: times: expected whole steps of 0\.5, found"):
        Boids().simulate(5, np.array([0.0, 0.7]))


def test_boids_turn_as_the_formula_says() -> None:
    x = np.array([[0.0, 0.0], [0.2, 0.0], [0.9, 0.0], [6.0, -7.0]])
    v = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])
    found = Boids()._turn(x, v)
    middle = 0.005 * np.array([0.55, 0.0]) + 0.3 * ((v[1] - v[0]) + (v[2] - v[0])) / 2 - 0.1 * np.array([0.2, 0.0])
    np.testing.assert_allclose(found[0], middle)
    np.testing.assert_allclose(found[3], [-0.5, 0.5])


def test_systems_hold_out_times_after_the_fitted_ones() -> None:
    seen = SYSTEMS["vortex_tracers"].snapshots(5)
    assert seen.held_out.sum() == 40
    assert seen.time[~seen.held_out].max() == pytest.approx(1.5)


def test_drifters_are_read_with_velocities_between_two_times() -> None:
    path = real_file("snapshots/ocean_vortex_small.npz")
    seen = drifters(path, [1, 3])
    with np.load(path) as file:
        np.testing.assert_array_equal(seen[2].x, file["positions"][2])
        np.testing.assert_array_equal(seen[2].velocity, STEP * file["velocities"][2])
    assert seen.time[seen.held_out].tolist() == [1.0, 3.0]


def test_embryoid_cells_are_standardised_by_fitted_cells(tmp_path) -> None:
    path = write_embryoid(tmp_path / "eb.npz", num_cells=600, num_dims=12)
    with np.load(path) as file:
        assert (file["pcs"].shape, file["pcs_delta"].shape) == ((600, 12), (600, 12))
        raw, delta, label = file["pcs"][:, :5], file["pcs_delta"][:, :5], file["sample_labels"]
    seen = embryoid(path, held_out=[2])
    fitted = seen.fitted
    np.testing.assert_allclose(fitted.x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(fitted.x.std(0), 1)
    np.testing.assert_allclose(seen[1].velocity, delta[label == 1] / raw[label != 2].std(0))
    side = [np.std(s.x[:, 1]) for s in seen.of(0)]
    assert side[4] > 2 * side[0]  # it branches


@pytest.mark.parametrize(
    ("arrays", "options", "told"),
    [
        ({"pcs": np.zeros((4, 6))}, {}, "pcs_delta: expected an array of that name, found pcs"),
        ({}, {"num_dims": 9}, "pcs: expected at least 9 components, found 6"),
        ({"sample_labels": np.zeros(4)}, {}, "sample_labels: expected two or more samples"),
        ({"sample_labels": np.zeros(3)}, {}, "shapes: expected"),
        ({}, {"held_out": [7]}, r"sample_labels: expected two or more samples, among them \[7\]"),
    ],
)
def test_invalid_embryoid_files_are_refused(arrays, options, told, tmp_path) -> None:
    whole = {"pcs": np.zeros((4, 6)), "pcs_delta": np.zeros((4, 6)), "sample_labels": np.array([0, 0, 1, 1])}
    np.savez(tmp_path / "eb.npz", **(arrays if "pcs" in arrays else whole | arrays))
    with pytest.raises(InputError, match=told):
        embryoid(tmp_path / "eb.npz", **options)


def test_unreadable_files_are_refused(tmp_path) -> None:
    (tmp_path / "a.npz").write_text("no archive")
    for read in (embryoid, drifters):
        with pytest.raises(InputError, match=r"a\.npz: content: expected an \.npz file of arrays"):
            read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", positions=np.zeros((2, 3, 2)))
    with pytest.raises(InputError, match="velocities: expected an array of that name, found positions"):
        drifters(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", positions=np.zeros((2, 3, 2)), velocities=np.zeros((2, 4, 2)))
    with pytest.raises(InputError, match=r"shapes: expected \(T, N, d\) twice"):
        drifters(tmp_path / "c.npz")
