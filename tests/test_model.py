"""The model: packed as alone, causal bit for bit, deaf to what is not valid, and able to learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TINY, busy_model, permuted, random_window, recording, specification
from strategies import windows

from ndt.data.windows import Grid
from ndt.likelihood import poisson_nll
from ndt.masking import random_mask
from ndt.model import NDT, RateReadout
from ndt.tokens import Batch, Window, pack

P = TINY.units_per_patch
CONFIGS = {"rotary": TINY, "learned": replace(TINY, positions="learned")}


def model_of(num_units: int = 8, positions: str = "rotary", *, dims: int = 2) -> NDT:
    """A model with random weights for windows from `random_window`: units 0 … N - 1, contexts 0 … 2."""
    model = busy_model(specification([recording(num_units=num_units)], config=CONFIGS[positions], dims=dims))
    rates = np.random.default_rng(0).uniform(0.0, 3.0, num_units)
    return model.observe(np.arange(num_units), rates)


def nll(model: NDT, batch: Batch) -> torch.Tensor:
    """Likelihood of hidden, valid entries plus squared error of the decoded covariate."""
    log_rates, decoded = model(batch)
    return (
        poisson_nll(log_rates, batch.counts, batch.hidden[:, None] & batch.valid)
        + (decoded - batch.target).square().sum()
    )


def gradients(model: NDT, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    nll(model, batch).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("positions", CONFIGS)
@settings(max_examples=30)
@given(some=st.lists(windows(num_units=8), min_size=2, max_size=4))
def test_packed_together_as_each_alone(positions, some) -> None:
    some = [replace(w, valid=w.valid | ~w.valid.any()) for w in some]  # no window without any unit
    model = model_of(positions=positions)
    with torch.no_grad():
        rates, decoded = model(pack(some, P))
        alone = [model(pack([w], P)) for w in some]
    torch.testing.assert_close(rates, torch.cat([r for r, _ in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded, torch.cat([d for _, d in alone]), rtol=0, atol=1e-5)


def test_windows_of_two_sessions_packed_together_as_each_alone() -> None:
    sessions = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in (4, 7)]
    spec, rng = specification(sessions), np.random.default_rng(0)
    model, some = busy_model(spec).observe(np.arange(7), np.arange(7) / 3), []
    for session in sessions:
        rows = spec.vocabulary.rows(session)
        some.append(replace(random_window(6, session.num_units, rng), unit=rows.unit, context=rows.context))
    with torch.no_grad():
        together, alone = model(pack(some, P))[1], [model(pack([w], P))[1] for w in some]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@given(window=windows(num_units=8, least=3))
@settings(max_examples=30)
def test_what_is_not_valid_enters_neither_input_nor_loss(window) -> None:
    window = replace(window, valid=window.valid | ~window.valid.any())
    model, other = model_of(), replace(window, counts=np.where(window.valid, window.counts, 19).astype(np.uint8))
    torch.testing.assert_close(nll(model, pack([window], P)), nll(model, pack([other], P)), rtol=0, atol=0)
    found, expected = (gradients(model, pack([w], P)) for w in (window, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_counts_at_padding_and_at_invalid_entries_of_a_batch_are_never_read() -> None:
    model, batch = model_of(), pack([random_window(6, 8, np.random.default_rng(0))], P)
    assert not batch.valid.all()
    garbled = replace(
        batch, counts=torch.where(batch.valid, batch.counts, 3), member=torch.where(batch.valid, batch.member, 5)
    )
    assert batch.counts.max() >= 3  # or the table of counts grew, and with it rounding
    torch.testing.assert_close(gradients(model, garbled), gradients(model, batch), rtol=0, atol=0)


def test_a_unit_that_was_never_observed_is_as_if_absent() -> None:
    """The seventh and eighth units are in a patch with others' padding; without them the patch is padding there."""
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0), absent=0.0)
    valid = window.valid.copy()
    valid[:, 7:] = False
    absent = replace(window, counts=window.counts[:, :7], valid=valid[:, :7], unit=window.unit[:7])
    found, expected = (gradients(model, pack([w], P)) for w in (replace(window, valid=valid), absent))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # products of matrices of other sizes
    torch.testing.assert_close(found["unit"][7], torch.zeros(TINY.unit_width), rtol=0, atol=0)
    assert found["unit"][6].abs().sum() > 0


def test_hidden_counts_are_targets_only() -> None:
    model, window = model_of(), random_window(6, 8, np.random.default_rng(1))
    spread = np.repeat(window.hidden, P, axis=1)[:, :8]
    other = replace(window, counts=np.where(spread, window.counts + 1, window.counts).astype(np.uint8))
    a, b = pack([window], P), pack([other], P)
    assert not torch.equal(a.counts, b.counts)
    with torch.no_grad():
        torch.testing.assert_close(model(a), model(b), rtol=0, atol=0)


@pytest.mark.parametrize("loud", [1, 20])
@pytest.mark.parametrize("positions", CONFIGS)
def test_counts_at_a_bin_change_no_bit_before_it(positions, loud) -> None:
    """`loud` makes the batch's largest count grow: tables made for it must not change the rounding of the past."""
    model, window = model_of(positions=positions), random_window(30, 8, np.random.default_rng(2), absent=0.1)
    at = 17
    late = np.minimum(window.counts[at:].astype(int) + loud, 20)
    other = replace(window, counts=np.concatenate([window.counts[:at], late]).astype(np.uint8))
    some = random_window(9, 8, np.random.default_rng(3))  # a second window in the batch, which nothing changes
    a, b = pack([window, some], P), pack([other, some], P)
    past, bins = (a.time < at) | (a.window == 1), (a.bin_time < at) | (a.bin_window == 1)
    with torch.no_grad():
        for read in (
            lambda x: model.encode(x).tokens,
            lambda x: model.latents(x, model.encode(x)),
            lambda x: model.log_rates(x, model.encode(x)),
            lambda x: model.decode(x, model.encode(x)),
        ):
            before, after = read(a), read(b)
            keep = {len(past): past, len(bins): bins}.get(len(before), past[~a.hidden])
            assert torch.equal(before[keep], after[keep])
            assert (before[~keep] - after[~keep]).abs().max() > 1e-4  # and the change is heard


def test_contexts_are_read_by_data_and_read_no_data() -> None:
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0))
    other = replace(window, counts=(window.counts + 1).astype(np.uint8))
    with torch.no_grad():
        a, b = (model.encode(pack([w], P)) for w in (window, other))
        assert torch.equal(a.context, b.context)
        model.context[1] += torch.linspace(-1, 1, TINY.width)  # a constant would vanish in the norm
        c = model.encode(pack([window], P))
    assert (a.tokens - c.tokens).abs().amax(1).min() > 1e-4  # every token hears of another subject


def test_latents_are_means_over_a_bins_visible_tokens() -> None:
    model, rng = model_of(), np.random.default_rng(0)
    some = [random_window(5, 8, rng, absent=0.6, hidden=0.6), random_window(3, 8, rng)]
    some[0].hidden[2] = True  # nothing is visible in this bin
    batch = pack(some, P)
    with torch.no_grad():
        encoded = model.encode(batch)
        found, row = model.latents(batch, encoded), 0
    window, time = batch.window[~batch.hidden], batch.time[~batch.hidden]
    for b, w in enumerate(some):
        for t in range(len(w.counts)):
            tokens = encoded.tokens[(window == b) & (time == t)]
            expected = tokens.mean(0) if len(tokens) else torch.zeros(TINY.width)
            torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-6)
            row += 1
    assert not found[2].any()


@pytest.mark.parametrize("dark", ["hidden", "invalid"])
def test_a_window_in_which_nothing_is_seen_is_no_failure(dark) -> None:
    window = random_window(
        4, 8, np.random.default_rng(0), absent=float(dark == "invalid"), hidden=float(dark == "hidden")
    )
    rates, decoded = model_of()(pack([window], P))
    assert rates.isfinite().all()
    assert decoded.isfinite().all()
    assert decoded.shape == (4, 2)


def test_the_order_of_units_in_the_file_changes_no_bit() -> None:
    session = recording(num_units=8)
    spec = specification([session])
    model, found = busy_model(spec), []
    for s in (session, permuted(session, np.random.default_rng(1).permutation(8))):
        window = Grid(s, 0.05, 1.0).window(10, 30, spec.vocabulary.rows(s))
        with torch.no_grad():
            found.append(model(pack([window], P)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_identities_matter() -> None:
    model, window = model_of(), random_window(6, 8, np.random.default_rng(0), absent=0.0)
    other = replace(window, unit=window.unit[::-1].copy())
    with torch.no_grad():
        assert (model(pack([window], P))[1] - model(pack([other], P))[1]).abs().max() > 1e-3


def test_a_new_model_predicts_the_mean_of_each_unit() -> None:
    torch.manual_seed(0)
    rates = np.array([0.5, 0.0, 2.0])
    readout, member = RateReadout(TINY), torch.tensor([[0, 2], [1, 1]])
    found = readout(torch.randn(2, 16), member, torch.randn(3, 8), torch.from_numpy(rates).float())
    torch.testing.assert_close(found[0].exp(), torch.tensor([0.5, 2.0]))
    assert found.isfinite().all()


def test_likelihood_is_poissons() -> None:
    z, y = torch.randn(40, 3), torch.poisson(torch.full((40, 3), 2.0)).long()
    valid = torch.rand(40, 3) < 0.7
    log_probability = torch.distributions.Poisson(z.double().exp()).log_prob(y) + torch.lgamma(y.double() + 1)
    torch.testing.assert_close(poisson_nll(z, y, valid).double(), -log_probability[valid].sum(), rtol=1e-5, atol=0)


@given(T=st.integers(1, 20), S=st.integers(1, 5), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_masks_hide_exactly_as_much_as_asked(T, S, ratio, seed) -> None:
    hidden = random_mask((T, S), ratio, np.random.default_rng(seed))
    assert hidden.sum() == round(ratio * T * S)
    np.testing.assert_array_equal(hidden, random_mask((T, S), ratio, np.random.default_rng(seed)))


def test_masks_hide_every_patch_alike() -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([random_mask((5, 4), 0.3, rng) for _ in range(4000)], 0)
    np.testing.assert_allclose(mean, 0.3, atol=0.04)  # five standard errors


def test_an_extended_model_says_the_same_of_what_it_knew() -> None:
    old, new = recording(num_units=4), recording(num_units=6, name="sub-a_ses-2")
    model = busy_model(specification([old])).observe(np.arange(4), np.arange(4) + 0.5)
    spec = specification([old, new])
    other = model.extended(spec).eval()
    window = Grid(old, 0.05, 1.0).window(0, 20, spec.vocabulary.rows(old))
    with torch.no_grad():
        torch.testing.assert_close(other(pack([window], P)), model(pack([window], P)), rtol=0, atol=1e-5)
    torch.testing.assert_close(other.unit[4:], model.unit.mean(0).expand(2, -1))
    row = spec.vocabulary.contexts.index("session:sub-a_ses-2")
    torch.testing.assert_close(other.context[row], model.context[0])  # the mean of the one session it knew


def test_a_decoder_of_another_covariate_starts_anew() -> None:
    spec = specification([recording()])
    model = busy_model(spec)
    renamed = replace(spec, covariate=replace(spec.covariate, name="pos"))
    same, other = model.extended(spec), model.extended(renamed)
    torch.testing.assert_close(same.covariate.readout.weight, model.covariate.readout.weight)
    assert not torch.equal(other.covariate.readout.weight, model.covariate.readout.weight)
    torch.testing.assert_close(other.embed.gain.weight, model.embed.gain.weight)


def test_a_model_without_decoder_does_not_decode() -> None:
    model, batch = model_of(dims=0), pack([random_window(3, 8, np.random.default_rng(0))], P)
    assert model(batch)[1] is None
    with pytest.raises(ValueError, match="covariate"):
        model.decode(batch, model.encode(batch))


def structured_batch() -> Batch:
    """Eight windows in which all units fire together at random moments, which is also the covariate."""
    rng, some = np.random.default_rng(0), []
    for _ in range(8):
        drive = np.repeat(rng.random(5) < 0.5, 4)[:, None]
        target = np.concatenate([drive, 1 - drive], 1).astype(np.float32) * 2 - 1
        some.append(
            Window(
                counts=rng.poisson(np.where(drive, 4.0, 0.2), (20, 9)).astype(np.uint8),
                valid=np.ones((20, 9), bool),
                unit=np.arange(9),
                context=np.arange(3),
                hidden=random_mask((20, 3), 0.3, rng),
                target=target,
            )
        )
    return pack(some, P)


def test_one_batch_is_overfit() -> None:
    torch.manual_seed(0)
    config = replace(TINY, width=32)
    model, batch = NDT(specification([recording(num_units=9)], config=config)).train(), structured_batch()
    model.observe(np.arange(9), np.full(9, float(batch.counts.float().mean())))
    wanted = batch.hidden[:, None] & batch.valid
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    start, found = None, None
    for _ in range(150):
        log_rates, decoded = model(batch)
        masked = poisson_nll(log_rates, batch.counts, wanted) / wanted.sum()
        error = (decoded - batch.target).square().mean()
        start = float(masked.detach()) if start is None else start
        optimizer.zero_grad()
        (masked + error).backward()
        optimizer.step()
        found = (float(masked.detach()), float(error.detach()))
    assert found[0] < start - 1.0  # nats per unit and bin; knowing the drive gains about 1.1
    assert found[1] < 0.05


def test_every_parameter_learns() -> None:
    model = model_of()
    silent = [n for n, g in gradients(model, structured_batch_of(8)).items() if not g.abs().sum() > 0]
    assert silent == []


def structured_batch_of(N: int) -> Batch:
    return pack([random_window(6, N, np.random.default_rng(0), absent=0.0)], P)
