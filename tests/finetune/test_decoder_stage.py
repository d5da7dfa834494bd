"""The decoder alone, after the network: nothing else moves, latents are the model's, and what is worse is dropped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, grid_of, recording, specification

from ndt.config import FinetuneConfig, TrainConfig
from ndt.data.targets import build_targets
from ndt.data.windows import TRAIN
from ndt.finetune import adapt
from ndt.finetune.adapt import finetune
from ndt.finetune.decoder_stage import DecoderStage
from ndt.model.transformer import NDT

MODEL = replace(TINY, decoder="tcn_latents", tcn_width=6, num_tcn_layers=2)
CONFIG = FinetuneConfig(
    train=TrainConfig(steps=4, batch_size=4, valid_every=2, ema=0.0), model=MODEL, window=1.0, max_lag=0.2,
    baselines=("ridge",),
)  # fmt: skip


@pytest.fixture(scope="module")
def objective() -> DecoderStage:
    session = recording(num_units=7)
    torch.manual_seed(0)
    model = NDT(specification([session], config=MODEL)).eval()
    binned = grid_of(session)
    target = build_targets(session, None, binned.start, binned.bin_size, split=binned.split)
    return DecoderStage(binned, binned.split == TRAIN, target.values, model, CONFIG)


def test_windows_carry_the_latents_of_their_bins_and_hide_nothing(objective) -> None:
    batch = objective.batch(3, range(4))
    assert batch.latents.shape == (len(batch.bin_time), MODEL.width)
    assert not batch.hidden.any()
    rng = objective.sampler.generator(3, 2)
    _, window = objective.sampler.draw(rng)
    first = int((batch.bin_window < 2).sum())
    expected = objective.latents[window.index[0] : window.index[1]]
    np.testing.assert_array_equal(batch.latents[first : first + len(expected)].numpy(), expected)
    assert np.isfinite(objective.latents[objective.chosen]).all()


def test_only_decoder_and_readin_learn(objective) -> None:
    names = ["decoder.stacks.0.readout.weight", "readin", "unit", "context", "encoder.0.attention.out.weight"]
    assert [objective.rate(name, 0) > 0 for name in names] == [True, True, False, False, False]


@pytest.mark.slow
def test_other_parameters_stay_bit_equal_and_worse_weights_are_dropped(
    sim_store, sim_truth, tmp_path, monkeypatch
) -> None:
    """From the same network: a decoder stage that improves validation, and one that does not."""
    name, options = sim_truth[0].session_id, {"store": sim_store, "progress": False}
    before = finetune(None, name, out=tmp_path / "a", config=replace(CONFIG, decoder_steps=0), **options)
    after = finetune(None, name, out=tmp_path / "b", config=replace(CONFIG, decoder_steps=20), **options)
    assert after.metrics["valid"]["network"] > before.metrics["valid"]["network"]
    moved = {
        key for key, value in before.model.state_dict().items() if not torch.equal(value, after.model.state_dict()[key])
    }
    assert moved
    assert (before.metrics["decoder_steps"], after.metrics["decoder_steps"]) == (0, 20)
    assert all(key == "readin" or key.startswith("decoder.") for key in moved)
    monkeypatch.setattr(adapt.DecoderStage, "validate", lambda *_: {"score": -1.0, "r2": -1.0})
    in_vain = finetune(None, name, out=tmp_path / "c", config=replace(CONFIG, decoder_steps=20), **options)
    torch.testing.assert_close(in_vain.model.state_dict(), before.model.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_a_resumed_decoder_stage_equals_an_uninterrupted_one(sim_store, sim_truth, tmp_path, monkeypatch) -> None:
    name, config = sim_truth[0].session_id, replace(CONFIG, decoder_steps=20)
    options = {"store": sim_store, "progress": False, "config": config}
    whole = finetune(None, name, out=tmp_path / "whole", **options)
    inner = DecoderStage.batch

    def broken(self, step, rows):
        if step == 7:
            raise KeyboardInterrupt
        return inner(self, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderStage, "batch", broken)
        with pytest.raises(KeyboardInterrupt):
            finetune(None, name, out=tmp_path / "broken", **options)
    resumed = finetune(None, name, out=tmp_path / "broken", resume=True, **options)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_a_new_run_removes_the_decoder_stage_of_an_earlier_one(sim_store, sim_truth, tmp_path, monkeypatch) -> None:
    """Else a run that breaks off before its decoder's own steps would be resumed with those of the earlier one."""
    name, options = sim_truth[0].session_id, {"store": sim_store, "progress": False, "out": tmp_path}
    config = replace(CONFIG, decoder_steps=2)
    finetune(None, name, config=config, **options)
    assert (tmp_path / "decoder" / "checkpoints").exists()
    with monkeypatch.context() as patch:
        patch.setattr(DecoderStage, "fixed_latents", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(None, name, config=config, **options)
    assert not (tmp_path / "decoder").exists()
