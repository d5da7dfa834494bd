"""Models on disk: what was saved comes back, and what does not fit is refused in one line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from problems import TINY, busy_model, random_window, recording, specification
from safetensors.torch import load_file, save_file

from ndt.checkpoint import CovariateSpec, ModelSpec, read_json, save_config, sha256, write_json
from ndt.config import PretrainConfig, TrainConfig, load_config
from ndt.errors import InputError
from ndt.model import NDT
from ndt.tokens import pack


@pytest.fixture
def saved(tmp_path):
    """A model and the folder that it was saved in."""
    model = busy_model(specification([recording(num_units=8)])).observe(np.arange(8), np.arange(8) / 2)
    return model, model.save_pretrained(tmp_path / "model")


def edit(path, change) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("dims", [0, 2])
def test_a_saved_model_comes_back_as_it_was(tmp_path, dims) -> None:
    spec = replace(specification([recording(num_units=8)], dims=dims), data={"sub-a_ses-1": "ab12"})
    model = busy_model(spec).observe(np.arange(8), np.arange(8) / 2)
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
    edit(saved[1] / "model.json", lambda x: x["config"].update(width=32))
    with pytest.raises(InputError, match=r"model\.safetensors: .*: expected shape .* of this architecture, found"):
        NDT.from_pretrained(saved[1])


def test_weights_with_a_name_too_many_are_refused(saved) -> None:
    path = saved[1] / "model.safetensors"
    save_file(load_file(path) | {"stranger": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="stranger: expected shape absent"):
        NDT.from_pretrained(saved[1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.update(format=99), "format: expected model format 3, found 99"),
        (lambda x: x.update(format=2), "format: expected model format 3, found 2"),  # of before heads turned otherwise
        (lambda x: x.pop("format"), "found none"),
        (lambda x: x["config"].update(experts=8), "architecture: .*experts"),
        (lambda x: x.pop("vocabulary"), "architecture: .*vocabulary"),
    ],
)
def test_a_specification_that_this_version_does_not_know_is_refused(saved, change, told) -> None:
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


def test_a_covariate_is_standardised_and_restored() -> None:
    spec = CovariateSpec(name="v", dims=("x", "y"), unit="m/s", mean=(1.0, -2.0), std=(2.0, 0.5))
    values = np.array([[1.0, -2.0], [3.0, -1.0], [np.nan, 0.0]], np.float32)
    np.testing.assert_allclose(spec.standardise(values), [[0, 0], [1, 2], [np.nan, 4]])
    np.testing.assert_allclose(spec.restore(spec.standardise(values)), values)


def test_a_specification_is_plain_json() -> None:
    spec = specification([recording()])
    found = json.loads(json.dumps(spec.to_json()))
    assert ModelSpec.from_json("model.json", found) == spec


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


def test_sha256_is_that_of_the_bytes(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
