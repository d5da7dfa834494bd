"""Code in a file of any format does not run."""

import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import io

from ndt.cli import main
from ndt.config.reader import load_config
from ndt.config.training import PretrainConfig
from ndt.data.read.archive import load_arrays as load_recording
from ndt.data.reading import read
from ndt.data.recipes import load_recipe
from ndt.data.store import read_session, write_session
from ndt.decoders.ensemble import Ensemble, unflatten
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError
from ndt.model.checkpoint import load_tensors, read_spec
from ndt.parsing import read_json, read_npz, read_yaml
from tests.malformed import write_template
from tests.problems import recording


class Payload:
    """Pickled, it makes a folder where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """The folder that code of a file would make; the payload works."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.is_dir()
    mark = tmp_path / "mark"
    yield mark
    assert not mark.exists()


def test_json(mark, tmp_path) -> None:
    code = f"__import__('os').mkdir('{mark}')"
    (tmp_path / "model.json").write_text(f'{{"format": 6, "config": "{code}", "__class__": "os.mkdir", "data": {{}}}}')
    assert read_json(tmp_path / "model.json")
    with pytest.raises(InputError):
        read_spec(tmp_path)
    for name in ("os.mkdir", "builtins.eval", "__import__", "Ensemble.__init__"):
        with pytest.raises(KeyError):
            unflatten({"class": name, "path": str(mark)}, {})


def test_yaml(mark, tmp_path) -> None:
    path = tmp_path / "x.yaml"
    for text in (
        f"!!python/object/apply:os.mkdir ['{mark}']",
        f"a: !!python/object/apply:os.mkdir ['{mark}']",
        f"a: !!python/object/new:os.mkdir ['{mark}']",
        "a: !!python/module:os",
        f"class_path: os.mkdir\ninit_args: {{path: {mark}}}",
        f"model: {{class_path: os.mkdir, init_args: {{path: {mark}}}}}",
        f"ingest: {{select: \"__import__('os').mkdir('{mark}')\"}}",
    ):
        path.write_text(text)
        for reader in (read_yaml, lambda path: load_config(PretrainConfig, path), load_recipe):
            with suppress(InputError):
                reader(path)
        assert main(["pretrain", str(tmp_path), "--out", str(tmp_path / "out"), "--config", str(path)]) == 2


def test_expressions_of_settings(mark, tmp_path) -> None:
    nwb = write_template(tmp_path / "x.nwb")
    for select in (f"__import__('os').mkdir('{mark}')", f"(lambda: os.mkdir('{mark}'))()", "quality.__class__"):
        argv = ["ingest", str(nwb), "--out", str(tmp_path / "store"), "--select", select, "--quiet"]
        assert main(argv) == 2


def test_npz(mark, tmp_path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([Payload(mark)], object), time=np.zeros(1))
    for reader in (read_npz, Snapshots.from_npz, lambda path: load_recording(path, ["x"])):
        with pytest.raises(InputError):
            reader(path)
    path.write_bytes(pickle.dumps(Payload(mark)))
    for reader in (read_npz, Snapshots.from_npz, lambda path: load_recording(path, ["x"])):
        with pytest.raises(InputError):
            reader(path)


def test_hdf5_of_a_store(mark, tmp_path) -> None:
    path, code = tmp_path / "sub-a_ses-1.h5", np.void(pickle.dumps(Payload(mark)))
    write_session(recording(), path)
    with h5py.File(path, "a") as file:
        for group in (file, file["units"], file["session"], file["covariates/vel"]):
            group.attrs["payload"] = code
        file["units/payload"] = np.array([code] * len(file["units/id"]))
        file["covariates/vel"].attrs["dims"] = f"[__import__('os').mkdir('{mark}')]"
    with pytest.raises(InputError, match="dims"):
        read_session(path)


def test_safetensors(mark, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"x": Payload(mark)}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: content: expected a safetensors file"):
        load_tensors(path)
    body = pickle.dumps(Payload(mark))
    path.write_bytes(struct.pack("<Q", len(body)) + body)
    with pytest.raises(InputError):
        load_tensors(path)
    (tmp_path / "ensemble.json").write_text('{"format": 3, "ensemble": {"class": "Ensemble"}}')
    path.rename(tmp_path / "ensemble.safetensors")
    with pytest.raises(InputError):
        Ensemble.load(tmp_path)


def test_nwb(mark, tmp_path) -> None:
    path = write_template(tmp_path / "sub-a.nwb")
    code = pickle.dumps(Payload(mark))
    with h5py.File(path, "a") as file:
        file.attrs["payload"] = np.void(code)
        file["units"].attrs["pickle"] = np.void(code)
        file["session_description"][()] = f"{{{{ __import__('os').mkdir('{mark}') }}}}"
        (version,) = file["specifications/core"].values()
        name = next(iter(version))
        del version[name]
        version[name] = f"!!python/object/apply:os.mkdir ['{mark}']"
    with suppress(InputError):
        read(path)


def test_mat(mark, tmp_path) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(InputError):
        load_recording(path, ["x"])
    io.savemat(path, {"x": {"f": f"@() mkdir('{mark}')"}, "code": np.frombuffer(pickle.dumps(Payload(mark)), np.uint8)})
    load_recording(path, ["x.f", "code"])
