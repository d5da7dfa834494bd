"""The TCN equals a slow loop, stays within its window, and its read-in is the input of a linear decoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, random_window, recording, specification

from ndt.model.decoding_loss import decoding_loss
from ndt.model.patches import Population
from ndt.model.tcn import PopulationReadIn, TCNDecoder, shifted
from ndt.model.tokens import pack
from ndt.model.transformer import NDT
from ndt.target import Part

CONFIG = replace(
    TINY, decoder="tcn_latents", tcn_width=5, num_tcn_layers=2, num_members=2, tcn_dropout=0.0, count_dropout=0.0
)
PART = (Part(name="vel", kind="continuous", dims=("x", "y")),)


def batch_of(*lengths: int, num_units: int = 7, **options: float):
    rng = np.random.default_rng(0)
    return pack([random_window(T, num_units, rng, **options) for T in lengths], TINY.units_per_patch)


def test_rows_are_shifted_within_their_window_and_zero_beyond_it() -> None:
    x = torch.arange(1.0, 6.0)[:, None]  # windows of two and three bins
    place = torch.tensor([[0, 1], [1, 0], [0, 2], [1, 1], [2, 0]])
    expected = {
        0: [1, 2, 3, 4, 5],
        1: [0, 1, 0, 3, 4],
        2: [0, 0, 0, 0, 3],
        -1: [2, 0, 4, 5, 0],
        9: [0] * 5,
        -9: [0] * 5,
    }
    for bins, rows in expected.items():
        torch.testing.assert_close(shifted(x, place, bins)[:, 0], torch.tensor(rows, dtype=torch.float32))


def test_the_read_in_is_its_formula_over_seen_units() -> None:
    batch = batch_of(4, 3)
    vectors, mean = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)), torch.linspace(0.2, 2.0, 7)
    found = PopulationReadIn(0.0)(batch, Population(vectors, mean))
    row, expected = batch.bin_index(), torch.zeros(7, 3)
    seen, valid = torch.zeros(7), torch.zeros(7)
    for token in range(batch.num_tokens):
        for p, n in enumerate(batch.members[batch.patch[token]].tolist()):
            valid[row[token]] += batch.valid[token, p]
            if batch.seen[token, p]:
                seen[row[token]] += 1
                far = (batch.counts[token, p] - mean[n]) / (mean[n] + 0.1) ** 0.5
                expected[row[token]] += far.clamp(-6, 6) * vectors[n]
    torch.testing.assert_close(found, expected * (valid.sqrt() / seen.clamp(min=1))[:, None])


def test_dropped_counts_are_their_mean_and_the_others_make_up_for_them() -> None:
    batch = batch_of(400, num_units=3, absent=0.0, hidden=0.0)
    population = Population(torch.eye(3), torch.full((3,), 1.5))
    read_in = PopulationReadIn(0.4)
    whole = read_in.eval()(batch, population)
    torch.manual_seed(0)
    thinned = read_in.train()(batch, population)
    dropped = thinned == 0
    np.testing.assert_allclose(dropped[whole != 0].float().mean(), 0.4, atol=0.05)
    torch.testing.assert_close(thinned[~dropped], whole[~dropped] / 0.6, rtol=1e-3, atol=1e-6)


def slow_stack(stack, population, latents, causal: bool):
    """A stack by its definition, bin by bin, of one window."""
    x = population @ stack.counts.weight.T
    x = x + (stack.counts.bias if stack.latents is None else latents @ stack.latents.weight.T + stack.latents.bias)
    for i, layer in enumerate(stack.layers):
        taps = (2 * 2**i, 2**i, 0) if causal else (2**i, 0, -(2**i))
        rows = []
        for t in range(len(x)):
            near = [x[t - k] if 0 <= t - k < len(x) else torch.zeros_like(x[0]) for k in taps]
            rows.append(x[t] + torch.nn.functional.gelu(layer(torch.cat(near))))
        x = torch.stack(rows)
    return stack.readout(x)


@pytest.mark.parametrize(("causal", "reads"), [(True, "tcn_latents"), (False, "tcn_latents"), (True, "tcn")])
def test_it_is_the_mean_of_stacks_of_dilated_convolutions(causal, reads) -> None:
    torch.manual_seed(0)
    decoder = TCNDecoder(replace(CONFIG, causal=causal, decoder=reads), 2).eval()
    batch = batch_of(9, 4)
    population = Population(torch.randn(7, 16), torch.full((7,), 1.5))
    latents = torch.randn(13, 16)
    with torch.no_grad():
        found, each = decoder(batch, latents, population), []
        for stack, vectors in zip(decoder.stacks, population.vectors.split(8, 1), strict=True):
            read = decoder.read_in(batch, Population(vectors, population.mean_counts))
            each += [torch.cat([slow_stack(stack, read[a:b], latents[a:b], causal) for a, b in ((0, 9), (9, 13))])]
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-5, atol=1e-5)


def test_while_training_each_stack_answers_for_itself() -> None:
    torch.manual_seed(0)
    decoder = TCNDecoder(CONFIG, 2).train()
    batch, latents = batch_of(6), torch.randn(6, 16)
    population = Population(torch.randn(7, 16), torch.full((7,), 1.5))
    both = decoder(batch, latents, population)
    assert both.shape == (12, 2)
    torch.testing.assert_close(both.view(2, 6, 2).mean(0), decoder.eval()(batch, latents, population))
    target = batch.target
    alone = [decoding_loss(rows, target, PART) for rows in both.split(6)]
    torch.testing.assert_close(decoding_loss(both, target, PART), sum(alone) / 2)


def test_a_stack_reaches_as_far_back_as_it_says_and_no_further() -> None:
    torch.manual_seed(0)
    decoder = TCNDecoder(replace(CONFIG, num_tcn_layers=3), 2).eval()
    batch, population = batch_of(40), Population(torch.randn(7, 16), torch.full((7,), 1.5))
    latents = torch.randn(40, 16)
    with torch.no_grad():
        before = decoder(batch, latents, population)
        latents[20] += 1.0
        moved = (decoder(batch, latents, population) != before).any(1).nonzero()[:, 0]
    assert (int(moved[0]), int(moved[-1])) == (20, 20 + 2 * (2**3 - 1))


def test_known_latents_are_decoded_as_if_they_had_been_encoded() -> None:
    torch.manual_seed(0)
    model = NDT(specification([recording(num_units=7)], config=CONFIG)).eval()
    windows = [random_window(T, 7, np.random.default_rng(T)) for T in (6, 3)]
    batch = pack(windows, TINY.units_per_patch)
    with torch.no_grad():
        latents = model.latents(batch, model.encode(batch))
        parts = np.split(latents.numpy(), [6])
        known = pack([replace(w, latents=x) for w, x in zip(windows, parts, strict=True)], TINY.units_per_patch)
        torch.testing.assert_close(model(known, rates=False).decoded, model(batch).decoded)


def test_labels_teach_the_encoder_only_where_they_may() -> None:
    torch.manual_seed(0)
    model = NDT(specification([recording(num_units=7)], config=CONFIG)).train()
    batch = batch_of(6)
    for detach in (False, True):
        model.zero_grad()
        decoding_loss(model(batch, rates=False, detach_latents=detach).decoded, batch.target, PART).backward()
        learned = [p.grad is not None and bool(p.grad.any()) for p in model.encoder.parameters()]
        assert any(learned) != detach
        assert model.decoder.stacks[0].readout.weight.grad.any()


def test_a_decoder_of_counts_encodes_nothing(monkeypatch) -> None:
    torch.manual_seed(0)
    model = NDT(specification([recording(num_units=7)], config=replace(CONFIG, decoder="tcn"))).eval()
    batch = pack([random_window(6, 7, np.random.default_rng(0))], TINY.units_per_patch)
    before = model(batch).decoded
    with torch.no_grad():
        for block in model.encoder:
            block.attention.out.weight += 1.0
    monkeypatch.setattr(NDT, "encode", None)
    torch.testing.assert_close(model(batch, rates=False).decoded, before, rtol=0, atol=0)
    torch.testing.assert_close(model.decode(batch), before, rtol=0, atol=0)


def test_each_stack_reads_units_in_its_own_way() -> None:
    torch.manual_seed(0)
    model = NDT(specification([recording(num_units=7)], config=CONFIG)).train()
    assert model.readin.shape == (7, 16)
    batch = pack([random_window(6, 7, np.random.default_rng(0))], TINY.units_per_patch)
    first = model(batch, rates=False).decoded[:6]
    (gradient,) = torch.autograd.grad(first.sum(), model.readin)
    assert gradient[:, :8].abs().sum() > 0
    assert not gradient[:, 8:].any()
