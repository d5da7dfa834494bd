"""The command line: quick help, errors of one line, one JSON object."""

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_run import fake_run

from ndt.arguments import configured, fields_of, parse
from ndt.cli import VERBS, main
from ndt.config import FinetuneConfig, IngestConfig, PretrainConfig, SimulateConfig

ROOT = Path(__file__).resolve().parents[1]


def _told(capsys) -> str:
    """Returns the one line that went to standard error; nothing may have gone to standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err

    return err.strip()


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_is_quick_and_loads_nothing_heavy(verb):
    """Seconds are those of the processor, which other work does not lengthen."""
    code = (
        "import sys; from ndt.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pynwb', 'h5py', 'matplotlib', 'sklearn', 'pandas', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code, *([verb] if verb else []), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin < 1.0
    assert f"usage: ndt {verb or 'VERB'}" in done.stdout


def test_overview_names_every_verb(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name:<10}{verb.summary}" in overview


@pytest.mark.parametrize("config", [SimulateConfig, IngestConfig, PretrainConfig, FinetuneConfig])
def test_every_setting_has_a_description(config):
    lacking = [name for name, text in fields_of(config) if not text]
    assert lacking == []


def test_unknown_verb_lists_the_verbs(capsys):
    assert main(["pretrian"]) == 2
    assert _told(capsys) == f"ndt: verb: expected one of {', '.join(VERBS)}, found pretrian"


@pytest.mark.parametrize("given", [["--model.wdth", "64"], ["--model.wdth=64"], ["model.wdth=64"]])
def test_unknown_setting_lists_the_valid_ones(given, capsys):
    assert main(["pretrain", "store", "--out", "run", *given]) == 2
    assert re.match(r"ndt pretrain: --model\.wdth: expected one of .*--model\.width.*, found an", _told(capsys))


def test_unknown_setting_in_a_file_names_file_and_setting(tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text("model:\n  wdth: 64\n")
    assert main(["pretrain", "store", "--out", "run", "--config", str(path)]) == 2
    assert re.match(rf"{re.escape(str(path))}: model\.wdth: expected one of .*model\.width", _told(capsys))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: [", "expected a YAML file of settings, found while parsing"),
        ("- 1\n", "expected settings and their values, found list"),
        (None, "expected a YAML file of settings, found no such file"),
    ],
)
def test_broken_settings_file(text, told, tmp_path, capsys):
    path = tmp_path / "small.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["simulate", "--out", "x", f"--config={path}"]) == 2
    assert told in _told(capsys)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["simulate", "--out", "x", "--seconds", "long"], "ndt simulate: --seconds: expected float, found long"),
        (["simulate"], "the following arguments are required: out"),
        (["ingest", "nowhere.nwb", "--out", "x"], "nowhere.nwb"),
        (["embed", "run", "--session", "a", "--out", "a.csv"], "a file that ends in .npz or .nwb, found a.csv"),
        (["finetune", "scratch", "--session", "a", "--out", "x"], "ndt finetune: --store: expected a store"),
        (["report", "nowhere"], "nowhere: metrics.json: expected a run"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert told in _told(capsys)


def test_settings_come_from_file_then_options(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"model": {"width": 64, "num_heads": 2}, "seed": 3}))
    argv = ["store", "--out", "run", "--config", str(path), "--model.num_heads", "8", "model.dropout=0.2"]
    config = configured(PretrainConfig, parse("pretrain", VERBS["pretrain"], argv))
    assert (config.model.width, config.model.num_heads, config.model.dropout, config.seed) == (64, 8, 0.2, 3)
    assert config.train == PretrainConfig().train


def test_tuples_stay_tuples():
    argv = ["--out", "x", "--awkward", "[gaps,heldout]"]
    config = configured(SimulateConfig, parse("simulate", VERBS["simulate"], argv))
    assert config == SimulateConfig(awkward=("gaps", "heldout"))


def test_json_is_exactly_one_object_whatever_the_verb_prints(tmp_path, capsys, monkeypatch):
    run = fake_run(tmp_path / "demo")
    verb = VERBS["report"]

    def loud(args):
        print("a library says something")
        return verb.run(args)

    monkeypatch.setitem(VERBS, "report", replace(verb, run=loud))
    assert main(["report", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"report": str(run / "report.html")}
    assert out.count("\n") == 1
    assert err == "a library says something\n"


def test_a_keyboard_interrupt_returns_130(capsys, monkeypatch):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "report", replace(VERBS["report"], run=stop))
    assert main(["report", "run"]) == 130
    assert _told(capsys) == "stopped"


def test_scores_are_shown_beside_their_baselines(tmp_path, capsys):
    from ndt.reports import console as tables

    metrics = json.loads((fake_run(tmp_path / "demo") / "metrics.json").read_text())
    tables.show_demo(metrics | {"report": "runs/demo/report.html"})
    shown = capsys.readouterr().out
    (session,) = metrics["sessions"].values()
    for r2 in (session["test"]["r2"], session["network"]["r2"], session["baselines"]["ridge"]["r2"]):
        assert f"{r2:.3f}" in shown
    assert "runs/demo/report.html" in shown


@pytest.fixture
def recorded(tmp_path):
    """Two recordings of half a minute, with held-out units."""
    from ndt.data.simulate.recordings import simulate

    config = SimulateConfig(num_subjects=1, num_sessions=2, num_units=8, num_electrodes=8, seconds=30.0, workers=1)
    return [str(s.path) for s in simulate(tmp_path / "recordings", config)]


def test_a_recipes_settings_are_defaults_that_options_override(tmp_path):
    path = tmp_path / "ours.yaml"
    about = {"title": "t", "source": "here", "files": ["*.nwb"], "licence": "CC0-1.0", "cite": ["we"], "tried": True}
    settings = {"unit_identity": "session", "covariates": ["cursor_vel"], "arrays": {"spikes": "s"}, "cut_silence": 3}
    path.write_text(yaml.safe_dump({**about, "covariate": "cursor_vel", "ingest": settings}))
    argv = ["a.nwb", "--out", "x", f"--recipe={path}", "--cut_silence", "5"]
    config = configured(IngestConfig, parse("ingest", VERBS["ingest"], argv))
    assert (config.unit_identity, config.covariates, config.arrays.spikes) == ("session", ("cursor_vel",), "s")
    assert config.cut_silence == 5.0
    argv[3:4] = ["--recipe", str(path)]
    assert configured(IngestConfig, parse("ingest", VERBS["ingest"], argv)) == config


def test_recipes_are_listed_with_what_was_tried(capsys):
    assert main(["ingest", "--recipes", "--json"]) == 0
    recipes = json.loads(capsys.readouterr().out)["recipes"]
    assert {"mc_maze", "falcon_h2", "ibl_brainwide_map"} <= {r["name"] for r in recipes}
    assert main(["ingest", "--recipes"]) == 0
    assert "mc_maze" in capsys.readouterr().out
    assert main(["ingest", "--recipe", "indy_loco_ndt2", "--out", "x"]) == 2
    assert "files downloaded from zenodo:3854034" in _told(capsys)
    assert main(["ingest", "a.nwb", "--out", "x", "--recipe", "mc_labyrinth"]) == 2
    assert "recipe: expected a YAML file, or one of area2_bump" in _told(capsys)


@pytest.mark.slow
def test_inspecting_writes_pages_and_goes_on_past_a_bad_file(recorded, tmp_path, capsys):
    (tmp_path / "bad.nwb").write_text("no")
    out = tmp_path / "pages"
    argv = ["inspect", recorded[0], str(tmp_path / "bad.nwb"), "--out", str(out), "--quiet", "--nwb_check", "false"]
    assert main([*argv, "--json"]) == 2
    shown = capsys.readouterr()
    files = json.loads(shown.out)["files"]
    assert [("error" in f) for f in files] == [True, False]
    assert shown.err.count("\n") == 1
    assert "bad.nwb: file: expected an HDF5 file" in shown.err
    assert {p.name for p in out.iterdir()} == {"index.html", "inspect.json", "sub-simA_ses-01.html"}
    assert main(["inspect", str(tmp_path / "bad.nwb"), "--json"]) == 2
    _told(capsys)


def test_inspecting_a_store_lists_overlapping_sessions(recorded, tmp_path, capsys):
    import shutil

    store = str(tmp_path / "store")
    assert main(["ingest", *recorded, "--out", store, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["inspect", store]) == 0
    assert "no two sessions share their spikes" in " ".join(capsys.readouterr().out.split())
    shutil.copy(recorded[0], twin := tmp_path / "sub-simA_ses-99_behavior+ecephys.nwb")
    assert main(["ingest", str(twin), "--out", store, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["inspect", store]) == 0
    (line,) = " ".join(capsys.readouterr().out.split()).split("warning: ")[1:]
    assert line.startswith("sub-simA_ses-01 and sub-simA_ses-99: same file")
    assert main(["inspect", store, "--json"]) == 0
    (overlap,) = json.loads(capsys.readouterr().out)["overlaps"]
    assert (overlap["kind"], overlap["leak"]) == ("same file", False)  # blocks of both are the same


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Calls of what ``ndt finetune`` may run, none of which runs; their files are there."""
    found = {}

    def stands_in(name, *files):
        def call(*args, out, config, **options):
            found[name] = (args, config, options)
            out.mkdir(parents=True, exist_ok=True)
            for file in files:
                (out / file).write_text(json.dumps({name: 1}))

        return call

    monkeypatch.setattr("ndt.finetune.adapt.finetune", stands_in("fit", "metrics.json"))
    monkeypatch.setattr("ndt.finetune.curve.label_curve", stands_in("curve", "curve.json"))
    monkeypatch.setattr("ndt.api.report", lambda run: found.setdefault("report", run))
    return found


def test_finetune_fits_or_draws_the_curve(called, tmp_path, capsys) -> None:
    out = str(tmp_path / "run")
    words = ["finetune", "scratch", "--store", "s", "--session", "a", "--out", out, "--json", "--quiet"]
    assert main([*words, "unit_dropout=0.5"]) == 0
    assert called.keys() == {"fit"}
    assert called["fit"][0] == (None, "a", None)
    assert called["fit"][1].unit_dropout == 0.5
    assert json.loads(capsys.readouterr().out) == {"run": out, "fit": 1}
    called.clear()
    assert main([*words, "--curve", "20", "40", "--seeds", "2"]) == 0
    assert called.keys() == {"curve", "report"}
    assert (called["curve"][2]["seconds"], called["curve"][2]["seeds"]) == ((20.0, 40.0), 2)
    assert json.loads(capsys.readouterr().out) == {"run": out, "curve": {"curve": 1}}


def test_pretraining_begins_anew_or_with_a_model(monkeypatch, tmp_path) -> None:
    calls = []

    def pretrain(store, out, config, **options):
        calls.append((store, out, options["init"], config.masked_weight))
        out.mkdir(exist_ok=True)
        (out / "metrics.json").write_text("{}")

    monkeypatch.setattr("ndt.pretrain.train.pretrain", pretrain)
    out = str(tmp_path / "run")
    assert main(["pretrain", "s", "--out", out, "--quiet", "--json"]) == 0
    assert main(["pretrain", "s", "--out", out, "--init", "runs/base", "masked_weight=0.25", "--quiet", "--json"]) == 0
    assert [(init, weight) for _, _, init, weight in calls][1] == ("runs/base", 0.25)
    assert calls[0][2] is None


def test_a_curve_refuses_resume(called, tmp_path, capsys) -> None:
    words = ["finetune", "scratch", "--store", "s", "--session", "a", "--out", str(tmp_path), "--curve", "--resume"]
    assert main(words) == 2
    assert "--resume: expected a single run" in capsys.readouterr().err
    assert not called
