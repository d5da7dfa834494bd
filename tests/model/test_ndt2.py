"""NDT2 as published: count and position embeddings, the cross-attending decoder, and the quirks of its code.

What holds of every architecture is in test_transformer.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from problems import (
    NDT2,
    busy_model,
    random_activity,
    random_window,
    reads,
    recording,
    specification,
    training_data,
)
from strategies import windows

import ndt.model.ndt2
from ndt.api import embed
from ndt.config import FinetuneConfig, MaskConfig, ModelConfig, PretrainConfig, TrainConfig
from ndt.config.model import ARCHITECTURES as NAMES
from ndt.data.objective import MaskedModelling
from ndt.data.targets import build_targets
from ndt.data.windows import VALID, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.adapt import finetune
from ndt.finetune.decoding import Decoding, decode
from ndt.finetune.scoring import evaluate
from ndt.finetune.strategies import stages
from ndt.model.architectures import ARCHITECTURES, load_model, new_model
from ndt.model.attention_patterns import CONTEXT, packed_layout
from ndt.model.ndt2 import CrossDecoder, Quirks
from ndt.model.tokens import pack
from ndt.model.transformer import NDT
from ndt.pretrain.train import pretrain
from ndt.target import Part

P = NDT2.units_per_patch
QUIRKS = replace(NDT2, architecture="ndt2_quirks")
MASK = MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=1.0)


def test_every_architecture_has_settings_and_a_class_of_its_name() -> None:
    assert tuple(ARCHITECTURES) == NAMES
    assert ModelConfig().architecture == "ndt"
    for name, kind in ARCHITECTURES.items():
        assert kind.ARCHITECTURE == name


def test_slots_are_places_and_what_is_not_seen_counts_zero() -> None:
    model = new_model(specification([recording()], config=NDT2))
    layer, batch = model.embed, pack([random_window(5, 8, np.random.default_rng(0))], P)
    found = layer(batch, batch.visible)
    counts = torch.where(batch.valid & ~batch.hidden, batch.counts, 0)[batch.visible]
    for token in range(len(found)):
        expected = torch.cat([layer.count.weight[int(c)] for c in counts[token]])
        torch.testing.assert_close(found[token], expected, rtol=0, atol=0)


def test_a_batch_of_a_small_session_has_narrow_tokens_and_the_same_embedding() -> None:
    model = new_model(specification([recording()], config=NDT2))
    window = random_window(5, 2, np.random.default_rng(0))
    batch, together = pack([window], P), pack([window, random_window(5, 8, np.random.default_rng(1))], P)
    assert (batch.counts.shape[1], together.counts.shape[1]) == (2, 3)
    keep = together.visible & (together.window == 0)
    torch.testing.assert_close(model.embed(batch, batch.visible), model.embed(together, keep), rtol=0, atol=0)


def test_slots_know_no_units() -> None:
    """The same counts of other units, of any mean, are the same to NDT2."""
    window = random_window(6, 8, np.random.default_rng(0))
    model = busy_model(specification([recording(num_units=8)], config=NDT2))
    with torch.no_grad():
        first = model(pack([window], P))
        other = replace(window, unit=window.unit[::-1].copy(), activity=random_activity(np.linspace(0, 3, 8)))
        second = model(pack([other], P))
    torch.testing.assert_close(first.log_rates, second.log_rates, rtol=0, atol=0)
    assert not any(name.startswith(("identity", "stem")) for name in dict(model.named_parameters()))


def test_norms_follow_the_sums_and_chosen_rows_are_those_of_all() -> None:
    torch.manual_seed(0)
    block = new_model(specification([recording()], config=NDT2)).encoder[0].eval()
    time = torch.tensor([CONTEXT, 0, 0, 1, 2, CONTEXT, 0, 1])
    window = torch.tensor([0] * 5 + [1] * 3)
    rows, x = packed_layout(window, time, torch.zeros_like(time), 2, order="joint"), 3 * torch.randn(8, 24) + 1
    attended = torch.nn.functional.layer_norm(x + block.attention(x, rows, rows.pattern(0)), (24,))
    expected = torch.nn.functional.layer_norm(attended + block.feedforward(attended), (24,))
    torch.testing.assert_close(block(x, rows, rows.pattern(0)), expected)
    keep = torch.tensor([6, 3, 3])
    torch.testing.assert_close(block(x, rows, rows.pattern(0), keep=keep), expected[keep], rtol=0, atol=1e-6)


def test_feed_forward_layers_are_plain() -> None:
    torch.manual_seed(0)
    layer, x = new_model(specification([recording()], config=NDT2)).encoder[0].feedforward, torch.randn(5, 24)
    inner = x @ layer[0].weight.T + layer[0].bias
    expected = torch.nn.functional.gelu(inner) @ layer[2].weight.T + layer[2].bias
    torch.testing.assert_close(layer(x), expected)


def test_tables_say_what_they_cannot_hold(monkeypatch) -> None:
    monkeypatch.setattr(ndt.model.ndt2, "MAX_BINS", 20)
    monkeypatch.setattr(ndt.model.ndt2, "MAX_SLOTS", 2)
    rng, model = np.random.default_rng(0), busy_model(specification([recording(num_units=8)], config=NDT2))
    model(pack([random_window(20, 6, rng)], P))
    with pytest.raises(InputError, match=r"model: bins of a window: expected at most 20, .* NDT2's table, found 21"):
        model(pack([random_window(21, 6, rng, hidden=0.0)], P))
    with pytest.raises(InputError, match=r"model: patches of a window: expected at most 2, .* NDT2's table, found 3"):
        model(pack([random_window(5, 8, rng, hidden=0.0)], P))
    late = random_window(21, 6, rng)
    late.valid[20] = False  # no token there, but a bin to decode
    with pytest.raises(InputError, match="bins of a window"):
        model(pack([late], P))
    with pytest.raises(InputError, match=r"model: window: expected at most 20 bins, .* found 21 \(1.05 s\)"):
        new_model(specification([recording()], config=NDT2, window_bins=21))


@settings(max_examples=20)
@given(a=windows(num_units=8), b=windows(num_units=8))
def test_a_query_reads_contexts_and_the_tokens_of_its_past_and_present(a, b) -> None:
    model = busy_model(specification([recording(num_units=8)], config=NDT2))
    batch, patterns = pack([a, b], P), []
    encoded = model.encode(batch)
    attention = model.decoder.blocks[0].attention
    attention.register_forward_pre_hook(lambda _, given: patterns.append(given[2]))
    model.read_target(batch, encoded)
    time, window = encoded.layout.time, torch.arange(2).repeat_interleave(encoded.layout.lengths)
    expected = (batch.bin_window[:, None] == window) & ((time == CONTEXT) | (time <= batch.bin_time[:, None]))
    torch.testing.assert_close(reads(patterns[0]), expected)


def test_every_parameter_of_its_decoder_gets_a_gradient_and_time_alone_asks() -> None:
    model = busy_model(specification([recording(num_units=8)], config=NDT2))
    assert isinstance(model.decoder, CrossDecoder)
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0, absent=0.0)
    decoded = model(pack([window], P)).decoded
    (decoded * torch.randn(decoded.shape)).sum().backward()
    silent = [name for name, p in model.decoder.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []
    with torch.no_grad():
        model.decoder.time.weight.zero_()  # and without time, in one layer, bins that read the same say the same
        one = replace(window, valid=window.valid & (np.arange(6) == 0)[:, None])
        found = model(pack([one], P)).decoded
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [NDT2, QUIRKS])
def test_five_spikes_are_nothing_and_stay_it_where_the_released_code_is_followed(config) -> None:
    torch.manual_seed(0)
    layer = new_model(specification([recording()], config=config)).embed
    window = random_window(5, 8, np.random.default_rng(0), hidden=0.0)
    batch = pack([replace(window, counts=np.full_like(window.counts, 5))], P)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    before = layer.count.weight[5].detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        (layer(batch, batch.visible) - 1).square().sum().backward()
        optimizer.step()
    assert bool((layer.count.weight[5] == 0).all()) == (config is QUIRKS)
    assert torch.equal(layer.count.weight[5], before) == (config is QUIRKS)


@pytest.mark.parametrize(("config", "number"), [(QUIRKS, 1), (NDT2, 8)])
def test_one_mask_for_all_windows_of_a_batch_where_the_released_code_is_followed(config, number) -> None:
    session = recording(num_units=7)
    spec = specification([session], config=config, dims=0)
    settings = PretrainConfig(model=config, train=TrainConfig(batch_size=8), mask=MASK, unit_dropout=0.0)
    objective = MaskedModelling([training_data(BinnedSession(session, 0.05, 1.0), spec)], new_model(spec), settings)
    for step in range(3):
        batch = objective.batch(step, range(8))
        assert len({batch.hidden[batch.window == b].numpy().tobytes() for b in range(8)}) == number
    assert (NDT.SHARED_MASK, Quirks.SHARED_MASK) == (False, True)


def decoding(config: ModelConfig) -> tuple[NDT, Decoding]:
    """Decoding of a recording made in memory, by a small model."""
    session = recording(num_units=8)
    spec, binned = specification([session], config=config), BinnedSession(session, 0.05, 1.0)
    target = build_targets(session, "vel", binned.start, 0.05)
    settings = FinetuneConfig(mask=MASK, masked_weight=0.0, freeze_steps=0, unit_dropout=0.0)
    model, data = busy_model(spec), training_data(binned, spec, spec.target.standardise(target.values))
    return model, Decoding(data, target, model, settings, stages(settings, False), False)


@pytest.mark.parametrize(("config", "silent"), [(NDT2, 0), (QUIRKS, 2)])
def test_the_first_120_ms_of_a_window_have_no_target_where_the_released_code_is_followed(config, silent) -> None:
    batch = decoding(config)[1].batch(0, range(8))
    torch.testing.assert_close(batch.target.isnan().all(1), batch.bin_time < silent)


def test_released_validation_averages_batches_and_ours_does_not(monkeypatch) -> None:
    monkeypatch.setattr(Quirks, "R2_BINS", 20)
    for config in (NDT2, QUIRKS):
        model, objective = decoding(config)
        binned = objective.data.binned
        rows = binned.split == VALID
        true, decoded = objective.true.values[rows], decode(model, binned, rows)[rows]
        expected = r2(true, decoded)
        if config is QUIRKS:
            each = np.array([r2(true[p], decoded[p]) for p in np.array_split(np.arange(len(true)), len(true) // 20)])
            expected = np.where(each < -10, 0, each).mean()
        np.testing.assert_allclose(objective.validate(model)["r2"], expected)


@pytest.mark.slow
def test_it_is_pretrained_fine_tuned_embedded_and_evaluated_as_any_model(sim_store, sim_truth, tmp_path) -> None:
    model = replace(NDT2, width=32, units_per_patch=16)
    steps = TrainConfig(steps=4, batch_size=4, valid_every=2)
    config = PretrainConfig(model=model, train=steps, window=1.0, mask=MASK)
    pretrain(sim_store, tmp_path / "base", config, progress=False)
    assert type(load_model(tmp_path / "base")) is ARCHITECTURES["ndt2"]
    with pytest.raises(InputError, match=r"architecture: expected ndt .*, found ndt2"):
        NDT.from_pretrained(tmp_path / "base")
    name = sim_truth[1].session_id
    assert embed(tmp_path / "base", name).latents.shape[1] == 32
    for way in ("full", "heads"):
        settings = FinetuneConfig(
            strategy=way, train=steps, mask=MASK, auxiliary="", baselines=(), ensemble=("network",)
        )
        decoder = finetune(tmp_path / "base", name, "cursor_vel", out=tmp_path / way, config=settings, progress=False)
        assert np.isfinite(decoder.metrics["network"]["r2"])
    assert np.isfinite(evaluate(tmp_path / "full")["network"]["r2"])
    settings = FinetuneConfig(strategy="none", train=steps, baselines=(), ensemble=("network",))
    again = finetune(tmp_path / "full", name, "cursor_vel", out=tmp_path / "none", config=settings, progress=False)
    assert again.metrics["network"]["r2"] == pytest.approx(evaluate(tmp_path / "full")["network"]["r2"], abs=1e-4)


def test_labels_of_trials_are_refused() -> None:
    spec = specification([recording()], config=NDT2)
    go = Part(name="trials/go", kind="class", dims=("a", "b"), per="trials")
    known = {"mean": (0.0,) * 2, "std": (1.0,) * 2, "dims": go.dims}
    for target in (replace(spec.target, parts=(go,), **known), replace(spec.target, auxiliary=(go,))):
        with pytest.raises(InputError, match="model: target: expected labels per bin, for NDT2, found labels per tria"):
            new_model(replace(spec, target=target))
