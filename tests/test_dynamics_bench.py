"""Benchmarks of the dynamics heads: what their peers are known to be, and that each runs through."""

import numpy as np
import pytest

from ndt.benchmarks import dynamics as systems
from ndt.benchmarks import dynamics_cost as cost
from ndt.benchmarks import mechanics as forecasts
from ndt.benchmarks import ocean as vortex_module
from ndt.config import BenchConfig
from ndt.config_dynamics import (
    DynamicsConfig,
    FunctionalConfig,
    HOAMConfig,
    PotentialConfig,
    WLMConfig,
)
from ndt.dynamics.systems.diffusion import POTENTIALS
from ndt.settings import load_config
from tests.realdata import ROOT, real_file

SMALL = PotentialConfig(width=8, depth=2, time_frequencies=2)
QUICK = HOAMConfig(potential=SMALL, num_nodes=4, num_particles=8, steps=2)


@pytest.mark.slow
def test_what_is_guessed_of_the_vortex_is_what_others_measured(monkeypatch, tmp_path) -> None:
    """The reference's W1 at the held-out times: 0.517, 0.200, 0.235 and 0.038, to the last figure."""
    monkeypatch.setenv("NDT_DATA", str(real_file("snapshots/ocean_vortex_small.npz").parents[1]))
    mechanics = WLMConfig(functional=FunctionalConfig(potential=SMALL), steps=2, step=0.4)
    config = DynamicsConfig(hoam=QUICK, wlm=mechanics)
    monkeypatch.setattr(vortex_module, "MODELS", {name: (name, config) for name in ("hoam", "wlm")})
    rows = vortex_module.ocean(tmp_path, 1)
    assert {row["name"] for row in rows} == {
        f"ocean.{name}{way}" for name in ("hoam", "wlm") for way in ("", ".pinned", ".seconds")
    }
    found = {row["peer"]: row["peer_value"] for row in rows if row["peer"] not in (None, "hoam")}
    known = {"persistence": 0.517, "constant_velocity": 0.200, "transport": 0.235, "hermite": 0.038}
    assert found.keys() == known.keys()
    for name, value in known.items():
        np.testing.assert_allclose(found[name], value, atol=6e-4)
    assert all(np.isfinite(row["value"]) for row in rows)


def test_a_vortex_that_is_not_there_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NDT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"ocean_vortex_small\.npz: NDT_DATA: expected the file of a vortex"):
        vortex_module.vortex()


@pytest.mark.parametrize("name", sorted(systems.SETTINGS))
def test_each_system_has_a_file_of_the_settings_that_were_measured(name) -> None:
    file = {"two_stream": "beams", "bump_on_tail": "beams"}.get(name, name)
    written = load_config(DynamicsConfig, ROOT / "configs" / "dynamics" / f"{file}.yaml")
    assert written == systems.SETTINGS[name]


@pytest.mark.parametrize("name", sorted(forecasts.MECHANICS))
def test_each_system_that_is_forecast_has_one_too(name) -> None:
    file = "diffusion" if name in POTENTIALS else name
    written = load_config(DynamicsConfig, ROOT / "configs" / "dynamics" / f"{file}.yaml")
    assert written == forecasts.MECHANICS[name]


@pytest.mark.slow
def test_forecasts_have_rows_of_each_peer_from_both_beginnings(monkeypatch, tmp_path) -> None:
    functional = FunctionalConfig(terms=("fourier",), waves=4)
    mechanics = WLMConfig(functional=functional, balance_steps=1, steps=2, num_particles=30)
    config = DynamicsConfig(
        method="wlm", hoam=QUICK, wlm=mechanics, flow_steps=2, num_particles=30,
        baselines=(*forecasts.LEARNED, *forecasts.STANDING),
    )  # fmt: skip
    monkeypatch.setattr(forecasts, "MECHANICS", {"bowl": config})
    rows = forecasts.mechanics(tmp_path, 2)
    told = {(row["name"], row["peer"]): row for row in rows}
    for begin in ("first", "last"):
        assert {p for n, p in told if n == f"mechanics.bowl.{begin}"} - {"best"} == set(config.baselines)
    best = told["mechanics.bowl.last", "best"]["peer_value"]
    assert best <= min(told["mechanics.bowl.last", peer]["peer_value"] for peer in forecasts.STANDING)
    assert all(np.isfinite(row["values"]).all() and len(row["values"]) == 2 for row in rows)
    assert told["mechanics.bowl.last", "straight"]["peer_value"] != told["mechanics.bowl.last", "still"]["peer_value"]
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
