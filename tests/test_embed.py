"""Embeddings: one latent a bin, exported with what made it, and the file that they came from left alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pynwb import NWBHDF5IO

from ndt.api import embed
from ndt.errors import InputError
from ndt.model.inference import Embeddings
from ndt.model.transformer import NDT

TIMES = 1000.0 + np.arange(40) / 20


def embeddings(**changes) -> Embeddings:
    latents = np.arange(120, dtype=np.float32).reshape(40, 3)
    found = Embeddings(
        latents=latents, time=TIMES, segment=np.repeat([0, 1], 20), options={"session": "a", "bin_size": 0.05}
    )
    return replace(found, **changes)


@pytest.fixture
def source(tmp_path) -> Path:
    """A small NWB file."""
    from recordings import series, units, write_nwb

    return write_nwb(tmp_path / "source" / "sub-x_ses-y.nwb", units(), series())


def test_npz_holds_all_and_no_pickle(tmp_path) -> None:
    found = embeddings()
    path = found.to_npz(tmp_path / "new" / "a.npz")
    with np.load(path, allow_pickle=False) as file:
        for name in ("latents", "time", "segment"):
            np.testing.assert_array_equal(file[name], getattr(found, name))
        assert json.loads(str(file["options"])) == found.options
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_nwb_copy_has_the_latents_and_all_the_rest(tmp_path, source) -> None:
    before, found = source.read_bytes(), embeddings(source=str(source))
    path = found.to_nwb(tmp_path / "new" / "copy.nwb")
    assert source.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["copy.nwb"]
    with NWBHDF5IO(path, "r") as io:
        nwb = io.read()
        series = nwb.processing["ndt"]["latents"]
        np.testing.assert_array_equal(series.data[:], found.latents)
        np.testing.assert_array_equal(series.timestamps[:], TIMES)
        assert json.loads(series.comments) == found.options
        assert len(nwb.units) == 3
        assert "hand_vel" in nwb.processing["behavior"].data_interfaces


def test_the_source_is_never_overwritten(tmp_path, source) -> None:
    (tmp_path / "link.nwb").symlink_to(source)
    before = source.read_bytes()
    for path in (source, tmp_path / "link.nwb"):
        with pytest.raises(InputError, match="another file than the source"):
            embeddings(source=str(source)).to_nwb(path)
    assert source.read_bytes() == before


def test_a_second_module_is_refused_and_leaves_nothing(tmp_path, source) -> None:
    copy = embeddings().to_nwb(tmp_path / "copy.nwb", source)
    with pytest.raises(InputError, match="processing/ndt: expected no such module yet"):
        embeddings().to_nwb(tmp_path / "again" / "copy.nwb", copy)
    assert list((tmp_path / "again").iterdir()) == []


@pytest.mark.parametrize("named", ["", "absent.nwb"])
def test_a_missing_source_is_refused(tmp_path, named) -> None:
    with pytest.raises(InputError, match="the NWB file that was ingested, found no such file"):
        embeddings(source=named).to_nwb(tmp_path / "copy.nwb")


def test_every_bin_has_a_latent_at_its_centre(sim_base, sim_store, sim_truth) -> None:
    found = embed(sim_base, sim_truth[0].session_id)  # the model knows where its store is
    np.testing.assert_allclose(found.time, sim_truth[0].time + sim_truth[0].bin_size / 2)
    assert found.latents.shape == (len(found.time), 48)
    assert np.isfinite(found.latents).all()
    assert found.options["session"] == sim_truth[0].session_id
    assert Path(found.source) == sim_truth[0].path


def test_latents_carry_the_digest_of_their_weights(sim_base, sim_store, sim_truth) -> None:
    name, model = sim_truth[0].session_id, NDT.from_pretrained(sim_base)
    one, again = (embed(x, name, store=sim_store) for x in (model, sim_base))
    assert one.options["model_sha256"] == again.options["model_sha256"]
    np.testing.assert_array_equal(one.latents, again.latents)
    with torch.no_grad():
        model.context_kind[0] += 1
    assert embed(model, name, store=sim_store).options["model_sha256"] != one.options["model_sha256"]


def test_a_session_that_the_model_does_not_know_is_embedded_without_changing_the_model(
    sim_base, sim_store, sim_truth
) -> None:
    model = NDT.from_pretrained(sim_base)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = embed(model, sim_truth[1].session_id, store=sim_store)
    assert np.isfinite(found.latents).all()
    assert found.latents.std(0).min() > 0
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_unknown_session_and_unknown_store_are_refused(sim_base, sim_store, sim_truth) -> None:
    with pytest.raises(InputError, match=sim_truth[0].session_id):  # it lists what there is
        embed(sim_base, "sub-z_ses-9", store=sim_store)
    model = NDT.from_pretrained(sim_base)
    model.store = None
    with pytest.raises(InputError, match="store"):
        embed(model, sim_truth[0].session_id)
