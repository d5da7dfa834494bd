"""Studies of many runs: which runs are repeated, which variants are refused, and paired differences by hand."""

import json
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ndt.benchmarks.ablation
import ndt.benchmarks.curve
import ndt.benchmarks.studies
import ndt.pretrain.train
from ndt.bench import bench
from ndt.benchmarks.ablation import CONFIGS, MASKS, ablation, load_variants
from ndt.benchmarks.curve import curve
from ndt.benchmarks.studies import paired_row, simulated
from ndt.config import (
    BenchConfig,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    PretrainConfig,
    SimulateConfig,
    StudyConfig,
    TrainConfig,
)
from ndt.errors import InputError
from ndt.evaluation.metrics import paired_difference
from ndt.reports.console import show_bench
from ndt.train.loop import Trainer
from ndt.train.studies import finish, overridden, run_all

TINY = StudyConfig(
    data=("sim40",),
    pretrain=PretrainConfig(
        model=ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=8, unit_width=4),
        train=TrainConfig(steps=6, batch_size=4, warmup_steps=2, valid_every=3),
        window=1.0,
    ),
    finetune=FinetuneConfig(
        train=TrainConfig(steps=4, batch_size=4, warmup_steps=2, valid_every=2),
        auxiliary="",
        max_lag=0.2,
        baselines=("ridge",),
        window=1.0,
    ),
    label_seconds=(4.0, 8.0),
)
SIMULATION = SimulateConfig(
    num_subjects=1, num_sessions=2, num_units=12, num_electrodes=16, seconds=30.0, mean_rate_hz=15.0
)
VARIANTS = "default: {}\nunbiased: {model.locality_bias: 0.0}\n"


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """The folder of the sessions of `SIMULATION`."""
    folder = tmp_path_factory.mktemp("data") / "sim40"
    simulated(folder, SIMULATION, 1)

    return folder


@pytest.fixture
def home(sessions, tmp_path):
    """Returns a function that makes a study's folder, with the simulated sessions in it."""

    def home(name: str = "study"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "sim40").symlink_to(sessions)

        return tmp_path / name

    return home


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two variants of small simulated sessions, in this process."""
    monkeypatch.setattr(ndt.benchmarks.studies, "SIMULATION", SIMULATION)
    monkeypatch.setattr(ndt.benchmarks.curve, "NEW_SECONDS", 40.0)
    trained = ndt.pretrain.train.pretrain

    def pretrain(store, out, *args, **options):
        """Adds scores of each stored mask kind."""
        trained(store, out, *args, **options)
        metrics = json.loads((out / "metrics.json").read_text())
        metrics["valid"].setdefault("masks", {kind: dict(metrics["valid"]) for kind in MASKS})
        (out / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(ndt.pretrain.train, "pretrain", pretrain)
    (tmp_path / "variants.yaml").write_text(VARIANTS)

    return replace(TINY, variants=str(tmp_path / "variants.yaml"))


def interrupt(monkeypatch, checkpoint: int) -> None:
    """Stops training, as Ctrl-C would, after N more checkpoints."""
    write, written = Trainer._checkpoint, []

    def stopping(self):
        write(self)
        written.append(self.step)
        if len(written) == checkpoint:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_checkpoint", stopping)


@pytest.mark.slow
def test_interrupted_study_resumes_and_ends_with_the_same_weights(study, home, monkeypatch):
    one, other = home("whole"), home("cut")
    whole = ablation(one, 2, study)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)  # two a run: in the middle of the second
        with pytest.raises(KeyboardInterrupt):
            ablation(other, 2, study)
    runs = other / "ablation" / "sim40" / "default"
    first = (runs / "seed0" / "metrics.json").stat()
    assert not (runs / "seed1" / "metrics.json").exists()

    steps = []
    with monkeypatch.context() as patch:
        step = Trainer._take_step
        patch.setattr(Trainer, "_take_step", lambda self: (steps.append(self.step), step(self))[1])
        cut = ablation(other, 2, study)
    assert steps == [3, 4, 5, *range(6), *range(6)]  # half a run, and the two of the other variant
    assert (runs / "seed0" / "metrics.json").stat() == first
    assert [r["values"] for r in cut] == [r["values"] for r in whole]
    for seed in ("seed0", "seed1"):
        weights = load_file(one / "ablation" / "sim40" / "default" / seed / "model.safetensors")
        torch.testing.assert_close(load_file(runs / seed / "model.safetensors"), weights, rtol=0, atol=0)


def test_completed_study_trains_nothing_and_a_changed_variant_is_retrained_alone(study, home, monkeypatch):
    folder = home()
    rows = ablation(folder, 1, study)
    runs = []
    train = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: (runs.append(self.out), train(self))[1])
    assert ablation(folder, 1, study) == rows
    assert runs == []

    Path(study.variants).write_text(VARIANTS.replace("0.0}", "0.0, mask.ratio: 0.25}"))
    ablation(folder, 1, study)
    assert runs == [folder / "ablation" / "sim40" / "unbiased" / "seed0"]


class Training:
    """Stands for a run: records how it was called, and writes metrics.json if it ends."""

    def __init__(self, ends: bool) -> None:
        self.ends, self.resumed = ends, []

    def __call__(self, out, resume):
        self.resumed.append(resume)
        (out / "checkpoints" / "step_00000003").mkdir(parents=True, exist_ok=True)
        if self.ends:
            (out / "metrics.json").write_text('{"score": 1}')


def test_run_is_read_resumed_or_retrained_by_its_request(tmp_path):
    killed, ending = Training(ends=False), Training(ends=True)
    request = {"settings": {"steps": 3, "sessions": ("a",)}, "base": None}
    assert finish(tmp_path / "run", request, killed) == {}
    assert finish(tmp_path / "run", request, ending) == {"score": 1}
    assert finish(tmp_path / "run", request, ending) == {"score": 1}
    assert (killed.resumed, ending.resumed) == ([False], [True])
    assert not (tmp_path / "run" / "checkpoints").exists()  # a completed run needs none

    assert finish(tmp_path / "run", {**request, "base": {"steps": 4}}, ending) == {"score": 1}
    assert ending.resumed == [True, False]


def test_folder_that_is_not_a_run_of_a_study_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="a run of this study"):
        finish(tmp_path, {"base": None}, Training(ends=True))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overrides_change_settings_by_dotted_name_and_no_others():
    base = PretrainConfig(seed=3, sessions=("a", "b"))
    found = overridden(base, {"model.width": 128, "model.num_heads": 8, "seed": 4}, "here", "x")
    assert found == replace(base, model=ModelConfig(width=128, num_heads=8), seed=4)
    assert overridden(base, {}, "here", "x") == base
    with pytest.raises(InputError, match=r"here: x\.model\.width: expected a multiple of 16, found 100"):
        overridden(base, {"model.width": 100}, "here", "x")


def test_simulated_sessions_are_made_once_and_never_mixed(tmp_path):
    store = simulated(tmp_path, SIMULATION, 1)
    assert store.session_ids == ["sub-simA_ses-01", "sub-simA_ses-02"]
    before = (tmp_path / "store" / "manifest.json").stat()
    simulated(tmp_path, replace(SIMULATION, workers=2), 1)  # processes change nothing
    assert (tmp_path / "store" / "manifest.json").stat() == before
    with pytest.raises(InputError, match="simulated sessions: expected those of this study"):
        simulated(tmp_path, replace(SIMULATION, seconds=31.0), 1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "a: {model.widht: 96}",
            r"a\.model\.widht: expected one of: architecture, width, .*, found an unknown setting",
        ),
        (
            "a: {mask.ration: 0.1}",
            r"a\.mask\.ration: expected one of: ratio, kinds, random_only_steps, .*found an unknown setting",
        ),
        ("a: {models.width: 64}", r"a\.models: expected one of"),
        ("a: {window.x: 1}", r"a\.window\.x: expected a setting; window has none below it"),
        ("a: {model.width: wide}", r"a\.model\.width: expected int, found 'wide'"),
        ("a: {mask.ratio: 3.0}", r"a\..*ratio: expected 0.01 to 0.99, found 3.0"),
        ("a: {train.steps: 10}", r"a\.train\.steps: expected a setting of variants, found one of the whole study"),
        ("a: {seed: 1}", r"a\.seed: expected a setting of variants"),
        ("a: learned", r"a: expected dotted settings"),
        ("../a: {}", r"variant: expected a name that can be a folder's"),
        ("- a", r"variants: expected names and their settings"),
        ("", r"variants: expected names and their settings"),
        ("a: {", r"variants: expected a YAML file"),
        ("a: {preset: missing.yaml}", r"missing\.yaml: content: expected a YAML file"),
    ],
)
def test_bad_variants_are_refused_by_name(text, match, tmp_path):
    (tmp_path / "variants.yaml").write_text(text)
    with pytest.raises(InputError, match=match):
        load_variants(tmp_path / "variants.yaml", PretrainConfig())


def test_variants_override_the_base_or_their_preset_and_keep_the_budget(tmp_path):
    (tmp_path / "other.yaml").write_text("model: {width: 64}\ntrain: {steps: 9000, batch_size: 8}\n")
    (tmp_path / "v.yaml").write_text(
        "default: {}\none: {model.width: 128, mask.ratio: 0.25}\nwhole: {preset: other.yaml, train.ema: 0.5}\n"
    )
    base = PretrainConfig(train=TrainConfig(steps=7, batch_size=16), bin_size=0.02)
    assert load_variants(tmp_path / "v.yaml", base) == {
        "default": base,
        "one": replace(base, model=ModelConfig(width=128), mask=MaskConfig(ratio=0.25)),
        "whole": PretrainConfig(
            model=ModelConfig(width=64), train=TrainConfig(steps=7, batch_size=8, ema=0.5), bin_size=0.02
        ),
    }


def test_ablations_of_this_repository_are_departures_from_the_default():
    base = PretrainConfig()
    variants = load_variants(CONFIGS / "ablations.yaml", base)
    first, *others = variants
    assert [name for name, config in variants.items() if config == base] == [first]
    assert all(variants[name] != variants[first] for name in others)


def test_paired_difference_by_hand():
    """Differences 1, 2 and 6: mean 3, deviations -2, -1 and 3, so the variance is 7 and the error sqrt(7 / 3)."""
    mean, error = paired_difference([2.0, 4.0, 10.0], [1.0, 2.0, 4.0])
    np.testing.assert_allclose([mean, error], [3.0, (7 / 3) ** 0.5], rtol=1e-12)
    assert paired_difference([2.0], [0.5]) == (1.5, None)
    for values, peers in (([1.0, 2.0], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="must be pairs"):
            paired_difference(values, peers)


def test_paired_row_by_hand():
    """Seeds are paired in order: shuffling the peer's would leave the mean difference and change its error."""
    row = paired_row("x", [2.0, 4.0, 10.0], "R2", "peer", [1.0, 2.0, 4.0], "3 steps")
    assert (row["value"], row["peer_value"], row["ratio"], row["spread"]) == (4.0, 2.0, 2.0, 8.0)
    np.testing.assert_allclose([row["difference"], row["standard_error"]], [3.0, (7 / 3) ** 0.5], rtol=1e-12)
    alone = paired_row("x", [2.0, 4.0, 10.0], "R2", None, [], "3 steps")
    assert alone["peer"] is None
    assert "difference" not in alone


def test_table_shows_the_difference_with_its_error_and_the_budget(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = [
        paired_row("first", [1.0, 2.0, 4.0], "R2", None, [], "3 steps"),
        paired_row("second", [2.0, 4.0, 10.0], "R2", "first", [1.0, 2.0, 4.0], "3 steps"),
        paired_row("lone", [1.0], "R2", "first", [1.5], "3 steps"),
    ]
    show_bench({"rows": rows, "hardware": {"cores": 2}})
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["row"][-2:] == ["difference", "budget"]
    assert lines["first"][-3:] == ["–", "3", "steps"]
    assert lines["second"][-5:] == ["+3.000", "±", "1.528", "3", "steps"]  # sqrt(7 / 3)
    assert lines["lone"][-3:] == ["−0.500", "3", "steps"]


def test_settings_of_a_study_are_refused_by_other_benchmarks():
    with pytest.raises(
        InputError, match=r"expected no settings but of ablation, .*, adaptation, .*dynamics, .*, found"
    ):
        bench("demo", BenchConfig(study=TINY))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"workers": 0}, "workers: expected 1 to 4096, found 0"),
        ({"label_seconds": ()}, "label_seconds: expected some seconds above 0"),
        ({"label_seconds": (15.0, 0.0)}, "label_seconds: expected some seconds above 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, match):
    with pytest.raises(InputError, match=match):
        StudyConfig(**settings)


def test_rows_compare_each_variant_and_mask_kind_to_the_first_variant(study, home, monkeypatch):
    """Bits per spike here: 10 a variant, 1 a mask kind, 0.1 a seed, and 0.1 more for the variant's second seed."""

    def pretrained(store, folder, config):
        v = config.model.locality_bias == 0
        masks = {k: {"bits_per_spike": 10 * v + i + 0.1 * config.seed * (1 + v)} for i, k in enumerate(MASKS, 1)}
        return {"valid": {"masks": masks}, "train_seconds": 1.0}

    monkeypatch.setattr(ndt.benchmarks.ablation, "pretrained", pretrained)
    rows = {r["name"]: r for r in ablation(home(), 2, study)}
    assert list(rows) == [f"sim40.{v}.{k}" for v in ("default", "unbiased") for k in ("random", "unit", "forward")]
    assert rows["sim40.default.unit"]["peer"] is None
    found = rows["sim40.unbiased.unit"]
    assert (found["peer"], found["values"], found["peer_values"]) == ("default", [12.0, 12.2], [2.0, 2.1])
    np.testing.assert_allclose([found["difference"], found["standard_error"]], [10.05, 0.05], rtol=1e-9)
    assert {r["budget"] for r in rows.values()} == {"6 steps x 4 windows"}


@pytest.mark.slow
def test_jobs_run_in_processes_of_one_thread_and_keep_their_order():
    jobs = [partial(divmod, n, 3) for n in range(7)]
    assert run_all(jobs, 2, "") == run_all(jobs, 1, "") == [divmod(n, 3) for n in range(7)]
    assert run_all([torch.get_num_threads] * 2, 2, "") == [1, 1]


@pytest.mark.slow
def test_curve_compares_pretrained_and_scratch_and_is_not_repeated(study, home, monkeypatch):
    folder = home()
    rows = curve(folder, 2, study)
    assert [(r["name"], r["peer"], len(r["values"])) for r in rows] == [
        ("curve.4s", "scratch", 2),
        ("curve.8s", "scratch", 2),
    ]
    assert [len(r["ridge_values"]) for r in rows] == [2, 2]
    for kind in ("pretrained", "scratch"):
        made = json.loads((folder / "curve" / "4s" / kind / "seed1" / "metrics.json").read_text())
        np.testing.assert_allclose(made["label_seconds"], 4.0, atol=made["bin_size"])
        assert made["steps"] == 4
    spec = [json.loads((folder / "curve/4s" / k / "seed0/model.json").read_text()) for k in ("pretrained", "scratch")]
    assert spec[0]["bin_size"] == spec[1]["bin_size"]
    assert set(spec[0]["data"]) == {"sub-simA_ses-01", "sub-simA_ses-02", "sub-simA_ses-03"}
    assert set(spec[1]["data"]) == {"sub-simA_ses-03"}

    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    assert curve(folder, 2, study) == rows


def test_curve_of_more_labels_than_there_are_is_refused(study, home):
    with pytest.raises(InputError, match=r"label_seconds: expected at most the 27\.?\d* s of its training split"):
        curve(home(), 1, replace(study, label_seconds=(60.0,)))


def test_data_sets_that_are_not_there_are_refused_before_anything_is_trained(study, home, monkeypatch, tmp_path):
    monkeypatch.setenv("NDT_DATA", str(tmp_path / "nowhere"))
    for data, match in (
        (("sim40", "m1"), r"NDT_DATA: expected one recording sub-m1/\*\.nwb, found 0"),
        (("sim3",), "data: expected some of sim40, m1, s1, .*, found sim3"),
    ):
        folder = home(data[-1])
        with pytest.raises(InputError, match=match):
            ablation(folder, 1, replace(study, data=data))
        assert [p.name for p in folder.iterdir()] == ["data"]


def _grown(n: int) -> int:
    import builtins

    builtins.kept = [*getattr(builtins, "kept", ()), b"0" * 400_000_000]  # more than joblib lets a process grow by
    time.sleep(1.2)  # it looks once a second
    return n


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_that_have_grown_are_replaced_while_warnings_are_errors():
    """joblib warns in its dispatching thread; as an error, the warning ended that thread, and all jobs waited."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_all([partial(_grown, n) for n in range(6)], 2, "") == list(range(6))
