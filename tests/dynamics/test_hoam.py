"""Action matching beside closed forms: fields, least losses, what fixed nodes do, and models on disk."""

import numpy as np
import pytest
import torch

from ndt.config.dynamics import HOAMConfig, PotentialConfig
from ndt.dynamics import batches, hoam
from ndt.dynamics.batches import Batch
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.interpolants import interpolants
from ndt.dynamics.potentials import Potential, Scales
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.oscillator import Oscillator
from ndt.errors import InputError

TIMES = np.linspace(0, 1, 41)
SMALL = PotentialConfig(width=16, depth=3, time_frequencies=2)
QUICK = HOAMConfig(potential=SMALL, num_nodes=16, num_particles=16, steps=10)


def white(rng: np.random.Generator, num: int, dims: int) -> np.ndarray:
    """Normal samples whose mean is 0 and whose covariance is the identity exactly: fields are of moments, above all."""
    z = rng.normal(size=(num, dims))
    z -= z.mean(0)

    return z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T, bias=True).reshape(dims, dims))).T


def gaussian(rng: np.random.Generator) -> tuple[Snapshots, object]:
    """A Gaussian that moves, turns and shrinks, and the field of its least action at noise eps."""

    def mean(t: float) -> np.ndarray:
        return np.array([2 * t, np.sin(3 * t)])

    def field(x: np.ndarray, t: float, noise: float) -> np.ndarray:
        width = 1 - 0.6 * t
        return [2, 3 * np.cos(3 * t)] + (-0.6 / width - noise**2 / (2 * width**2)) * (x - mean(t))

    z = white(rng, 4000, 2)

    return Snapshots.from_arrays([mean(t) + (1 - 0.6 * t) * z for t in TIMES], TIMES, paired=True), field


def relative(model: HOAM, field, noise: float, mu=None) -> float:
    rng, wrong, size = np.random.default_rng(9), 0.0, 0.0
    for t in np.linspace(0.02, 0.98, 25):
        x = np.array([2 * t, np.sin(3 * t)]) + (1 - 0.6 * t) * rng.normal(size=(400, 2))
        exact = field(x, t, noise)
        wrong += ((model.velocity(x, t, mu) - exact) ** 2).sum()
        size += (exact**2).sum()

    return float(np.sqrt(wrong / size))


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "steps", "limit"), [(0.0, 400, 0.02), (0.8, 300, 0.03)])
def test_the_field_of_a_gaussian_path_equals_its_closed_form(noise, steps, limit) -> None:
    """With noise the Laplacian is of samples, which a thousand steps would over-fit: of 2000 the error is then 6 %."""
    snapshots, field = gaussian(np.random.default_rng(0))
    model = HOAM(HOAMConfig(noise=noise, steps=steps)).fit(snapshots)
    assert relative(model, field, noise) < limit
    check = model.check
    assert not check.overfitted
    t = np.linspace(0, 1, 2001)
    slope = -0.6 / (1 - 0.6 * t) - noise**2 / (2 * (1 - 0.6 * t) ** 2)
    kinetic = 4 + 9 * np.cos(3 * t) ** 2 + 2 * (slope * (1 - 0.6 * t)) ** 2
    least = -np.trapezoid(kinetic, t) / 2
    np.testing.assert_allclose(check.fresh, least, rtol=0.01)
    np.testing.assert_allclose(check.kinetic, least, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "steps", "limit"), [("velocity", 500, 0.02), ("action", 250, 0.05)])
def test_a_translation_is_interpolated_to_unseen_parameters(form, steps, limit) -> None:
    rng, mus = np.random.default_rng(1), np.linspace(0.5, 2.0, 7)
    z = 0.5 * white(rng, 1500, 2)
    x = np.stack([[z + np.array([2 * m * t, 0]) for t in TIMES] for m in mus])
    snapshots = Snapshots.from_arrays(x, TIMES, mus, paired=True, held_out_mu=[mus[3]])
    model = HOAM(HOAMConfig(form=form, steps=steps)).fit(snapshots)
    for t in (0.1, 0.5, 0.9):
        found = model.velocity(z + np.array([2 * mus[3] * t, 0]), t, [mus[3]])
        exact = np.array([2 * mus[3], 0])
        assert np.sqrt(((found - exact) ** 2).sum(1).mean()) / (2 * mus[3]) < limit
    start = snapshots.of(3)[0].x
    moved = model.simulate(start, [0.0, 1.0], [mus[3]])[1]
    np.testing.assert_allclose(moved.mean(0) - start.mean(0), [2 * mus[3], 0], atol=0.06)


@pytest.mark.slow
def test_an_ornstein_uhlenbeck_drift_is_recovered_from_unpaired_snapshots() -> None:
    """Mean-reverting noise: the drift of the same noise is the linear one, whatever is known of single particles."""
    rng, rate, noise = np.random.default_rng(2), 1.5, 1.0
    spread = [
        np.sqrt(0.04 * np.exp(-2 * rate * t) + noise**2 * (1 - np.exp(-2 * rate * t)) / (2 * rate)) for t in TIMES
    ]
    x = [2 * np.exp(-rate * t) + s * white(rng, 2000, 1) for t, s in zip(TIMES, spread, strict=True)]
    model = HOAM(HOAMConfig(noise=noise, steps=500, num_trajectories=1)).fit(Snapshots.from_arrays(x, TIMES))
    for k in (5, 20, 35):
        at = x[k][:500]
        assert np.sqrt(((model.velocity(at, TIMES[k]) + rate * at) ** 2).mean() / ((rate * at) ** 2).mean()) < 0.12
    end = model.simulate(x[0], TIMES)[-1]
    np.testing.assert_allclose([end.mean(), end.std()], [x[-1].mean(), x[-1].std()], atol=0.05)


@pytest.mark.slow
def test_fixed_nodes_without_a_gauge_are_reported_as_overfitted(monkeypatch) -> None:
    """The loss falls far below what can be attained, and drawn nodes show it. Validation would stop it early."""
    system = Oscillator(sigma=0.0)
    seen = system.simulate(2000, np.linspace(0, 1, 201))
    monkeypatch.setattr(hoam, "VALIDATION", 0.0)
    free = HOAMConfig(rule="simpson", num_nodes=17, gauge="none", form="action", steps=400)
    bad = HOAM(free).fit(seen).check
    assert bad.overfitted
    assert bad.loss < 2 * system.least_loss()
    drawn = HOAMConfig(rule="stratified", num_nodes=17, form="action", steps=400)
    good = HOAM(drawn).fit(seen).check
    assert not good.overfitted
    assert good.fresh > 1.01 * system.least_loss()


@pytest.mark.slow
def test_the_oscillator_is_simulated_through_its_smallest_variance() -> None:
    system, times = Oscillator(sigma=0.0), np.linspace(0, 1, 21)
    model = HOAM(HOAMConfig(steps=800)).fit(system.simulate(3000, np.linspace(0, 1, 401)))
    np.testing.assert_allclose(model.check.fresh, system.least_loss(), rtol=0.01)
    x = model.simulate(system.simulate(2000, times, seed=5).of(0)[0].x, times)
    mean, variance = system.moments(times)
    shift = np.abs(x.mean(1) - mean[:, None]).max(1)
    spread = np.abs(x.std(1) - np.sqrt(variance)[:, None]).max(1)
    assert np.mean(np.sqrt(2) * np.hypot(shift, spread)) < 0.05


def test_the_gauge_makes_the_loss_independent_of_the_level() -> None:
    """c(t) added to a potential, much bent in time: with the gauge the loss stays, to rounding; without, it moves."""

    class Lifted(torch.nn.Module):
        def __init__(self, potential):
            super().__init__()
            self.potential = potential

        def forward(self, x, t, mu):
            return self.potential(x, t, mu) + (40 * torch.sin(30 * t))[:, None]

    snapshots, _ = gaussian(np.random.default_rng(3))
    rng = np.random.default_rng(4)
    for gauge, moved in (("mean", False), ("none", True)):
        config = HOAMConfig(**{**vars(QUICK), "gauge": gauge, "form": "action"})
        model = HOAM(config).fit(snapshots)
        batch = Batch.drawn(interpolants(snapshots, "auto", rng), np.zeros((1, 0)), config, rng)
        probes = torch.Generator()
        plain, lifted = (model._loss(p, batch, probes).item() for p in (model.potential, Lifted(model.potential)))
        assert (abs(plain - lifted) > 0.1) == moved


def test_both_forms_of_the_loss_agree(monkeypatch) -> None:
    """Along paths the end terms and the change in time are the velocity's term: the same potential, finely sampled."""
    monkeypatch.setattr(batches, "END_PARTICLES", 40_000)
    snapshots, _ = gaussian(np.random.default_rng(5))
    found = {}
    for form in ("action", "velocity"):
        fine = HOAMConfig(potential=SMALL, form=form, num_nodes=400, num_particles=200)
        rng = np.random.default_rng(6)
        batch = Batch.drawn(interpolants(snapshots, "paths", rng), np.zeros((1, 0)), fine, rng)
        torch.manual_seed(0)
        x = snapshots.x
        scales = Scales(x.mean(0), x.std(0), np.full(2, np.inf), (0.0, 1.0), np.zeros((1, 0)))
        potential = Potential(SMALL, scales)
        with torch.no_grad():
            for p in potential.parameters():
                p.add_(0.2 * torch.randn_like(p))
        found[form] = HOAM(fine)._loss(potential, batch, torch.Generator()).item()
    np.testing.assert_allclose(found["action"], found["velocity"], atol=0.1)  # end terms: 40,000 samples of about 3
    assert abs(found["velocity"]) > 0.3


def test_the_laplacian_of_a_quadratic_is_its_trace() -> None:
    class Bowl(torch.nn.Module):
        def forward(self, x, t, mu):
            return (x**2 * torch.tensor([1.5, -0.25])).sum(-1) + 0 * t[:, None]

    snapshots, _ = gaussian(np.random.default_rng(7))
    rng = np.random.default_rng(8)
    losses = []
    for noise in (0.0, 2.0):
        config = HOAMConfig(**{**vars(QUICK), "noise": noise, "form": "velocity"})
        path = interpolants(snapshots, "paths", rng)
        batch = Batch.drawn(path, np.zeros((1, 0)), config, np.random.default_rng(0))
        losses.append(HOAM(config)._loss(Bowl(), batch, torch.Generator().manual_seed(0)).item())
    np.testing.assert_allclose(losses[1] - losses[0], 2.0**2 / 2 * (3.0 - 0.5), rtol=1e-5)


@pytest.mark.parametrize("kind", ["colora", "film", "concat"])
def test_a_potential_is_equivariant_to_units_and_periodic(kind) -> None:
    config = PotentialConfig(kind=kind, width=8, depth=3, time_frequencies=2)
    x = torch.rand(3, 7, 2) * torch.tensor([5.0, 2.0])
    t, mu = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[1.0], [2.0], [1.5]])
    values = []
    for length, time in ((1.0, 1.0), (1000.0, 60.0)):
        torch.manual_seed(0)
        scales = Scales(
            np.zeros(2), np.array([5 / (2 * np.pi), 0.7]) * length, np.array([5 * length, np.inf]),
            (0.0, 3 * time), np.array([[1.0], [2.0]]),
        )  # fmt: skip
        potential = Potential(config, scales)
        values.append(potential(x * length, t * time, mu) / (length**2 / time))
        around = potential(x * length + torch.tensor([5 * length, 0.0]), t * time, mu) / (length**2 / time)
        torch.testing.assert_close(around, values[-1], rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(*values, rtol=1e-3, atol=2e-4)


@pytest.fixture(scope="module")
def quick() -> tuple[HOAM, Snapshots]:
    """A model that was hardly fitted, and what it saw of."""
    snapshots, _ = gaussian(np.random.default_rng(10))
    return HOAM(QUICK).fit(snapshots), snapshots


def test_particles_are_independent(quick) -> None:
    model, rng = quick[0], np.random.default_rng(11)
    x = rng.normal(size=(30, 2))
    together = model.simulate(x, [0.0, 0.5, 1.0], step=0.1)
    np.testing.assert_allclose(together[:, 5:9], model.simulate(x[5:9], [0.0, 0.5, 1.0], step=0.1), atol=1e-5)


def test_a_loaded_model_is_bit_equal(tmp_path) -> None:
    rng = np.random.default_rng(12)
    x = rng.random((2, 4, 30, 2)) * 3
    seen = Snapshots.from_arrays(x, [0.0, 1.0, 2.0, 3.0], [0.2, 0.9], period=[3.0, 0])
    model = HOAM(QUICK).fit(seen)
    again = HOAM.load(model.save(tmp_path / "run"))
    start = x[0, 0]
    one, other = (m.simulate(start, [0.0, 1.5], [0.4], seed=3) for m in (model, again))
    np.testing.assert_array_equal(one, other)
    assert again.config == model.config
    assert one[..., 0].min() >= 0
    assert one[..., 0].max() <= 3


def test_fits_are_reproducible_and_leave_the_global_generator_alone() -> None:
    snapshots, _ = gaussian(np.random.default_rng(13))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fits = [HOAM(QUICK, seed).fit(snapshots).losses for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 1e-3
    assert torch.equal(torch.random.get_rng_state(), before)


def test_parameters_outside_the_fitted_range_give_a_warning() -> None:
    x = np.random.default_rng(15).normal(size=(2, 3, 20, 1))
    model = HOAM(QUICK).fit(Snapshots.from_arrays(x, [0.0, 1.0, 2.0], [0.5, 1.5]))
    with pytest.warns(
        UserWarning, match=r"^mu = 1\.75 lies outside the fitted range 0\.5 to 1\.5 by 0\.25, 25% of"
    ) as told:
        model.simulate(x[0, 0], [0.0, 0.1], [1.75])
    assert len(told) == 1
    model.simulate(x[0, 0], [0.0, 0.1], [0.5])  # an error here, if it warned


def test_snapshot_times_can_be_the_nodes_and_may_differ_between_trajectories() -> None:
    rng = np.random.default_rng(14)
    x = [[rng.normal(size=(20, 1)) + t for t in range(k)] for k in (4, 6)]
    seen = Snapshots.from_arrays(x, [np.arange(4.0), np.arange(6.0)], [0.0, 1.0])
    model = HOAM(HOAMConfig(**{**vars(QUICK), "interpolant": "snapshots"})).fit(seen)
    assert np.isfinite(model.losses).all()
    assert len(model.score(seen, step=0.5)) == 3 + 5


def test_interpolation_and_forecast_start_from_the_latest_snapshot(quick) -> None:
    model, snapshots = quick
    at = model.interpolate(snapshots, [0.0, 0.31, 0.5, 1.0])
    np.testing.assert_allclose(at[2], snapshots.of(0)[20].x, atol=1e-6)
    np.testing.assert_allclose(at[1], model.simulate(snapshots.of(0)[12].x, [TIMES[12], 0.31])[1], atol=1e-6)
    ahead = model.forecast(snapshots, [1.1, 1.2], step=0.05)
    expected = model.simulate(snapshots.of(0)[40].x, [1.0, 1.1], step=0.05)[1]
    np.testing.assert_allclose(ahead[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda m, s: HOAM().simulate(np.zeros((3, 2)), [0.0]),
            "a model that was fitted or loaded, found one that was",
        ),
        (
            lambda m, s: m.simulate(np.zeros((3, 1)), [0.0, 1.0]),
            r"x0: expected \(N, 2\), found \(3, 1\)",
        ),
        (lambda m, s: m.simulate(np.zeros((3, 2)), [0.0, 1.0], [1.0]), r"mu: expected \(0,\), found"),
        (lambda m, s: m.forecast(s, [0.5]), "times: expected after 1, the last snapshot's, found 0.5"),
        (lambda m, s: m.interpolate(s, [-0.5]), "times: expected at least 0, the first snapshot's, found -0.5"),
        (lambda m, s: HOAMConfig(rule="romberg"), "rule: expected stratified or .*, found romberg"),
        (
            lambda m, s: HOAM(HOAMConfig(form="velocity", interpolant="mixture")).fit(s),
            "form=velocity, found mixture without",
        ),
    ],
)
def test_invalid_calls_are_refused(call, told, quick) -> None:
    with pytest.raises(InputError, match=told):
        call(*quick)


def test_a_folder_without_a_model_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"model\.json: content: expected a JSON file"):
        HOAM.load(tmp_path)
    (tmp_path / "model.json").write_text('{"method": "wlm"}')
    with pytest.raises(InputError, match="config: expected an entry of that name, found none"):
        HOAM.load(tmp_path)
    (tmp_path / "model.json").write_text('{"method": "hoam", "config": {}}')
    with pytest.raises(InputError, match="num_dims: expected an entry of that name, found none"):
        HOAM.load(tmp_path)
