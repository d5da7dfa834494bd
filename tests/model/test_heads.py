"""Heads equal loops that follow their formulas; that of trials reads a trial's bins so far and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TINY, random_window
from strategies import seeds, windows

from ndt.model.heads import FASTER, OWN, BinHead, RateHead, TargetHeads, TrialHead
from ndt.model.history import recent_counts
from ndt.model.identity import Population
from ndt.model.tokens import Batch, pack
from ndt.target import Part

P, E, D = TINY.units_per_patch, TINY.unit_width, TINY.width
VEL = Part(name="vel", kind="continuous", dims=("x", "y"), unit="m/s")
GO = Part(name="trials/go", kind="class", dims=("left", "mid", "right"), per="trials")
BLOCK = Part(name="blocks/gain", kind="continuous", dims=("gain",), per="blocks")


def filled(layer: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The layer with every weight drawn at random: many begin at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer


def population(batch: Batch, seed: int = 0) -> Population:
    generator = torch.Generator().manual_seed(seed)
    U = len(batch.unit)
    return Population(torch.randn((U, E), generator=generator), torch.rand(U, generator=generator) * 3)


@pytest.mark.parametrize("gathered", [0, 2**23])  # a product a patch, or keys copied for each token
@settings(max_examples=20)
@given(window=windows(num_units=8))
def test_rates_are_the_formula_unit_by_unit(gathered, window) -> None:
    batch = pack([window, replace(window, unit=window.unit[::-1].copy())], P)
    layer, units = filled(RateHead(TINY)), population(batch)
    mean = units.mean_counts.clamp(min=1e-4)[batch.members]
    every = torch.ones(batch.num_tokens, dtype=torch.bool)
    recent, weight = recent_counts(batch, every, mean), (FASTER * layer.own).softmax(0)
    own = weight[0] * mean[batch.patch] + (recent * weight[1:]).sum(-1)
    W = int(batch.predicted.sum())
    z = torch.randn((W, D), generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ndt.model.heads.GATHERED", gathered)
        found = layer(z, batch, batch.predicted, units)
    for i, token in enumerate(batch.predicted.nonzero()[:, 0].tolist()):
        for place in batch.hidden[token].nonzero()[:, 0].tolist():
            n = int(batch.members[batch.patch[token], place])
            u = units.vectors[n]
            product = (layer.unit.weight @ u + layer.unit.bias) @ (layer.latent.weight @ z[i] + layer.latent.bias)
            base = layer.base.weight[0] @ u + layer.base.bias[0] + own[token, place].log()
            torch.testing.assert_close(found[i, place], product + base, rtol=1e-4, atol=1e-4)
    assert found.shape == (W, P)


def test_both_ways_to_compute_rates_have_the_same_gradients() -> None:
    batch = pack([random_window(40, 8, np.random.default_rng(0))], P)
    every, found = torch.ones(batch.num_tokens, dtype=torch.bool), []
    for gathered in (0, 2**23):
        layer, units = filled(RateHead(TINY)), population(batch)
        vectors = units.vectors.requires_grad_()
        z = torch.randn((batch.num_tokens, D), generator=torch.Generator().manual_seed(1)).requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ndt.model.heads.GATHERED", gathered)
            layer(z, batch, every, units).square().sum().backward()
        found.append([z.grad, vectors.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-2)


def test_a_new_model_smooths_each_units_own_counts() -> None:
    """Before any visible count it predicts the mean."""
    torch.manual_seed(0)
    batch = pack([random_window(4, 3, np.random.default_rng(0), absent=0.0)], P)
    every = torch.ones(batch.num_tokens, dtype=torch.bool)
    units = Population(torch.randn(3, E), torch.tensor([0.5, 0.0, 2.0]))
    head, mean = RateHead(TINY).requires_grad_(False), torch.tensor([[0.5, 1e-4, 2.0]])  # a silent one is finite
    found = head(torch.randn(4, D), batch, every, units).exp()
    torch.testing.assert_close(found[:1], mean)
    weight = (FASTER * head.own).softmax(0)
    torch.testing.assert_close(weight, torch.tensor(OWN))
    expected = weight[0] * mean + (weight[1:] * recent_counts(batch, every, mean)).sum(-1)
    torch.testing.assert_close(found, expected)


def in_trials(lengths: list[int], seed: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Windows of these lengths in trials of up to four bins, some bins in none; and random latents."""
    rng, some = np.random.default_rng(seed), []
    for T in lengths:
        trial = np.repeat(rng.integers(-1, 3, T), rng.integers(1, 5, T))[:T]
        some.append(replace(random_window(T, 4, rng), trial=trial[:, None]))
    batch = pack(some, P)
    latents = torch.randn((sum(lengths), D), generator=torch.Generator().manual_seed(seed))
    return batch, batch.trial[:, 0], latents


def slow_trials(head: TrialHead, latents: torch.Tensor, batch: Batch, trial: torch.Tensor) -> torch.Tensor:
    """The formula in float64, bin by bin: over uninterrupted bins of the same trial and window, up to the bin."""
    z = latents.double()
    weight, bias = head.linear.weight.double(), head.linear.bias.double()
    score = (z @ head.score.weight[0].double()).clamp(-10, 10)
    found = []
    for t in range(len(z)):
        s = t
        while s and trial[s - 1] == trial[t] and batch.bin_window[s - 1] == batch.bin_window[t]:
            s -= 1
        e = score[s : t + 1].exp()
        found.append(weight @ ((e[:, None] * z[s : t + 1]).sum(0) / e.sum()) + bias)

    return torch.stack(found)


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), seed=seeds)
def test_a_trial_is_pooled_by_the_formula_up_to_each_bin(lengths, seed) -> None:
    batch, trial, latents = in_trials(lengths, seed)
    head = filled(TrialHead(TINY, 3)).eval()
    found = head(latents, batch, trial)
    torch.testing.assert_close(found.double(), slow_trials(head, latents, batch, trial), rtol=0, atol=1e-4)


def test_a_new_head_pools_the_mean_of_the_trial_so_far() -> None:
    torch.manual_seed(0)
    head, z = TrialHead(TINY, 3).eval(), torch.randn(5, D)
    window = replace(random_window(5, 4, np.random.default_rng(0)), trial=np.array([[7, 7, 7, 2, 2]]).T)
    batch = pack([window], P)
    means = torch.stack([z[0], z[:2].mean(0), z[:3].mean(0), z[3], z[3:].mean(0)])
    torch.testing.assert_close(head(z, batch, batch.trial[:, 0]), head.linear(means), rtol=0, atol=1e-6)


@torch.no_grad()
def test_trials_and_windows_do_not_mix_and_a_trial_does_not_wait_for_its_end() -> None:
    """What changes at a bin is heard from that bin to the end of its trial in its window, and nowhere else."""
    batch, trial, latents = in_trials([20, 7, 15], seed=3)
    head = filled(TrialHead(TINY, 3)).eval()
    head.score.weight *= 0.2  # no bin outweighs the rest of its trial
    key = torch.stack([batch.bin_window, trial], 1)
    begins = (key[1:] != key[:-1]).any(1)
    run = torch.cat([torch.zeros(1), begins.cumsum(0)])
    before = head(latents, batch, trial)
    for t in (0, 3, 11, 20, 26, 27, 41):
        changed = latents.clone()
        changed[t] += 1
        difference = (head(changed, batch, trial) - before).abs().amax(1)
        index = torch.arange(42)
        heard = (run == run[t]) & (index >= t)
        assert torch.equal(difference[index < t], torch.zeros(t))  # to the bit
        assert float(difference[~heard].max()) < 1e-5
        assert float(difference[t]) > 1e-3


def test_a_thousand_windows_lose_no_precision() -> None:
    """Sums run over the whole batch: in float32 those of late trials would cancel."""
    batch, trial, latents = in_trials([50] * 1000, seed=0)
    head = filled(TrialHead(TINY, 3)).eval()
    with torch.no_grad():
        found = head(latents, batch, trial)
        last = batch.bin_window == 999
        alone = pack([replace(random_window(50, 4, np.random.default_rng(0)), trial=trial[last][:, None].numpy())], P)
        torch.testing.assert_close(found[last], head(latents[last], alone, trial[last]), rtol=0, atol=1e-4)


def test_scores_of_any_size_are_finite_with_their_gradients() -> None:
    batch, trial, latents = in_trials([12], seed=0)
    latents = (latents * 1e4).requires_grad_()
    found = filled(TrialHead(TINY, 3))(latents, batch, trial)
    found.sum().backward()
    assert found.isfinite().all()
    assert latents.grad.isfinite().all()


def test_heads_stand_side_by_side_and_each_reads_its_own_trials() -> None:
    heads = filled(TargetHeads(TINY, (VEL, GO, BLOCK))).eval()
    assert [type(head) for head in heads] == [BinHead, TrialHead, TrialHead]
    rng = np.random.default_rng(0)
    trial = np.stack([np.full(12, -1), np.arange(12) // 3, np.arange(12) // 6], 1)
    batch, z = pack([replace(random_window(12, 4, rng), trial=trial)], P), torch.randn(12, D)
    found = heads(z, batch)
    torch.testing.assert_close(found[:, :2], heads[0].linear(z))
    for columns, i in ((slice(2, 5), 1), (slice(5, 6), 2)):
        torch.testing.assert_close(found[:, columns], heads[i](z, batch, batch.trial[:, i]), rtol=0, atol=0)
    assert (heads[2](z, batch, batch.trial[:, 1]) - found[:, 5:]).abs().max() > 1e-2
    unknown = pack([replace(random_window(12, 4, rng), trial=None)], P)  # a session without the tables: one trial
    torch.testing.assert_close(heads(z, unknown)[:, 2:5], heads[1](z, unknown, torch.full((12,), -1)))


def test_heads_of_an_empty_batch_are_empty() -> None:
    heads = TargetHeads(TINY, (VEL, GO))
    batch = pack([random_window(1, 4, np.random.default_rng(0))], P)
    none = replace(batch, bin_time=batch.bin_time[:0], bin_window=batch.bin_window[:0], trial=batch.trial[:0])
    assert heads(torch.zeros(0, D), none).shape == (0, 5)


def test_dropout_of_the_head_of_trials_is_for_training_only() -> None:
    batch, trial, latents = in_trials([30], seed=0)
    layer = filled(TrialHead(replace(TINY, dropout=0.5), 2)).eval()
    torch.testing.assert_close(layer(latents, batch, trial), layer(latents, batch, trial), rtol=0, atol=0)
    layer.train()
    assert (layer(latents, batch, trial) - layer(latents, batch, trial)).abs().max() > 1e-2
