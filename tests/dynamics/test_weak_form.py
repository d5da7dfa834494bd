"""Weak form of the momentum balance: laws that are linear are found without a rollout, and rollouts begin from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ndt.config.dynamics import FunctionalConfig, HOAMConfig, PotentialConfig, WLMConfig
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.ensembles import harmonic_oscillator, isothermal_gas, vortex_tracers
from ndt.dynamics.weak_form import WeakForm, _hats, nodes_of
from ndt.dynamics.wlm import WLM
from ndt.errors import InputError

FORM = FunctionalConfig(terms=("fourier",), fourier_features=0)
ALONE = WLMConfig(functional=FORM, weak_form_steps=1, steps=1, learning_rate=1e-9, step=0.05)


def stiffness(model: WLM, x: np.ndarray) -> np.ndarray:
    at = np.column_stack([x, np.ones(len(x))])
    return -np.linalg.lstsq(at, model.acceleration(x))[0][:2]


@pytest.mark.parametrize("scale", ["physical", "mobility"])
@pytest.mark.parametrize("even", [True, False])
def test_a_quadratic_potential_and_friction_are_recovered_within_1_percent(scale, even) -> None:
    times = np.linspace(0, 2, 31)
    times = times if even else np.sort(np.concatenate([times, times[5:15] + 0.01]))
    seen = harmonic_oscillator(4.0, 0.5).simulate(200, times)
    model = WLM(replace(ALONE, scale=scale)).fit(seen)
    np.testing.assert_allclose(stiffness(model, seen[3].x), 4 * np.eye(2), atol=0.04)
    np.testing.assert_allclose(model.friction, 0.5, rtol=0.01)


def test_friction_of_0_stays_and_no_friction_is_below_0() -> None:
    seen = harmonic_oscillator(4.0, 0.0).simulate(100, np.linspace(0, 2, 31))
    assert WLM(replace(ALONE, friction=0.0)).fit(seen).friction == 0
    assert 0 < WLM(ALONE).fit(seen).friction < 0.01


def test_known_pressure_is_subtracted_from_the_fitted_force() -> None:
    """Of a gas in a harmonic potential the rest is that potential, in both scales."""
    seen = isothermal_gas(0.5, 1.0, 0.3).simulate(3000, np.linspace(0.1, 3, 30))
    for scale, entropy in (("physical", 0.5), ("mobility", 0.5 / 1.3)):
        functional = replace(FORM, entropy=entropy, density="gaussian")
        model = WLM(replace(ALONE, functional=functional, scale=scale, num_particles=3000)).fit(seen)
        np.testing.assert_allclose(model.friction, 0.3, rtol=0.1)  # of samples that are not quite round
        with torch.no_grad():
            form = model.lagrangian.functional.fourier
            slopes = form.unit * form.slopes(torch.as_tensor(seen[5].x, dtype=torch.float32)) @ form.weight
        mobility = 1 + model.friction if scale == "mobility" else 1.0
        found = np.linalg.lstsq(seen[5].x - seen[5].x.mean(0), mobility * (slopes - slopes.mean(0)).numpy())[0]
        np.testing.assert_allclose(found, np.eye(2), atol=0.06)


def test_the_weak_form_respects_weights() -> None:
    """Half the particles have another law, and next to no weight."""
    times = np.linspace(0, 2, 31)
    one, other = harmonic_oscillator(4.0, 0.5).simulate(100, times), harmonic_oscillator(1.0, 0.0).simulate(100, times)
    x = [np.concatenate([a.x, b.x]) for a, b in zip(one.of(0), other.of(0), strict=True)]
    v = [np.concatenate([a.velocity, b.velocity]) for a, b in zip(one.of(0), other.of(0), strict=True)]
    weight = [np.repeat([1.0, 1e-9], 100)] * len(times)
    seen = Snapshots.from_arrays(x, times, velocity=v, weight=weight)
    model = WLM(replace(ALONE, num_particles=2000)).fit(seen)
    np.testing.assert_allclose(stiffness(model, one[3].x), 4 * np.eye(2), atol=0.6)  # samples are drawn, and differ


def test_hat_functions_integrate_lines_exactly() -> None:
    times = np.array([0.0, 0.3, 0.5, 1.2, 1.3])
    change, mass = (m.double().numpy() for m in _hats(times))
    for k in range(1, 4):
        left, right = times[k] - times[k - 1], times[k + 1] - times[k]
        np.testing.assert_allclose(mass[k - 1].sum(), (left + right) / 2, rtol=1e-6)
        moment = ((left + right) * times[k] / 2) + (right**2 - left**2) / 6  # of t times the hat
        np.testing.assert_allclose(mass[k - 1] @ times, moment, rtol=1e-5)
        np.testing.assert_allclose(change[k - 1] @ times, (left + right) / 2, rtol=1e-6)


def test_the_residual_of_the_true_law_is_of_fourth_order_in_time() -> None:
    left = []
    for num in (21, 41):
        seen = harmonic_oscillator(4.0, 0.5).simulate(100, np.linspace(0, 2, num))
        model = WLM(ALONE).fit(seen)
        form = model.lagrangian.functional.fourier
        with torch.no_grad():
            model.lagrangian.log_friction.fill_(np.log(0.5) / 10)
            form.weight.zero_()
            square = model.lagrangian.scales.length.square()
            form.weight[2], form.weight[4] = (4 * square / form.unit)[0], (4 * square / form.unit)[1]
            form.weight[:2] = 4 * model.lagrangian.scales.centre * model.lagrangian.scales.length / form.unit
        balance = WeakForm(model.lagrangian, nodes_of(seen, None, 1000, 0), 0)
        (nodes,) = balance.nodes
        left.append(float(balance.residual(nodes, 0, num).square().mean().sqrt().detach()))
    assert left[0] / left[1] > 10


@pytest.mark.slow
def test_the_weak_form_initialises_a_network_near_the_true_law() -> None:
    seen = harmonic_oscillator(4.0, 0.5).simulate(200, np.linspace(0, 2, 21))
    network = FunctionalConfig(potential=PotentialConfig(kind="concat", width=16, depth=2, time_frequencies=0))
    model = WLM(replace(ALONE, functional=network, weak_form_steps=400, learning_rate=1e-2)).fit(seen)
    x = seen[3].x
    assert np.sqrt(np.mean((model.acceleration(x) + 4 * x) ** 2)) < 0.2 * np.sqrt(np.mean((4 * x) ** 2))


def test_the_weak_form_works_with_velocities_of_action_matching() -> None:
    """A population that only shrinks towards the middle: x'' = x, by velocities -x of the matched field."""
    rng, times = np.random.default_rng(0), np.linspace(0, 1, 21)
    x = rng.normal([1.0, 0.0], 0.3, (300, 2))
    seen = Snapshots.from_arrays([x * np.exp(-t) for t in times], times, paired=True)
    matching = HOAMConfig(potential=PotentialConfig(width=16, depth=2), num_nodes=16, num_particles=64, steps=300)
    model = WLM(replace(ALONE, velocity="action_matching", action_matching=matching, friction=0.0)).fit(seen)
    np.testing.assert_allclose(stiffness(model, x), -np.eye(2), atol=0.25)


def test_two_times_are_refused() -> None:
    seen = harmonic_oscillator().simulate(10, np.array([0.0, 0.1]))
    with pytest.raises(InputError, match="trajectory 0: expected at least three times for weak_form_steps, found 2"):
        WLM(ALONE).fit(seen)


@pytest.mark.slow
def test_vortex_tracers_are_forecast_for_two_periods() -> None:
    """Rollouts alone, as many steps, end elsewhere: the start is what finds the law."""
    times = np.linspace(0, 3.5, 71)
    seen = vortex_tracers().simulate(150, times)
    seen = Snapshots(**{**vars(seen), "held_out": times > 1.51})
    functional = replace(FORM, fourier_features=96)
    config = replace(
        ALONE, functional=functional, steps=100, learning_rate=2e-3, step=0.01, friction=0.01, horizon=30,
    )  # fmt: skip
    wrong = {}
    for begun in (1, 0):
        made = WLM(replace(config, weak_form_steps=begun)).fit(seen).forecast(seen, times[31:])
        wrong[begun] = np.mean([np.linalg.norm(x - seen[31 + i].x, axis=1).mean() for i, x in enumerate(made)])
    assert wrong[1] < 0.2
    assert wrong[0] > 3 * wrong[1]
