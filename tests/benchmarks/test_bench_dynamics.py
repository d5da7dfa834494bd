"""Benchmarks of the dynamics heads: what their peers are known to be, and that each runs through."""

import numpy as np
import pytest

from ndt.benchmarks import dynamics_cost as cost
from ndt.benchmarks import mechanics as forecasts
from ndt.benchmarks import ocean as vortex_module
from ndt.config import BenchConfig
from ndt.config.dynamics import (
    DynamicsConfig,
    FunctionalConfig,
    HOAMConfig,
    PotentialConfig,
    WLMConfig,
)
from ndt.dynamics import first_order
from tests.realdata import real_file

SMALL = PotentialConfig(width=8, depth=2, time_frequencies=2)
QUICK = HOAMConfig(potential=SMALL, num_nodes=4, num_particles=8, steps=2)


@pytest.mark.slow
def test_interpolations_of_the_vortex_have_the_published_errors(monkeypatch, tmp_path) -> None:
    """The reference's W1 at the held-out times: 0.517, 0.200, 0.235 and 0.038, to the last figure."""
    monkeypatch.setenv("NDT_DATA", str(real_file("snapshots/ocean_vortex_small.npz").parents[1]))
    mechanics = WLMConfig(functional=FunctionalConfig(potential=SMALL), steps=2, step=0.4)
    config = DynamicsConfig(hoam=QUICK, wlm=mechanics)
    monkeypatch.setattr(vortex_module, "MODELS", {name: (name, config) for name in ("hoam", "wlm")})
    rows = vortex_module.ocean(tmp_path, 1)
    assert {row["name"] for row in rows} == {
        f"ocean.{name}{way}" for name in ("hoam", "wlm") for way in ("", ".endpoint_conditioned", ".seconds")
    }
    found = {row["peer"]: row["peer_value"] for row in rows if row["peer"] not in (None, "hoam")}
    known = {"persistence": 0.517, "constant_velocity": 0.200, "displacement_interpolation": 0.235, "hermite": 0.038}
    assert found.keys() == known.keys()
    for name, value in known.items():
        np.testing.assert_allclose(found[name], value, atol=6e-4)
    assert all(np.isfinite(row["value"]) for row in rows)


def test_a_missing_file_of_the_vortex_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NDT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"ocean_vortex_small\.npz: NDT_DATA: expected the file of a vortex"):
        vortex_module.vortex()


@pytest.mark.slow
def test_forecasts_have_rows_of_each_peer_from_both_starts(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(first_order, "STEPS", 2)
    functional = FunctionalConfig(terms=("fourier",), fourier_features=4)
    mechanics = WLMConfig(functional=functional, weak_form_steps=1, steps=2, num_particles=30)
    config = DynamicsConfig(
        method="wlm", hoam=QUICK, wlm=mechanics, num_particles=30,
        baselines=("hoam", "flow_matching", "gradient_flow", *forecasts.REFERENCES),
    )  # fmt: skip
    monkeypatch.setattr(forecasts, "MECHANICS", {"harmonic_oscillator": config})
    rows = forecasts.mechanics(tmp_path, 2)
    told = {(row["name"], row["peer"]): row for row in rows}
    for start in ("first", "last"):
        assert {p for n, p in told if n == f"mechanics.harmonic_oscillator.{start}"} - {"best"} == set(config.baselines)
    best = told["mechanics.harmonic_oscillator.last", "best"]["peer_value"]
    assert best <= min(told["mechanics.harmonic_oscillator.last", peer]["peer_value"] for peer in forecasts.REFERENCES)
    assert all(np.isfinite(row["values"]).all() and len(row["values"]) == 2 for row in rows)
    assert (
        told["mechanics.harmonic_oscillator.last", "linear_extrapolation"]["peer_value"]
        != told["mechanics.harmonic_oscillator.last", "persistence"]["peer_value"]
    )
    monkeypatch.setattr(forecasts, "_run", lambda *_, **__: pytest.fail("what has ended is read"))
    assert forecasts.mechanics(tmp_path, 2) == rows


@pytest.mark.slow
def test_cost_is_measured_at_each_size(monkeypatch) -> None:
    monkeypatch.setattr(cost, "AXES", {"particles": (8, 16), "dimensions": (2, 4)})
    monkeypatch.setattr(cost, "SIZES", (8, 16, 32, 64))
    rollouts = {name: (*each[:2], 64) for name, each in cost.ROLLOUTS.items()}
    monkeypatch.setattr(cost, "ROLLOUTS", rollouts)
    rows = cost.dynamics_cost(BenchConfig(repeats=1))
    assert len(rows) == 2 * (2 + len(rollouts))
    seconds = [row for row in rows if row["unit"] == "s"]
    assert all(row["sizes"][-1] == 2 * row["sizes"][-2] and min(row["values"]) > 0 for row in seconds)
