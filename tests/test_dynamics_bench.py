"""Benchmarks of the dynamics heads: what their peers are known to be, and that each runs through."""

from dataclasses import replace

import numpy as np
import pytest

from ndt.benchmarks import closed_forms as forms
from ndt.benchmarks import dynamics as systems
from ndt.benchmarks import dynamics_cost as cost
from ndt.benchmarks import inference as solves
from ndt.benchmarks import mechanics as forecasts
from ndt.benchmarks import mechanics_cost as mechanics_cost_module
from ndt.benchmarks import ocean as vortex_module
from ndt.config import BenchConfig
from ndt.config_dynamics import (
    DynamicsConfig,
    FirstOrderConfig,
    FunctionalConfig,
    HOAMConfig,
    PerTimeConfig,
    PotentialConfig,
    WLMConfig,
)
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.systems.diffusion import POTENTIALS
from ndt.dynamics.wlm import WLM
from ndt.settings import load_config
from tests.realdata import ROOT, real_file

SMALL = PotentialConfig(width=8, depth=2, time_frequencies=2)
QUICK = HOAMConfig(potential=SMALL, num_nodes=4, num_particles=8, num_end_particles=16, steps=2, threads=1)


@pytest.mark.slow
def test_what_is_guessed_of_the_vortex_is_what_others_measured(monkeypatch, tmp_path) -> None:
    """The reference's W1 at the held-out times: 0.517, 0.200, 0.235 and 0.038, to the last figure."""
    monkeypatch.setenv("NDT_DATA", str(real_file("snapshots/ocean_vortex_small.npz").parents[1]))
    mechanics = WLMConfig(functional=FunctionalConfig(potential=SMALL), steps=2, threads=1)
    monkeypatch.setattr(vortex_module, "MODELS", {"hoam": HOAM(QUICK), "wlm": WLM(mechanics)})
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
    measured = systems.SETTINGS[name]  # of one thread, beside each other
    free = replace(measured.hoam, threads=0), replace(measured.per_time, threads=0)
    assert written == replace(measured, hoam=free[0], per_time=free[1])


@pytest.mark.parametrize("name", sorted(forecasts.MECHANICS))
def test_each_system_that_is_forecast_has_one_too(name) -> None:
    file = "diffusion" if name in POTENTIALS else name
    written = load_config(DynamicsConfig, ROOT / "configs" / "dynamics" / f"{file}.yaml")
    measured = forecasts.MECHANICS[name]
    parts = {part: replace(getattr(measured, part), threads=0) for part in ("hoam", "wlm", "first_order")}
    assert written == replace(measured, **parts)


@pytest.mark.slow
def test_forecasts_have_rows_of_each_peer_from_both_beginnings(monkeypatch, tmp_path) -> None:
    first = FirstOrderConfig(width=8, depth=2, waves=4, steps=2, batch_size=32, threads=1)
    functional = FunctionalConfig(terms=("fourier",), waves=4)
    mechanics = WLMConfig(functional=functional, balance_steps=1, steps=2, num_particles=30, threads=1)
    config = DynamicsConfig(
        method="wlm", hoam=QUICK, wlm=mechanics, first_order=first, num_particles=30,
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
def test_cost_of_mechanics_is_measured_at_each_size_and_drawn(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(mechanics_cost_module, "SIZES", (8, 16, 32, 64))
    ways = {name: (*way[:2], 64) for name, way in mechanics_cost_module.WAYS.items()}
    monkeypatch.setattr(mechanics_cost_module, "WAYS", ways)
    rows = mechanics_cost_module.mechanics_cost(BenchConfig(repeats=1, out=str(tmp_path / "new")))
    assert len(rows) == 2 * len(ways)
    assert all(row["sizes"] == [8, 16, 32, 64] and min(row["values"]) > 0 for row in rows if row["unit"] == "s")
    assert "seconds a step of fitting" in (tmp_path / "new" / "cost.svg").read_text()


@pytest.mark.slow
def test_closed_forms_have_a_row_for_each_field_and_loss(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(forms, "NUM_PARTICLES", 300)
    monkeypatch.setattr(forms, "CONFIG", QUICK)
    monkeypatch.setattr(forms, "TIMES", np.linspace(0, 1, 11))
    rows = forms.closed_forms(tmp_path, 2)
    assert [row["name"] for row in rows] == [
        f"closed_forms.{p}.{what}" for p in forms.PATHS for what in ("field", "loss")
    ]
    assert all(len(row["values"]) == 2 for row in rows)
    least = {row["name"]: row["peer_value"] for row in rows if row["peer"] == "least"}
    np.testing.assert_allclose(
        least["closed_forms.translating.loss"], -2 * np.mean(np.square(forms.SPEEDS)[[0, 1, 2, 4, 5, 6]])
    )


@pytest.mark.slow
def test_costs_are_measured_at_each_size_and_drawn(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cost, "AXES", {"particles": (8, 16), "dimensions": (2, 4)})
    rows = cost.dynamics_cost(BenchConfig(repeats=1, out=str(tmp_path / "new")))
    assert len(rows) == 4
    assert all(row["sizes"][-1] == 2 * row["sizes"][-2] for row in rows)
    assert all(row["value"] >= 0 for row in rows)
    text = (tmp_path / "new" / "cost.svg").read_text()
    for label in ("milliseconds a step", "memory (MiB)", "particles a node", "dimensions"):
        assert label in text


@pytest.mark.slow
def test_a_trajectory_is_timed_beside_a_solve_for_each_time_and_the_simulator(monkeypatch, tmp_path) -> None:
    config = DynamicsConfig(
        hoam=QUICK, per_time=PerTimeConfig(width=8, depth=2, steps=2, threads=1), baselines=(), num_particles=40,
        num_scored=40,
    )  # fmt: skip
    monkeypatch.setattr(systems, "SETTINGS", {"two_stream": config})
    monkeypatch.setattr(solves, "SETTINGS", {"two_stream": config})
    monkeypatch.setattr(solves, "NUM_PARTICLES", 30)
    monkeypatch.setattr(solves, "SOLVES", {"hoam": (5, 10), "flow": (1, 2)})
    rows = solves.inference(tmp_path, 2)
    peers = {row["peer"]: row for row in rows if row["peer"]}
    assert set(peers) == {"flow", "simulator"}
    assert all(len(row["values"]) == 2 and row["value"] > 0 for row in peers.values())
    assert {row["name"] for row in rows} >= {"inference.hoam.5_steps.score", "inference.flow.2_steps.seconds"}
