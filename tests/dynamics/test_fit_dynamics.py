"""``ndt dynamics``: runs from snapshots to a page, and errors for invalid input."""

import json

import numpy as np
import pytest

from ndt.benchmarks import dynamics as bench_dynamics
from ndt.cli import main
from ndt.config.dynamics import DynamicsConfig, HOAMConfig, PotentialConfig
from ndt.config.reader import load_config
from ndt.dynamics import first_order, generative
from ndt.dynamics.distances import wasserstein
from ndt.dynamics.generative import GenerativeModel
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.periodic import wrap
from ndt.dynamics.snapshots import Snapshots
from ndt.dynamics.systems.named import SYSTEMS
from ndt.fit_dynamics import fit_run
from tests.stand_ins import write_embryoid

PAIR = ("persistence", "conditional_flow_matching")
QUICK = [
    "--hoam.steps", "5", "--hoam.num_nodes", "8", "--hoam.num_particles", "8",
    "--hoam.potential.width", "8", "--hoam.potential.depth", "2",
    "--num_particles", "64", "--num_scored", "40", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Baselines learn for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generative, "STEPS", 2)
        patch.setattr(first_order, "STEPS", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a plasma, with all baselines that need no particle velocities."""
    out = tmp_path_factory.mktemp("dynamics") / "run"
    baselines = '["persistence", "action_matching", "conditional_flow_matching", "conditional_diffusion"]'
    assert main(["dynamics", "fit", "two_stream", "--out", str(out), "--baselines", baselines, *QUICK]) == 0

    return out


@pytest.mark.slow
def test_a_run_directory_is_complete(run) -> None:
    names = {"config.yaml", "model.json", "model.safetensors", "metrics.json", "log.jsonl", "report.html"}
    assert {p.name for p in run.iterdir()} == names
    found = json.loads((run / "metrics.json").read_text())
    assert set(found["baselines"]) == {
        "persistence",
        "action_matching",
        "conditional_flow_matching",
        "conditional_diffusion",
    }
    assert {row["trajectory"] for row in found["test"]} == {0, 1}  # those of unseen parameters alone
    assert all(row["held_out"] for row in found["test"])
    for each in found["summary"].values():
        assert np.isfinite(list(each.values())).all()
        assert "energy_error" in each
    assert len((run / "log.jsonl").read_text().splitlines()) == 5
    assert load_config(DynamicsConfig, run / "config.yaml").hoam.steps == 5


@pytest.mark.slow
def test_the_page_holds_scores_densities_moments_and_energies(run) -> None:
    text = (run / "report.html").read_text()
    for part in ("scores", "densities", "moments", "energy", "fit", "settings", "definitions"):
        assert f'id="{part}"' in text
    assert text.count("<svg") == 6  # two densities, two moments, the energy, the loss
    assert "mu = 1.25" in text
    assert "flow matching per time" in text
    assert "<script" not in text


@pytest.mark.slow
def test_wlm_is_fitted_reported_scored_and_simulated(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    x0, v = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    x = np.stack([x0 + t * v for t in (0.0, 0.5, 1.0, 1.5)])
    seen = Snapshots.from_arrays(
        x, [0.0, 0.5, 1.0, 1.5], velocity=np.broadcast_to(v, x.shape), held_out_times=[1.0], paired=True
    )
    path, out = seen.to_npz(tmp_path / "seen.npz"), tmp_path / "run"
    small = [
        "--wlm.steps",
        "4",
        "--wlm.functional.potential.width",
        "8",
        "--wlm.friction",
        "1e-6",
    ]
    baselines = ["--baselines", '["persistence", "constant_velocity", "hoam"]']
    argv = ["dynamics", "fit", str(path), "--method", "wlm", "--out", str(out), *small, *baselines, *QUICK]
    assert main(argv) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert set(found["summary"]) == {"wlm", "persistence", "constant_velocity", "hoam"}
    np.testing.assert_allclose(found["summary"]["constant_velocity"]["w2"], 0, atol=1e-9)
    assert found["fit"]["velocity"] == "observed"
    text = (out / "report.html").read_text()
    assert 'id="mechanics"' in text
    assert "friction (1 / time)" in text
    assert text.count("<animate") == 2 * 40 + 4  # two coordinates of each particle, and the four snapshots
    capsys.readouterr()
    assert main(["dynamics", "score", str(out), "--data", str(path), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert set(scored["summary"]) == {"wlm"}
    made = tmp_path / "made.npz"
    assert main(["dynamics", "simulate", str(out), "--data", str(path), "--out", str(made), "--times", "2"]) == 0
    assert Snapshots.from_npz(made).time.tolist() == [0.0, 2.0]


@pytest.mark.slow
def test_persistence_has_its_known_score(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(1, 50, 2)) + np.arange(3.0)[:, None, None]
    path = Snapshots.from_arrays(x, [0.0, 1.0, 2.0], paired=True).to_npz(tmp_path / "seen.npz")
    small = HOAMConfig(potential=PotentialConfig(width=8, depth=2), num_nodes=4, num_particles=4, steps=2)
    found = fit_run(str(path), tmp_path / "run", DynamicsConfig(hoam=small), progress=False)
    np.testing.assert_allclose(found["summary"]["persistence"]["w2"], 1.5 * np.sqrt(2), rtol=1e-9)
    np.testing.assert_allclose(found["summary"]["persistence"]["cov_error"], 0, atol=1e-12)
    assert "energy_error" not in found["summary"]["persistence"]


@pytest.mark.slow
def test_simulate_and_score_agree_with_the_python_interface(run, tmp_path, capsys) -> None:
    data = SYSTEMS["two_stream"].model.simulate([1.5, 1.7], 30, np.array([0.0, 5.0]), seed=4).to_npz(tmp_path / "a.npz")
    out = tmp_path / "made.npz"
    assert main(["dynamics", "simulate", str(run), "--data", str(data), "--out", str(out), "--times", "1", "3"]) == 0
    made = Snapshots.from_npz(out)
    assert made.mu.ravel().tolist() == [1.5, 1.7]
    assert made.time.tolist() == [0.0, 1.0, 3.0] * 2
    expected = HOAM.load(run).simulate(Snapshots.from_npz(data).of(1)[0].x, [0.0, 1.0, 3.0], [1.7])
    np.testing.assert_allclose(made.of(1)[2].x, wrap(expected[2], np.array([50.0, np.inf])), atol=1e-5)
    capsys.readouterr()
    assert main(["dynamics", "score", str(run), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"] == HOAM.load(run).score(Snapshots.from_npz(data))
    beyond = ["--out", str(out), "--times", "0.1", "--mu", "2.6"]
    capsys.readouterr()
    assert main(["dynamics", "simulate", str(run), "--data", str(data), *beyond]) == 0
    told = "warning: mu = 2.6 lies outside the fitted range 1.2 to 1.9 by 0.7, 100% of that range\n"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["train", "x"], "action: expected one of fit, simulate, score, found train"),
        (["fit", "two_stream"], "--out: expected a path, found nothing"),
        (
            ["fit", "three_stream", "--out", "OUT"],
            "source: expected an .npz file of snapshots, or a system: noisy_oscillator,",
        ),
        (["simulate", "RUN", "--out", "OUT"], "--data: expected a path, found nothing"),
        (["score", "RUN", "--data", "none.npz"], "model.json: content: expected a JSON file"),
        (["fit", "noisy_oscillator", "--out", "OUT", "--baselines", '["mean"]'], "some of hoam, action_matching"),
        (["fit", "noisy_oscillator", "--out", "OUT", "--method", "jko"], "method: expected hoam or wlm, found jko"),
        (["fit", "noisy_oscillator", "--out", "OUT", "--hoam.rule", "x"], "rule: expected stratified or"),
    ],
)
def test_invalid_input_gives_one_line_and_writes_nothing(argv, told, tmp_path, capsys) -> None:
    argv = [str(tmp_path / a) if a in ("OUT", "RUN") else a for a in argv]
    assert main(["dynamics", *argv]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "OUT").exists()


def test_a_folder_with_other_files_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert main(["dynamics", "fit", "noisy_oscillator", "--out", str(tmp_path / "mine"), *QUICK]) == 2
    assert "folder: expected a new one, or a run of ndt dynamics, found thesis.tex" in capsys.readouterr().err


def test_a_diverging_loss_gives_one_line_and_writes_nothing(tmp_path, capsys) -> None:
    rate = ["--method", "wlm", "--wlm.learning_rate", "1e30", "--wlm.num_particles", "8"]
    argv = ["dynamics", "fit", "harmonic_oscillator", "--out", str(tmp_path / "run"), *QUICK, *rate]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "loss: expected a finite number in every step (a lower learning rate may help), found" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interrupted_run_starts_over_and_gives_the_same_scores(tmp_path) -> None:
    argv = ["dynamics", "fit", "noisy_oscillator", "--out", str(tmp_path / "run"), *QUICK]
    assert main(argv) == 0
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("model.json", "metrics.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    assert main(argv) == 0
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (again["test"], again["summary"]) == (first["test"], first["summary"])


@pytest.mark.slow
def test_the_benchmark_has_a_row_for_each_score_and_peer_and_repeats_no_run(tmp_path, monkeypatch) -> None:
    small = HOAMConfig(potential=PotentialConfig(width=8, depth=2), num_nodes=4, num_particles=4, steps=2)
    tiny = DynamicsConfig(
        hoam=small, baselines=PAIR, num_particles=64, num_scored=32,
    )  # fmt: skip
    monkeypatch.setattr(bench_dynamics, "SETTINGS", {"noisy_oscillator": tiny, "two_stream": tiny})
    rows = bench_dynamics.dynamics(tmp_path, 2)
    common = [(key, peer) for key in ("sliced_w2", "gaussian_w2", "w2") for peer in PAIR]
    energy = [("energy_error", peer) for peer in PAIR]
    fits = [
        ("loss", "least"),
        ("overfitted", None),
        ("seconds", PAIR[1]),
        ("simulate_seconds", PAIR[1]),
        ("simulate_seconds", "simulator"),
    ]
    assert [(r["name"], r["peer"]) for r in rows] == [
        (f"dynamics.{system}.{key}", peer)
        for system, scores in (("noisy_oscillator", common), ("two_stream", common + energy))
        for key, peer in scores + fits
    ]
    for row in rows:
        assert len(row["values"]) == 2
        if row["peer"]:
            gap = np.mean(np.subtract(row["values"], row["peer_values"]))
            np.testing.assert_allclose(row["difference"], gap, rtol=1e-9)
    exact = next(row for row in rows if row["name"] == "dynamics.noisy_oscillator.loss")
    np.testing.assert_allclose(exact["peer_value"], -48.103, atol=1e-3)
    monkeypatch.setattr(HOAM, "fit", lambda *_, **__: pytest.fail("it is fitted again"))
    assert bench_dynamics.dynamics(tmp_path, 2) == rows


def test_systems_hold_out_their_unseen_parameters() -> None:
    seen = SYSTEMS["trap"].snapshots(16)
    assert seen.mu.ravel().tolist() == [0.5, 0.75, 1.0, 1.5, 2.0, 2.25, 2.5]
    assert seen.fitted.mu.ravel().tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["flow_matching", "diffusion"])
def test_generative_models_draw_the_population_of_each_time(objective) -> None:
    rng, times = np.random.default_rng(0), np.linspace(0, 1, 11)
    x = [rng.normal(3 * t, 0.5 + t, (2000, 1)) for t in times]
    model = GenerativeModel(objective, steps=400)
    made = model.fit(Snapshots.from_arrays(x, times)).sample(2000, [0.05, 0.5, 0.95])
    np.testing.assert_allclose(made.mean((1, 2)), [0.15, 1.5, 2.85], atol=0.15)
    np.testing.assert_allclose(made.std((1, 2)), [0.55, 1.0, 1.45], atol=0.12)
    np.testing.assert_array_equal(model.sample(5, [0.5], seed=1), model.sample(5, [0.5], seed=1))


def test_an_unknown_method_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "model.json").write_text('{"method": "jko"}')
    data = Snapshots.from_arrays(np.zeros((2, 3, 1)), [0.0, 1.0]).to_npz(tmp_path / "seen.npz")
    assert main(["dynamics", "score", str(tmp_path), "--data", str(data)]) == 2
    assert "model.json: method: expected one of hoam, wlm, found jko" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_action_matching_velocities_can_be_repeated(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 20, 1)) + np.arange(3.0)[:, None, None]
    path, out = Snapshots.from_arrays(x, [0.0, 1.0, 2.0]).to_npz(tmp_path / "seen.npz"), tmp_path / "run"
    small = ["--wlm.steps", "2", "--wlm.action_matching.steps", "2"]
    argv = ["dynamics", "fit", str(path), "--method", "wlm", "--out", str(out), *small, *QUICK]
    scores = []
    for _ in range(2):
        assert main(argv) == 0
        assert (out / "action_matching" / "model.json").is_file()
        scores.append(json.loads((out / "metrics.json").read_text())["test"])
    assert scores[0] == scores[1]


LEAST = [
    "--wlm.steps", "2", "--wlm.functional.terms", '["fourier"]', "--wlm.functional.fourier_features", "4",
]  # fmt: skip


@pytest.mark.slow
def test_forecasts_start_from_the_last_fitted_snapshot(tmp_path) -> None:
    """All models have a name on the page, and all scored times are held out."""
    peers = '["hoam", "flow_matching", "gradient_flow", "persistence", "constant_velocity", "linear_extrapolation"]'
    argv = [
        "dynamics",
        "fit",
        "harmonic_oscillator",
        "--method",
        "wlm",
        "--out",
        str(tmp_path / "run"),
        "--num_particles",
        "40",
    ]
    assert main([*argv, "--forecast_from", "last", "--baselines", peers, *LEAST, *QUICK]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert min(row["t"] for row in found["test"]) > 1.5
    assert all(row["held_out"] for row in found["test"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "simulated from its last fitted snapshot" in text
    for name in ("flow matching between snapshots (OT-CFM)", "gradient flow (JKO)", "linear extrapolation"):
        assert name in text
    seen = SYSTEMS["harmonic_oscillator"].snapshots(40)
    straight = seen[30].x + (seen[40].time - seen[30].time) * seen[30].velocity
    expected = wasserstein(straight, seen[40].x, 1)
    row = next(r for r in found["baselines"]["constant_velocity"]["rows"] if abs(r["t"] - seen[40].time) < 1e-9)
    np.testing.assert_allclose(row["w1"], expected)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            ["--forecast_from", "last"],
            "settings: forecast_from: expected first, if no snapshot is held out after the last",
        ),
        (["--held_out_times", "[9.0]"], r"settings: held_out_times: expected some of [0.0, 1.0, 2.0], found none or"),
        (["--forecast_from", "middle"], "settings: forecast_from: expected first or last, found middle"),
        (["--baselines", '["oracle"]'], "settings: baselines: expected some of hoam,"),
    ],
)
def test_invalid_settings_give_one_line(extra, told, tmp_path, capsys) -> None:
    x = np.random.default_rng(0).normal(size=(3, 8, 2))
    path = Snapshots.from_arrays(x, [0.0, 1.0, 2.0]).to_npz(tmp_path / "seen.npz")
    out = tmp_path / "run"
    assert main(["dynamics", "fit", str(path), "--method", "wlm", "--out", str(out), *LEAST, *QUICK, *extra]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
def test_published_files_are_fitted(tmp_path) -> None:
    cells = write_embryoid(tmp_path / "eb.npz", num_cells=150, num_dims=6)
    drift = tmp_path / "drift.npz"
    rng = np.random.default_rng(0)
    np.savez(drift, positions=rng.normal(size=(4, 20, 2)), velocities=rng.normal(size=(4, 20, 2)))
    for path, held in ((cells, "[2.0]"), (drift, "[1.0]")):
        out = tmp_path / path.stem
        argv = ["dynamics", "fit", str(path), "--method", "wlm", "--out", str(out), "--held_out_times", held]
        assert main([*argv, "--baselines", '["persistence"]', *LEAST, *QUICK]) == 0
        rows = json.loads((out / "metrics.json").read_text())["test"]
        assert {row["t"] for row in rows if row["held_out"]} == {float(held[1:-1])}
