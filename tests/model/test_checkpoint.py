"""Models on disk: saving and loading restores a model, and files that do not fit raise a one-line error."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from problems import TINY, busy_model, random_window, recording, specification, with_means
from safetensors.torch import load_file, save_file

from ndt.api import embed
from ndt.config import PretrainConfig, TrainConfig, load_config
from ndt.errors import InputError
from ndt.finetune.adapt import finetune
from ndt.model.architectures import load_model
from ndt.model.checkpoint import ModelSpec, TargetSpec, save_config, write_json
from ndt.model.tokens import pack
from ndt.model.transformer import NDT
from ndt.parsing import read_json
from ndt.target import Part, Target, part_columns


@pytest.fixture
def saved(tmp_path):
    """A model and the folder that it was saved in."""
    model = with_means(busy_model(specification([recording(num_units=8)])), np.arange(8) / 2)
    return model, model.save_pretrained(tmp_path / "model")


def edit(path, change) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("dims", [0, 2])
def test_a_saved_model_comes_back_as_it_was(tmp_path, dims) -> None:
    spec = replace(specification([recording(num_units=8)], dims=dims), data={"sub-a_ses-1": "ab12"})
    model = with_means(busy_model(spec), np.arange(8) / 2)
    other = NDT.from_pretrained(model.save_pretrained(tmp_path / "new" / "folder"))
    assert other.spec == model.spec
    assert not other.training
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    batch = pack([random_window(9, 8, np.random.default_rng(0))], TINY.units_per_patch)
    with torch.no_grad():
        found, expected = other(batch), model(batch)
    torch.testing.assert_close(found.log_rates, expected.log_rates, rtol=0, atol=0)
    assert (found.decoded is None) == (dims == 0)
    if dims:
        torch.testing.assert_close(found.decoded, expected.decoded, rtol=0, atol=0)


def test_the_folder_holds_no_pickle(saved) -> None:
    assert sorted(p.name for p in saved[1].iterdir()) == ["model.json", "model.safetensors"]


def test_weights_of_another_architecture_are_refused(saved) -> None:
    edit(saved[1] / "model.json", lambda x: x["config"].update(unit_width=32))
    with pytest.raises(
        InputError, match=r"model\.safetensors: .*: expected .* of shape .*, as in this architecture, found"
    ):
        NDT.from_pretrained(saved[1])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("stem.linear.weight", math.nan, "finite numbers, found 1 others"),
        ("stem.linear.weight", math.inf, "finite numbers, found 1 others"),
        ("identity.activity_std", 0.0, "standard deviations above 0"),
        ("identity.activity_std", math.nan, "finite numbers"),
        ("stem.linear.weight", None, "expected torch.float32 .*, found torch.int32"),
    ],
)
def test_numbers_that_would_go_wrong_in_silence_are_refused(saved, name, value, told) -> None:
    path = saved[1] / "model.safetensors"
    weights = load_file(path)
    if value is None:
        weights[name] = weights[name].int()
    else:
        weights[name].view(-1)[0] = value
    save_file(weights, path)
    with pytest.raises(InputError, match=rf"{name}: .*{told}"):
        NDT.from_pretrained(saved[1])


@pytest.mark.parametrize("key", ["num_layers", "width", "num_heads", "unit_width", "units_per_patch", "feedforward"])
def test_sizes_that_take_for_ever_are_refused_at_once(saved, key) -> None:
    edit(saved[1] / "model.json", lambda x: x["config"].update({key: 10_000_000}))
    with pytest.raises(InputError, match=rf"config\.model\.{key}: expected"):
        NDT.from_pretrained(saved[1])


def test_an_architecture_larger_than_its_weights_is_refused_before_it_is_built(saved) -> None:
    edit(saved[1] / "model.json", lambda x: x["config"].update(width=8192, num_layers=900))
    with pytest.raises(InputError, match=r"architecture\.config: expected an architecture of at most the .* weights"):
        NDT.from_pretrained(saved[1])


def test_weights_with_a_name_too_many_are_refused(saved) -> None:
    path = saved[1] / "model.safetensors"
    save_file(load_file(path) | {"stranger": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="stranger: expected none of that name, as in this architecture, found"):
        NDT.from_pretrained(saved[1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.update(format=99), "format: expected model format 6, found 99"),
        (lambda x: x.update(format=5), "format: expected model format 6, found 5"),  # of before units had activity
        (lambda x: x.pop("format"), "found none"),
        (
            lambda x: x["config"].update(experts=8),
            "config.experts: expected one of .*, found an unknown entry",
        ),
        (lambda x: x.pop("vocabulary"), "architecture.vocabulary: expected an entry of that name, found none"),
    ],
)
def test_an_unknown_specification_is_refused(saved, change, told) -> None:
    edit(saved[1] / "model.json", change)
    with pytest.raises(InputError, match=told):
        NDT.from_pretrained(saved[1])


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04 not what it says"])
def test_missing_and_broken_files_are_refused(saved, name, content) -> None:
    (saved[1] / name).unlink()
    if content is not None:
        (saved[1] / name).write_bytes(content)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        NDT.from_pretrained(saved[1])


GO = Part(name="trials/go", kind="class", dims=("left", "mid", "right"), per="trials")
HEAD = Part(name="head", kind="angle", dims=("yaw",))
VEL = Part(name="vel", kind="continuous", dims=("x", "y"), unit="m/s")
SEVERAL = TargetSpec(
    name="vel,trials/go,head",
    dims=("x", "y", "left", "mid", "right", "cos(yaw)", "sin(yaw)"),
    unit="m/s",
    mean=(1.0, -2.0, 0.0, 0.0, 0.0, 0.5, 0.0),
    std=(2.0, 0.5, 1.0, 1.0, 1.0, 0.1, 1.0),
    parts=(VEL, GO, HEAD),
    lag=0.1,
)


TWO = {"dims": ("x", "y"), "mean": (1.0, -2.0), "std": (2.0, 0.5)}


def test_a_target_is_standardised_and_restored() -> None:
    spec = TargetSpec(name="vel", dims=("x", "y"), unit="m/s", mean=(1.0, -2.0), std=(2.0, 0.5), parts=(VEL,))
    values = np.array([[1.0, -2.0], [3.0, -1.0], [np.nan, 0.0]], np.float32)
    np.testing.assert_allclose(spec.standardise(values), [[0, 0], [1, 2], [np.nan, 4]])
    np.testing.assert_allclose(spec.restore(spec.standardise(values)), values)


def target(parts, values, lag=0.0) -> Target:
    values = np.array(values, np.float32)

    return Target(parts=parts, values=values, trial=(np.full(len(values), -1),) * len(parts), lag=lag)


def test_classes_are_not_standardised_and_come_back_as_probabilities() -> None:
    values = np.array([[3.0, -2.5, 0, 1, 0, 0.6, -1.0], [np.nan, np.nan, 0, 0, 1, np.nan, np.nan]], np.float32)
    expected = [[1.0, -1.0, 0, 1, 0, 1.0, -1.0], [np.nan, np.nan, 0, 0, 1, np.nan, np.nan]]
    np.testing.assert_allclose(SEVERAL.standardise(values), expected, atol=1e-6)
    logits = np.log(np.array([[1.0, 2.0, 5.0], [np.nan, np.nan, np.nan]]))
    decoded = np.array([[1.0, -1.0, 0, 0, 0, 1.0, -1.0]] * 2, np.float32)
    decoded[:, 2:5] = logits + 7.0  # what all logits have in common says nothing
    found = SEVERAL.restore(decoded)
    columns = part_columns(SEVERAL.parts)
    np.testing.assert_allclose(found[:, columns[1]], [[0.125, 0.25, 0.625], [np.nan] * 3], atol=1e-6)
    np.testing.assert_allclose(found[:, columns[0]], [[3.0, -2.5]] * 2)
    np.testing.assert_allclose(found[:, columns[2]], [[0.6, -1.0]] * 2)


def test_a_target_is_standardised_by_the_labels_that_each_part_has_in_the_chosen_rows() -> None:
    nan, rows = np.nan, np.array([True, True, True, True, False])
    values = [
        [1, 2, nan, nan, nan, 1, 0],
        [3, 2.5, 1, 0, 0, 0, 1],
        [nan, nan, 0, 1, 0, nan, nan],
        [5, 3, 0, 0, 1, -1, 0],
        [99, 99, 0, 1, 0, 0, -1],
    ]
    spec = TargetSpec.fitted(target((VEL, GO, HEAD), values, lag=-0.05), rows, "here")
    np.testing.assert_allclose(spec.mean, [3, 2.5, 0, 0, 0, 0, 1 / 3])
    np.testing.assert_allclose(spec.std, np.array([8 / 3, 1 / 6, 1, 1, 1, 2 / 3, 2 / 9]) ** 0.5, rtol=1e-6)
    assert (spec.name, spec.dims, spec.unit, spec.parts, spec.lag) == (
        "vel,trials/go,head", SEVERAL.dims, "m/s", (VEL, GO, HEAD), -0.05
    )  # fmt: skip
    other = TargetSpec.fitted(target((VEL,), np.array(values)[:, :2]), rows, "here")
    assert (other.name, other.unit, other.lag) == ("vel", "m/s", 0.0)


@pytest.mark.parametrize(
    ("parts", "values", "told"),
    [
        ((VEL,), [[1, 2], [1, 3], [5, 4]], r"here: vel: expected a target that varies .* found std \[0"),
        ((GO,), [[1, 0, 0], [0, 0, 1], [0, 1, 0]], r"trials/go: expected each of 3 classes .* found none of mid"),
        ((GO,), [[np.nan] * 3] * 2 + [[1, 0, 0]], "trials/go: expected a label on the training split, found none"),
        ((Part(name="go", kind="class", dims=("a",)),), [[1]] * 3, "go: expected at least two classes, found a"),
    ],
)
def test_labels_without_variation_are_refused(parts, values, told) -> None:
    with pytest.raises(InputError, match=told):
        TargetSpec.fitted(target(parts, values), np.array([True, True, False]), "here")


def test_parts_of_a_pretrained_model_keep_its_standardisation_if_the_lag_is_the_same() -> None:
    """Their heads are kept, and give standardised values; only other parts are fitted, and need labels."""
    nan, rows = np.nan, np.ones(3, bool)
    known = replace(SEVERAL, lag=0.0)
    speed = Part(name="speed", kind="continuous", dims=("s",), unit="m/s")
    values = [[1.0, nan, nan, 9, 9, nan, nan, nan], [3.0, nan, nan, 9, 8, nan, nan, nan], [5.0, *[nan] * 7]]
    found = TargetSpec.fitted(target((speed, HEAD, VEL, GO), values), rows, "here", known)
    np.testing.assert_allclose(found.mean, [3, 0.5, 0, 1, -2, 0, 0, 0])
    np.testing.assert_allclose(found.std, [(8 / 3) ** 0.5, 0.1, 1, 2, 0.5, 1, 1, 1], rtol=1e-6)
    own = np.array([[1.0, 2], [3, 3], [2, 1]])
    for other in (replace(known, lag=0.1), replace(known, parts=(replace(VEL, unit="mm/s"), GO, HEAD))):
        fitted = TargetSpec.fitted(target((VEL,), own), rows, "here", other)
        np.testing.assert_allclose([fitted.mean, fitted.std], [own.mean(0), own.std(0)], rtol=1e-6)


def test_a_decoder_takes_a_target_with_fewer_classes_or_parts_for_its_own_and_nothing_else() -> None:
    fewer = replace(GO, dims=("mid", "left"))
    found = SEVERAL.adopt(target((VEL, fewer, HEAD), [[5, 6, 0, 1, 7, 8], [1, 2, np.nan, np.nan, 3, 4]], lag=0.1))
    np.testing.assert_array_equal(found.values, [[5, 6, 1, 0, 0, 7, 8], [1, 2, np.nan, np.nan, np.nan, 3, 4]])
    assert found.parts == SEVERAL.parts
    found = SEVERAL.adopt(target((fewer, VEL), [[0, 1, 5, 6]], lag=0.1))  # some of the parts, in the order asked for
    np.testing.assert_array_equal(found.values, [[1, 0, 0, 5, 6]])
    assert found.parts == (GO, VEL)
    for parts, lag in (
        ((VEL, fewer, HEAD), 0.0),
        ((VEL, replace(GO, dims=("left", "up")), HEAD), 0.1),
        ((VEL, replace(GO, name="go"), HEAD), 0.1),
        ((VEL, replace(GO, expression="sign(left - right)"), HEAD), 0.1),
        ((replace(VEL, unit="mm/s"), GO, HEAD), 0.1),
        ((replace(VEL, dims=("x",)), GO, HEAD), 0.1),
    ):
        assert SEVERAL.adopt(Target.unlabelled(parts, 2, lag)) is None


def test_a_specification_is_plain_json() -> None:
    plain, side = specification([recording()]), replace(GO, name="side", expression="sign(left - right)")
    computed = replace(SEVERAL, parts=(VEL, side, HEAD))
    with_auxiliary = replace(SEVERAL, auxiliary=(replace(HEAD, name="eye"), replace(GO, name="trials/stop")))
    for spec in (plain, *(replace(plain, target=t) for t in (SEVERAL, computed, with_auxiliary))):
        found = json.loads(json.dumps(spec.to_json()))
        assert ModelSpec.from_json("model.json", found) == spec


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x["target"].update(std=[0.0, 1.0]), r"target\.std\[0\]: expected a number above 0"),
        (lambda x: x["target"].update(std=[math.nan, 1.0]), r"target\.std\[0\]: expected a finite number"),
        (lambda x: x["target"].update(mean=[1.0]), "a mean and a standard deviation for each"),
        (lambda x: x["target"]["parts"][0].update(kind="x"), "entries that fit together"),
        (lambda x: x.update(bin_size=0), "bin_size: expected 0.0001 to 10"),
        (lambda x: x.update(window_bins=10**12), "window_bins: expected 1 to 100000"),
        (lambda x: x["vocabulary"].update(contexts=["x"]), "contexts: expected names that begin with session"),
        (lambda x: x["vocabulary"]["units"].append("more"), "vocabulary.units: expected a site and a depth each"),
        (lambda x: x["vocabulary"]["unit_sites"].__setitem__(0, [0, 99]), "unit_sites: expected rows of sites"),
        (lambda x: x["vocabulary"].update(sites=["a", "a"]), "vocabulary"),
    ],
)
def test_a_specification_whose_values_do_not_fit_is_refused(change, told) -> None:
    spec = replace(specification([recording(num_units=8)]), target=replace(SEVERAL, parts=(VEL,), **TWO))
    found = json.loads(json.dumps(spec.to_json()))
    assert ModelSpec.from_json("model.json", found) == spec
    change(found)
    with pytest.raises(InputError, match=told):
        ModelSpec.from_json("model.json", found)


def test_json_is_written_whole_and_without_nan(tmp_path) -> None:
    found = {"a": math.nan, "b": [np.float32(1.5), -math.inf], "c": np.int64(3), "d": {"e": (True, "x")}}
    write_json(tmp_path / "x.json", found)
    assert read_json(tmp_path / "x.json") == {"a": None, "b": [1.5, None], "c": 3, "d": {"e": [True, "x"]}}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_resolved_configuration_can_be_read_again(tmp_path) -> None:
    config = PretrainConfig(train=TrainConfig(steps=7), sessions=("a", "b"), bin_size=0.05)
    save_config(tmp_path / "run", config, tmp_path / "store")
    assert load_config(PretrainConfig, tmp_path / "run" / "config.yaml") == config
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["sessions"] == ["a", "b"]
    assert read_json(tmp_path / "run" / "run.json")["store"] == str(tmp_path / "store")


@pytest.fixture
def hub(saved, monkeypatch):
    """A Hub that has one model; what it is asked for, in order."""
    asked = []

    def download(repo_id, **options):
        asked.append((repo_id, options["revision"]))
        if repo_id != "lab/base":
            raise OSError("404 Client Error.\n\nRepository Not Found")
        return str(saved[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


@pytest.mark.parametrize("load", [NDT.from_pretrained, load_model])
def test_the_hub_is_asked_by_its_prefix(saved, hub, load) -> None:
    assert load("hf:lab/base", revision="v1").spec == saved[0].spec
    assert hub == [("lab/base", "v1")]
    with pytest.raises(InputError, match=r"^hf:lab/other: model: expected a model on the Hugging Face Hub, found 404"):
        load("hf:lab/other")


@pytest.mark.parametrize(
    "name", ["runs/bsae", "lab/base", "bsae", "hf:", "hf:base", "hf:a/b/c", "hf:lab/b?x", "HF:lab/base"]
)
def test_a_misspelt_name_stays_off_the_network(hub, tmp_path, monkeypatch, name) -> None:
    """It was asked for on the Hub, where anyone may have a model of that name."""
    monkeypatch.chdir(tmp_path)
    expected = rf"^{re.escape(name)}: model: expected a run directory, or hf:ORG/NAME for .*, found no such folder$"
    for load in (
        lambda: NDT.from_pretrained(name),
        lambda: load_model(name),
        lambda: embed(name, "session"),
        lambda: finetune(name, "session", out=tmp_path / "out", store=tmp_path),
    ):
        with pytest.raises(InputError, match=expected):
            load()
    assert hub == []
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_model(saved, hub) -> None:
    with pytest.raises(InputError, match=r"expected a run directory, or hf:ORG/NAME .*, found a file"):
        load_model(saved[1] / "model.json")
