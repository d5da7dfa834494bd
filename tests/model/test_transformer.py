"""The model: packed as alone, causal bit for bit, deaf to what is not valid, and able to learn."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import NDT2, TINY, busy_model, permuted, random_window, recording, specification, with_means
from strategies import windows

from ndt.config import ModelConfig
from ndt.data.windows import BinnedSession
from ndt.model.likelihood import count_nll
from ndt.model.masking import random_mask
from ndt.model.tokens import Batch, pack
from ndt.model.transformer import NDT

P = TINY.units_per_patch
CONFIGS = {
    "linear": TINY,
    "post": replace(TINY, norm="post"),
    "attention_window": replace(TINY, attention_window=3),
    "tcn_latents": replace(TINY, decoder="tcn_latents", tcn_width=6, num_tcn_layers=3, num_members=2),
    "ndt2": NDT2,
    "ndt2_quirks": replace(NDT2, architecture="ndt2_quirks"),
}


def model_of(config: ModelConfig = TINY, num_units: int = 8, *, dims: int = 2) -> NDT:
    """A model with random weights for windows from `random_window`: units 0 … N - 1, contexts 0 … 2."""
    spec = specification([recording(num_units=num_units)], config=config, dims=dims)
    depths = tuple(np.linspace(-1.0, 1.0, num_units))
    model = busy_model(replace(spec, vocabulary=replace(spec.vocabulary, unit_depths=depths)))
    rates = np.random.default_rng(0).uniform(0.0, 3.0, num_units)
    return with_means(model, rates)


def nll(model: NDT, batch: Batch) -> torch.Tensor:
    """Likelihood of hidden entries plus squared error of the decoded target."""
    found = model(batch)
    return count_nll(found.log_rates, batch) + (found.decoded - batch.target).square().sum()


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
        together, alone = model(pack(some, P)), [model(pack([w], P)) for w in some]
    for field, found in together._asdict().items():
        if found is not None:
            torch.testing.assert_close(found, torch.cat([getattr(x, field) for x in alone]), rtol=0, atol=2e-5)


def test_a_unit_is_observed_with_its_own_mean_count_in_whatever_order_the_file_lists_it() -> None:
    """Means in the order of the file were paired with rows in the order of identities, which no simulation told."""
    session = recording(num_units=7)
    names = [str(u) for u in session.units.id]
    assert names != sorted(names)
    for listed in (session, permuted(session, np.random.default_rng(1).permutation(7))):
        model = NDT(specification([session])).observe(listed, np.array([int(u[2:]) for u in listed.units.id]) / 8)
        assert model.mean_counts.tolist() == [int(u[2:]) / 8 for u in model.vocabulary.units]


def test_windows_of_two_sessions_packed_together_as_each_alone() -> None:
    sessions = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in (4, 7)]
    spec, rng = specification(sessions), np.random.default_rng(0)
    model, some = with_means(busy_model(spec), np.arange(7) / 3), []
    for session in sessions:
        rows = spec.vocabulary.rows(session)
        some.append(replace(random_window(6, session.num_units, rng), unit=rows.unit, context=rows.context))
    with torch.no_grad():
        together, alone = model(pack(some, P)), [model(pack([w], P)) for w in some]
    torch.testing.assert_close(together.decoded, torch.cat([x.decoded for x in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.log_rates, torch.cat([x.log_rates for x in alone]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@given(window=windows(num_units=8, least=3))
@settings(max_examples=6)
def test_what_is_not_valid_enters_neither_input_nor_loss(name, window) -> None:
    model = model_of(CONFIGS[name])
    other = replace(window, counts=np.where(window.valid, window.counts, 19).astype(np.uint8))
    torch.testing.assert_close(nll(model, pack([window], P)), nll(model, pack([other], P)), rtol=0, atol=0)
    found, expected = (gradients(model, pack([w], P)) for w in (window, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_and_members_of_padding_are_never_read(name) -> None:
    model, batch = model_of(CONFIGS[name]), pack([random_window(6, 8, np.random.default_rng(0))], P)
    assert not batch.valid.all()
    padding = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=torch.bool)
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
    found, expected = (gradients(model, pack([w], P)) for w in (replace(window, valid=valid), absent))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)  # products of matrices of other sizes
    torch.testing.assert_close(found["unit"][7], torch.zeros(TINY.unit_width), rtol=0, atol=0)
    assert found["unit"][6].abs().sum() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_counts_are_targets_only(name) -> None:
    model, window = model_of(CONFIGS[name]), random_window(6, 8, np.random.default_rng(1))
    other = replace(window, counts=np.where(window.hidden, window.counts + 1, window.counts).astype(np.uint8))
    a, b = pack([window], P), pack([other], P)
    assert (a.visible & a.predicted).any()  # tokens of which a part is hidden are among them
    assert not torch.equal(a.counts, b.counts)
    with torch.no_grad():
        for found, expected in zip(model(a), model(b), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_hidden_tokens_cost_the_encoder_nothing() -> None:
    batch = pack([random_window(9, 8, np.random.default_rng(1), hidden=h) for h in (0.5, 0.9)], P)
    encoded = model_of().encode(batch)
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
    a, b = pack([window, some], P), pack([other, some], P)
    past, bins = (a.time < at) | (a.window == 1), (a.bin_time < at) | (a.bin_window == 1)
    with torch.no_grad():
        before, after = model.encode(a), model.encode(b)
        for keep, read in (
            (past[a.visible], lambda x, encoded: encoded.tokens),
            (bins, lambda x, encoded: model.latents(x, encoded)),
            (past[a.predicted], lambda x, encoded: model.log_rates(x, encoded)),
            (past, lambda x, encoded: model.log_rates(x, encoded, every=True)),
            (bins, lambda x, encoded: model.decode(x, encoded)),
        ):
            first, second = read(a, before), read(b, after)
            assert torch.equal(first[keep], second[keep])
            assert (first[~keep] - second[~keep]).abs().max() > 1e-4  # and the change is heard


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_said_of_the_past_does_not_wait_for_the_future(name) -> None:
    model, window = model_of(CONFIGS[name]), random_window(20, 8, np.random.default_rng(4))
    cut = {f: getattr(window, f)[:11] for f in ("counts", "valid", "hidden", "target")}
    with torch.no_grad():
        whole, part = model(pack([window], P)), model(pack([replace(window, **cut)], P))
    torch.testing.assert_close(part.decoded, whole.decoded[:11], rtol=0, atol=1e-5)
    torch.testing.assert_close(part.log_rates, whole.log_rates[: len(part.log_rates)], rtol=0, atol=1e-5)


def test_rates_of_wanted_tokens_are_those_among_the_rates_of_all() -> None:
    for config in CONFIGS.values():
        model, batch = model_of(config), pack([random_window(7, 8, np.random.default_rng(0)) for _ in range(3)], P)
        encoded = model.encode(batch)
        every = model.log_rates(batch, encoded, every=True)
        torch.testing.assert_close(model.log_rates(batch, encoded), every[batch.predicted], rtol=0, atol=1e-5)
        assert not model(batch, rates=False).decoded.isnan().any()
        assert model(batch, rates=False).log_rates is None


@pytest.mark.parametrize("name", CONFIGS)
def test_contexts_read_no_data_of_a_causal_model_and_are_read(name) -> None:
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0)
    other = replace(window, counts=np.concatenate([window.counts[:3], window.counts[3:] + 1]))
    a, b = (pack([w], P) for w in (window, other))
    model = model_of(CONFIGS[name])
    with torch.no_grad():
        first, second = (model.encode(x) for x in (a, b))
        assert torch.equal(first.memory[:3], second.memory[:3])
        model.context[1] += torch.linspace(-1, 1, model.config.width)  # a constant would vanish in the norm
        assert (model.encode(a).tokens - first.tokens).abs().amax(1).min() > 1e-4


def test_a_bidirectional_model_reads_the_future() -> None:
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0)
    other = replace(window, counts=np.concatenate([window.counts[:3], window.counts[3:] + 1]))
    model = model_of(replace(TINY, causal=False))
    with torch.no_grad():
        first, second = (model(pack([w], P)) for w in (window, other))
    assert (first.decoded - second.decoded)[0].abs().min() > 1e-4


def test_a_bidirectional_model_knows_the_order_of_bins() -> None:
    """Bins that change places change the encoder's latents of them, and not only their place."""
    window = random_window(6, 8, np.random.default_rng(0), hidden=0.0)
    moved = np.array([3, 0, 5, 1, 4, 2])
    other = replace(window, counts=window.counts[moved], valid=window.valid[moved])
    model = model_of(replace(TINY, causal=False))
    with torch.no_grad():
        one, two = (model.latents(b, model.encode(b)) for b in (pack([w], P) for w in (window, other)))
    assert (one[torch.from_numpy(moved)] - two).abs().amax(1).min() > 1e-4


@dataclass(frozen=True, kw_only=True)
class Shifted(Batch):
    """A batch whose tokens count bins from another one."""

    shift: int

    def bin_index(self) -> torch.Tensor:
        return replace(self, time=self.time - self.shift, shift=0).at_zero()

    def at_zero(self) -> torch.Tensor:
        return super().bin_index()


@pytest.mark.parametrize("name", ["linear", "attention_window", "tcn_latents"])
def test_a_million_bins_later_the_model_says_the_same(name) -> None:
    model = model_of(CONFIGS[name])
    batch, shift = pack([random_window(9, 8, np.random.default_rng(s)) for s in (0, 1)], P), 10**6
    held = {**vars(batch), "time": batch.time + shift}
    with torch.no_grad():
        found, expected = model(Shifted(**held, shift=shift)), model(batch)
    torch.testing.assert_close(found.decoded, expected.decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.log_rates, expected.log_rates, rtol=0, atol=1e-5)


def test_latents_are_means_over_a_bins_visible_tokens() -> None:
    model, rng = model_of(), np.random.default_rng(0)
    some = [random_window(5, 8, rng, absent=0.6, hidden=0.6), random_window(3, 8, rng)]
    some[0].hidden[2] = True  # nothing is visible in this bin
    batch = pack(some, P)
    with torch.no_grad():
        encoded = model.encode(batch)
        found, row = model.latents(batch, encoded), 0
    window, time = batch.window[batch.visible], batch.time[batch.visible]
    for b, w in enumerate(some):
        for t in range(len(w.counts)):
            tokens = encoded.tokens[(window == b) & (time == t)]
            expected = tokens.mean(0) if len(tokens) else torch.zeros(TINY.width)
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
        found = model(pack([replace(window, context=context)], P))
        assert found.log_rates.isfinite().all()
        assert found.decoded.isfinite().all()
        assert found.decoded.shape == (4, 2)
        (found.decoded.sum() + found.log_rates.sum()).backward()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_order_of_units_in_the_file_changes_no_bit(name) -> None:
    session = recording(num_units=8)
    spec = specification([session], config=CONFIGS[name])
    model, found = busy_model(spec), []
    for s in (session, permuted(session, np.random.default_rng(1).permutation(8))):
        window = BinnedSession(s, 0.05, 1.0).window(10, 30, spec.vocabulary.rows(s))
        hidden = random_mask((20, 8), 0.3, np.random.default_rng(0))
        with torch.no_grad():
            found.append(model(pack([replace(window, hidden=hidden)], P)))
    torch.testing.assert_close(found[0].decoded, found[1].decoded, rtol=0, atol=0)
    torch.testing.assert_close(found[0].log_rates, found[1].log_rates, rtol=0, atol=0)


def test_identities_matter() -> None:
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0), absent=0.0)
    other = replace(window, unit=window.unit[::-1].copy())
    with torch.no_grad():
        assert (model(pack([window], P)).decoded - model(pack([other], P)).decoded).abs().max() > 1e-3


def test_a_model_without_decoder_does_not_decode() -> None:
    model, batch = model_of(dims=0), pack([random_window(3, 8, np.random.default_rng(0))], P)
    assert model(batch).decoded is None
    with pytest.raises(ValueError, match="target"):
        model.decode(batch, model.encode(batch))
