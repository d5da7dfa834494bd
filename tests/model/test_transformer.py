"""The model: independent of packing, causal bit for bit, independent of invalid entries, and able to learn."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    NDT2,
    TINY,
    busy_model,
    permuted,
    random_activity,
    random_window,
    recording,
    specification,
    with_means,
)
from strategies import windows

from ndt.config import ModelConfig
from ndt.data.windows import BinnedSession
from ndt.model.attention_patterns import CONTEXT
from ndt.model.likelihood import count_nll
from ndt.model.masking import random_mask
from ndt.model.tokens import ACTIVITY, Batch, Window, pack
from ndt.model.transformer import LATE, NDT
from ndt.target import Part

GO = Part(name="trials/go", kind="class", dims=("left", "mid", "right"), per="trials")
CONFIGS = {
    "tiny": TINY,
    "attention_window": replace(TINY, attention_window=3),
    "one_patch": replace(TINY, units_per_patch=64, num_layers=2),
    "ndt2": NDT2,
    "ndt2_quirks": replace(NDT2, architecture="ndt2_quirks"),
}


def model_of(config: ModelConfig = TINY, num_units: int = 8, *, dims: int = 2) -> NDT:
    """A model with random weights for windows from `random_window`: units 0 … N - 1, contexts 0 … 2.

    Unless its architecture has labels per bin only, it decodes a class per trial, too.
    """
    spec = specification([recording(num_units=num_units)], config=config, dims=dims)
    if dims and config.architecture == "ndt":
        known = {"mean": (1.0,) * 5, "std": (2.0,) * 5, "parts": (*spec.target.parts, GO)}
        spec = replace(spec, target=replace(spec.target, dims=("x", "y", *GO.dims), **known))
    depths = tuple(np.linspace(-1.0, 1.0, num_units))
    model = busy_model(replace(spec, vocabulary=replace(spec.vocabulary, unit_depths=depths)))
    rates = np.random.default_rng(0).uniform(0.0, 3.0, num_units)
    return with_means(model, rates)


def packed(model: NDT, *some: Window) -> Batch:
    """The windows, in trials of four bins with a bin between."""
    found = []
    for w in some:
        at = np.arange(len(w.counts)) % 5
        trial = np.stack([np.full(len(at), -1), np.where(at < 4, np.arange(len(at)) // 5, -1)], 1)
        found.append(replace(w, trial=trial if model.config.architecture == "ndt" else None))

    return pack(found, model.config.units_per_patch)


def nll(model: NDT, batch: Batch) -> torch.Tensor:
    """Likelihood of hidden entries plus squared error of the decoded target."""
    found = model(batch)
    return count_nll(found.log_rates, batch) + (found.decoded[:, :2] - batch.target).square().sum()


def gradients(model: NDT, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    nll(model, batch).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=8)
@given(some=st.lists(windows(num_units=8), min_size=2, max_size=4), contexts=st.lists(st.integers(0, 3), min_size=4))
def test_packed_together_as_each_alone(name, some, contexts) -> None:
    """Also windows without any token, and windows that are asked without some or all of their contexts."""
    some = [replace(w, context=w.context[:k]) for w, k in zip(some, contexts, strict=False)]
    model = model_of(CONFIGS[name])
    with torch.no_grad():
        together, alone = model(packed(model, *some)), [model(packed(model, w)) for w in some]
    for field, found in together._asdict().items():
        if found is not None:
            torch.testing.assert_close(found, torch.cat([getattr(x, field) for x in alone]), rtol=0, atol=2e-5)


def test_a_unit_is_observed_with_its_own_activity_in_whatever_order_the_file_lists_it() -> None:
    """Means in the order of the file were paired with rows in the order of identities, which no simulation told."""
    session = recording(num_units=7)
    names = [str(u) for u in session.units.id]
    assert names != sorted(names)
    for listed in (session, permuted(session, np.random.default_rng(1).permutation(7))):
        activity = np.array([[int(u[2:])] * len(ACTIVITY) for u in listed.units.id], np.float32) / 8
        model = NDT(specification([session])).observe(listed, activity)
        assert model.identity.activity[:, 0].tolist() == [int(u[2:]) / 8 for u in model.vocabulary.units]


def test_windows_of_two_sessions_packed_together_as_each_alone() -> None:
    sessions = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in (4, 7)]
    spec, rng = specification(sessions), np.random.default_rng(0)
    model, some = with_means(busy_model(spec), np.arange(7) / 3), []
    for session in sessions:
        rows = spec.vocabulary.rows(session)
        some.append(replace(random_window(6, session.num_units, rng), unit=rows.unit, context=rows.context))
    with torch.no_grad():
        together, alone = model(packed(model, *some)), [model(packed(model, w)) for w in some]
    torch.testing.assert_close(together.decoded, torch.cat([x.decoded for x in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.log_rates, torch.cat([x.log_rates for x in alone]), rtol=0, atol=1e-5)


def test_activity_in_a_batch_goes_before_that_of_the_model() -> None:
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0))
    other = random_activity(np.linspace(0.2, 2, 8), seed=5)
    with torch.no_grad():
        own, given = model(packed(model, window)), model(packed(model, replace(window, activity=other)))
        model.identity.activity.copy_(torch.from_numpy(other))
        held = model(packed(model, window))
    assert (own.decoded - given.decoded).abs().max() > 1e-3
    torch.testing.assert_close(held.decoded, given.decoded, rtol=0, atol=0)
    torch.testing.assert_close(held.log_rates, given.log_rates, rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
@given(window=windows(num_units=8, least=3))
@settings(max_examples=6)
def test_what_is_not_valid_enters_neither_input_nor_loss(name, window) -> None:
    model = model_of(CONFIGS[name])
    other = replace(window, counts=np.where(window.valid, window.counts, 19).astype(np.uint8))
    torch.testing.assert_close(nll(model, packed(model, window)), nll(model, packed(model, other)), rtol=0, atol=0)
    found, expected = (gradients(model, packed(model, w)) for w in (window, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_and_members_of_padding_are_never_read(name) -> None:
    rng, model = np.random.default_rng(0), model_of(CONFIGS[name])
    small, large = random_window(6, 5, rng), random_window(5, 8, rng)
    batch = packed(model, small, replace(large, unit=large.unit))
    assert not batch.valid.all()
    used = torch.zeros_like(batch.members, dtype=torch.bool)
    used[batch.patch[:, None].expand_as(batch.valid)[batch.valid], batch.valid.nonzero()[:, 1]] = True
    padding = ~used
    assert padding.any()
    members = torch.where(padding, 5, batch.members)
    garbled = replace(batch, counts=torch.where(batch.valid, batch.counts, 3), members=members)
    torch.testing.assert_close(gradients(model, garbled), gradients(model, batch), rtol=0, atol=0)


def test_a_unit_that_was_never_observed_is_as_if_absent() -> None:
    """The eighth unit shares a patch with padding; without it the patch is padding there."""
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0), absent=0.0)
    valid = window.valid.copy()
    valid[:, 7:] = False
    absent = replace(window, counts=window.counts[:, :7], valid=valid[:, :7], unit=window.unit[:7])
    absent = replace(absent, hidden=window.hidden[:, :7])
    found, expected = (gradients(model, packed(model, w)) for w in (replace(window, valid=valid), absent))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)  # products of matrices of other sizes
    residual = found["identity.residual"]
    torch.testing.assert_close(residual[7], torch.zeros(TINY.unit_width), rtol=0, atol=0)
    assert residual[6].abs().sum() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_counts_are_targets_only(name) -> None:
    model, window = model_of(CONFIGS[name]), random_window(6, 8, np.random.default_rng(1))
    other = replace(window, counts=np.where(window.hidden, window.counts + 1, window.counts).astype(np.uint8))
    a, b = packed(model, window), packed(model, other)
    assert (a.visible & a.predicted).any()  # tokens of which a part is hidden are among them
    assert not torch.equal(a.counts, b.counts)
    with torch.no_grad():
        for found, expected in zip(model(a), model(b), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_hidden_counts_reach_neither_latents_nor_rates_of_any_token() -> None:
    for config in CONFIGS.values():
        model, window = model_of(config), random_window(12, 8, np.random.default_rng(1))
        other = replace(window, counts=np.where(window.hidden, 17, window.counts).astype(np.uint8))
        found = []
        for w in (window, other):
            batch = packed(model, w)
            with torch.no_grad():
                encoded = model.encode(batch)
                every = model.log_rates(batch, encoded, every=True)
                found.append((encoded.tokens, every, model.latents(batch), model.decode(batch)))
        torch.testing.assert_close(*found, rtol=0, atol=0)


def test_all_tokens_have_latents_and_those_of_ndt2_the_visible_ones_only() -> None:
    some = [random_window(9, 8, np.random.default_rng(1), hidden=h) for h in (0.5, 0.9)]
    ours, published = model_of(), model_of(NDT2)
    batch = packed(ours, *some)
    assert len(ours.encode(batch).tokens) == batch.num_tokens
    batch = packed(published, *some)
    encoded = published.encode(batch)
    assert len(encoded.memory) == batch.visible.sum() + 6 < batch.num_tokens  # three contexts a window
    assert len(encoded.tokens) == len(encoded.layout.data) == batch.visible.sum()


@pytest.mark.parametrize("loud", [1, 20])
@pytest.mark.parametrize("name", CONFIGS)
def test_counts_at_a_bin_change_no_bit_before_it(name, loud) -> None:
    """`loud` makes the batch's largest count grow: tables made for it must not change the rounding of the past."""
    model, window = model_of(CONFIGS[name]), random_window(30, 8, np.random.default_rng(2), absent=0.1)
    at = 17
    late = np.minimum(window.counts[at:].astype(int) + loud, 20)
    other = replace(window, counts=np.concatenate([window.counts[:at], late]).astype(np.uint8))
    some = random_window(9, 8, np.random.default_rng(3))  # a second window in the batch, which nothing changes
    a, b = packed(model, window, some), packed(model, other, some)
    past, bins = (a.time < at) | (a.window == 1), (a.bin_time < at) | (a.bin_window == 1)
    with torch.no_grad():
        before, after = model.encode(a), model.encode(b)
        for keep, read in (
            (past[before.chosen], lambda x, encoded: encoded.tokens),
            (bins, lambda x, encoded: model.latents(x, encoded)),
            (past[a.predicted], lambda x, encoded: model.log_rates(x, encoded)),
            (past, lambda x, encoded: model.log_rates(x, encoded, every=True)),
            (bins, lambda x, encoded: model.read_target(x, encoded)),
        ):
            first, second = read(a, before), read(b, after)
            assert torch.equal(first[keep], second[keep])
            assert (first[~keep] - second[~keep]).abs().max() > 1e-5  # and the change is heard


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_said_of_the_past_does_not_wait_for_the_future(name) -> None:
    model, window = model_of(CONFIGS[name]), random_window(20, 8, np.random.default_rng(4))
    cut = {f: getattr(window, f)[:11] for f in ("counts", "valid", "hidden", "target")}
    with torch.no_grad():
        whole, part = model(packed(model, window)), model(packed(model, replace(window, **cut)))
    torch.testing.assert_close(part.decoded, whole.decoded[:11], rtol=0, atol=1e-5)
    torch.testing.assert_close(part.log_rates, whole.log_rates[: len(part.log_rates)], rtol=0, atol=1e-5)


def test_tokens_of_which_nothing_is_visible_join_in_the_last_layers() -> None:
    """With last layers that add nothing, the others have the latents that they have without such tokens."""
    window = random_window(12, 9, np.random.default_rng(0), absent=0.0, hidden=0.4)
    whole = np.repeat(window.hidden.reshape(12, 3, 3).all(2), 3, axis=1)
    model = busy_model(specification([recording(num_units=9)], config=replace(TINY, num_stem_layers=0, num_layers=5)))
    for block in model.encoder[-LATE:]:
        for scale in (block.scale, block.feedforward_scale):
            torch.nn.init.zeros_(scale)
    joined = pack([window], TINY.units_per_patch)
    apart = pack([replace(window, valid=~whole)], TINY.units_per_patch)
    with torch.no_grad():
        found, expected = model.encode(joined).tokens, model.encode(apart).tokens
    visible = joined.seen.any(1)
    assert 0 < visible.sum() < len(visible)
    torch.testing.assert_close(found[visible], expected, rtol=1e-5, atol=1e-5)
    tokens = model.stem(joined, model.identity(joined)) + model.position(joined.time, joined.slot)
    torch.testing.assert_close(found[~visible], tokens[~visible], rtol=0, atol=0)


def test_rates_of_wanted_tokens_are_those_among_the_rates_of_all() -> None:
    for config in CONFIGS.values():
        model = model_of(config)
        batch = packed(model, *(random_window(7, 8, np.random.default_rng(0)) for _ in range(3)))
        encoded = model.encode(batch)
        every = model.log_rates(batch, encoded, every=True)
        torch.testing.assert_close(model.log_rates(batch, encoded), every[batch.predicted], rtol=0, atol=1e-5)
        assert not model(batch, rates=False).decoded.isnan().any()
        assert model(batch, rates=False).log_rates is None


@pytest.mark.parametrize("name", CONFIGS)
def test_contexts_read_no_data_of_a_causal_model_and_are_read(name) -> None:
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0)
    other = replace(window, counts=np.concatenate([window.counts[:3], window.counts[3:] + 1]))
    model, entered = model_of(CONFIGS[name]), []
    a, b = (packed(model, w) for w in (window, other))
    model.encoder[-1].register_forward_hook(lambda _, given, out: entered.append(out[given[1].time == CONTEXT]))
    with torch.no_grad():
        first, _ = (model.encode(x) for x in (a, b))
        assert len(entered[0]) == 3
        assert torch.equal(*entered)
        model.context[1] += torch.linspace(-1, 1, model.config.width)  # a constant would vanish in the norm
        assert (model.encode(a).tokens - first.tokens).abs().amax(1).min() > 1e-4


def test_a_bidirectional_model_reads_the_future() -> None:
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0)
    other = replace(window, counts=np.concatenate([window.counts[:3], window.counts[3:] + 1]))
    model = model_of(replace(TINY, causal=False))
    with torch.no_grad():
        first, second = (model(packed(model, w)) for w in (window, other))
    assert (first.decoded - second.decoded)[0].abs().min() > 1e-4


def test_a_bidirectional_model_knows_the_order_of_bins() -> None:
    """Bins that change places change the encoder's latents of them, and not only their place."""
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0)
    moved = np.array([3, 0, 5, 1, 4, 2])
    other = replace(window, counts=window.counts[moved], valid=window.valid[moved])
    model = model_of(replace(TINY, causal=False, num_stem_layers=0))
    with torch.no_grad():
        one, two = (model.latents(packed(model, w)) for w in (window, other))
    assert (one[torch.from_numpy(moved)] - two).abs().amax(1).min() > 1e-4


@dataclass(frozen=True, kw_only=True)
class Shifted(Batch):
    """A batch whose tokens count bins from another one."""

    shift: int

    def bin_index(self) -> torch.Tensor:
        return replace(self, time=self.time - self.shift, shift=0).at_zero()

    def at_zero(self) -> torch.Tensor:
        return super().bin_index()


@pytest.mark.parametrize("name", ["tiny", "attention_window", "one_patch"])
@pytest.mark.parametrize("shift", [300, 10**6])
def test_a_million_bins_later_the_model_says_the_same(shift, name) -> None:
    model = model_of(CONFIGS[name])
    batch = packed(model, *(random_window(9, 8, np.random.default_rng(s)) for s in (0, 1)))
    held = {**vars(batch), "time": batch.time + shift}
    with torch.no_grad():
        rates = shift < 10**6  # a unit's own recent counts are summed bin after bin
        found, expected = model(Shifted(**held, shift=shift), rates=rates), model(batch, rates=rates)
    torch.testing.assert_close(found.decoded, expected.decoded, rtol=0, atol=1e-5)
    if rates:
        torch.testing.assert_close(found.log_rates, expected.log_rates, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, NDT2])
def test_latents_are_means_over_a_bins_encoded_tokens(config) -> None:
    model, rng = model_of(config), np.random.default_rng(0)
    some = [random_window(5, 8, rng, absent=0.6, hidden=0.6), random_window(3, 8, rng)]
    some[0].valid[2] = False  # nothing was observed in this bin
    batch = packed(model, *some)
    with torch.no_grad():
        encoded = model.encode(batch)
        found, row = model.latents(batch, encoded), 0
        torch.testing.assert_close(model.latents(batch), found, rtol=0, atol=0)
    assert torch.equal(encoded.chosen, batch.visible if config is NDT2 else torch.ones_like(batch.visible))
    window, time = batch.window[encoded.chosen], batch.time[encoded.chosen]
    for b, w in enumerate(some):
        for t in range(len(w.counts)):
            tokens = encoded.tokens[(window == b) & (time == t)]
            expected = tokens.mean(0) if len(tokens) else torch.zeros(config.width)
            torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-6)
            row += 1
    assert not found[2].any()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dark", ["hidden", "invalid"])
def test_a_window_in_which_nothing_is_seen_is_no_failure(name, dark) -> None:
    window = random_window(4, 8, np.random.default_rng(0), absent=float(dark == "invalid"))
    window = replace(window, hidden=np.full((4, 8), dark == "hidden"))
    model = model_of(CONFIGS[name])
    for context in (window.context, window.context[:0]):
        found = model(packed(model, replace(window, context=context)))
        assert found.log_rates.isfinite().all()
        assert found.decoded.isfinite().all()
        assert found.decoded.shape == (4, sum(part.num_columns for part in model.spec.parts))
        (found.decoded.sum() + found.log_rates.sum()).backward()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_units_in_the_file_changes_no_bit(name) -> None:
    session = recording(num_units=8)
    spec = specification([session], config=CONFIGS[name])
    model, found = with_means(busy_model(spec), np.arange(8) / 3), []
    for s in (session, permuted(session, np.random.default_rng(1).permutation(8))):
        window = BinnedSession(s, 0.05, 1.0).window(10, 30, spec.vocabulary.rows(s))
        hidden = random_mask((20, 8), 0.3, np.random.default_rng(0))
        with torch.no_grad():
            found.append(model(packed(model, replace(window, hidden=hidden))))
    torch.testing.assert_close(found[0].decoded, found[1].decoded, rtol=0, atol=0)
    torch.testing.assert_close(found[0].log_rates, found[1].log_rates, rtol=0, atol=0)


def test_identities_matter() -> None:
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0), absent=0.0)
    other = replace(window, unit=window.unit[::-1].copy())
    with torch.no_grad():
        assert (model(packed(model, window)).decoded - model(packed(model, other)).decoded).abs().max() > 1e-3


def test_a_model_without_decoder_does_not_decode() -> None:
    model = model_of(dims=0)
    batch = packed(model, random_window(3, 8, np.random.default_rng(0)))
    assert model(batch).decoded is None
    with pytest.raises(ValueError, match="target"):
        model.decode(batch)


def test_auxiliary_targets_are_predicted_in_training_and_not_decoded() -> None:
    spec = specification([recording(num_units=8)])
    speed = Part(name="speed", kind="continuous", dims=("s",), unit="m/s")
    model = with_means(busy_model(replace(spec, target=replace(spec.target, auxiliary=(speed,)))), np.arange(8) / 3)
    batch = packed(model, random_window(6, 8, np.random.default_rng(0)))
    with torch.no_grad():
        assert model(batch).decoded.shape == (6, 3)
        torch.testing.assert_close(model.decode(batch), model(batch).decoded[:, :2], rtol=0, atol=0)


def test_residuals_of_contexts_are_left_out_in_pretraining_only() -> None:
    model = model_of()
    batch = packed(model, *(random_window(3, 8, np.random.default_rng(s)) for s in range(100)))
    bare = model.context_kind[model.kind_of_context[batch.context]]
    full = bare + model.context[batch.context]
    torch.testing.assert_close(model.contexts(batch), full, rtol=0, atol=0)
    torch.testing.assert_close(model.train().contexts(batch), full, rtol=0, atol=0)  # unless pretraining asks for it
    model.drop_residuals(0.5)
    torch.testing.assert_close(model.eval().contexts(batch), full, rtol=0, atol=0)
    torch.manual_seed(0)
    found = model.train().contexts(batch)
    kept, left = ((found - x).abs().amax(1) < 1e-6 for x in (full, bare))
    assert (kept ^ left).all()
    assert 100 < int(kept.sum()) < 200  # of 300


def test_every_parameter_gets_a_gradient() -> None:
    """Of a model in training mode whose units have regions and whose labels are per bin and per trial."""
    for config in CONFIGS.values():
        model = model_of(config).train()
        batch = packed(model, *(random_window(12, 8, np.random.default_rng(s)) for s in range(4)))
        found = model(batch)
        ((found.decoded * torch.randn_like(found.decoded)).sum() + count_nll(found.log_rates, batch)).backward()
        silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert silent <= {"heads.1.score.bias"}  # which all bins of a trial share


def test_half_precision_changes_outputs_by_rounding_only() -> None:
    model, some = model_of(), [random_window(20, 8, np.random.default_rng(s)) for s in range(3)]
    batch = packed(model, *some)
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(batch)
    for a, b in zip(exact, rounded, strict=True):
        assert b.isfinite().all()
        assert float((a - b.float()).square().mean() / a.var()) < 0.01
