"""Vectors of units: the formula, what is known of unknown units, and what training leaves out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import NDT2, TINY, busy_model, random_activity, random_window, recording, specification, with_means

from ndt.model.identity import UnitIdentity
from ndt.model.tokens import ACTIVITY, Batch, pack
from ndt.model.transformer import NDT
from ndt.session import Session, Units

N, A, E = 8, len(ACTIVITY), TINY.unit_width


def placed(session: Session, regions: list[str], depths: list[float]) -> Session:
    """The same recording, its units in regions and at depths in micrometres, in the order of their names."""
    place = [int(u[2:]) for u in session.units.id]
    columns = {"location": np.array(regions)[place], "depth": np.array(depths)[place]}
    return replace(session, units=Units(id=session.units.id, observed=session.units.observed, columns=columns))


def busy(**changes: object) -> NDT:
    """A model of eight units in two regions, at several depths, every weight drawn at random."""
    session = placed(recording(num_units=N), ["M1", "PMd"] * 4, [0.0, 100.0, -250.0, 1500.0, 0.0, 0.0, 80.0, 700.0])
    model = with_means(busy_model(specification([session], config=replace(TINY, **changes))), np.arange(N) / 3)
    rng = np.random.default_rng(1)
    model.identity.activity_mean.copy_(torch.from_numpy(rng.standard_normal(A)))
    model.identity.activity_std.copy_(torch.from_numpy(rng.uniform(0.1, 3, A)))
    return model


def batch_of(units: np.ndarray, activity: np.ndarray | None = None) -> Batch:
    """A batch with these rows of units, and their activity, that of the model where it is not given."""
    batch = pack([random_window(3, N, np.random.default_rng(0))], 3)
    if activity is None:
        activity = np.full((len(units), A), np.nan, np.float32)
    return replace(batch, unit=torch.from_numpy(units), activity=torch.from_numpy(activity))


def vectors(identity: UnitIdentity, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return identity(batch).vectors


def test_vectors_are_the_formula() -> None:
    model = busy().double()
    layer, vocabulary = model.identity, model.vocabulary
    found = layer(batch_of(np.arange(N)))
    weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    activity, sizes = layer.activity.numpy(), []
    np.testing.assert_array_equal(found.mean_counts, activity[:, 0])
    for n in range(N):
        z = (activity[n] - layer.activity_mean.numpy()) / layer.activity_std.numpy()
        sizes.append(np.abs(z).max())
        region, probe = vocabulary.unit_sites[n]
        assert vocabulary.sites[region] == ("region:PMd" if n % 2 else "region:M1")
        s = weights["site"][region] + weights["site"][probe] + weights["depth"] * vocabulary.unit_depths[n]
        inner = torch.from_numpy(weights["inner.weight"] @ np.clip(z, -5, 5) + weights["inner.bias"] + s[:-E])
        hidden = torch.nn.functional.gelu(inner).numpy()
        expected = weights["outer.weight"] @ hidden + weights["outer.bias"] + s[-E:] + weights["residual"][n]
        np.testing.assert_allclose(found.vectors[n].detach(), expected, rtol=0, atol=1e-6)  # depths are float32
    assert max(sizes) > 5 > min(sizes)


def test_a_new_model_knows_units_by_their_activity_alone() -> None:
    """Residuals, rows of regions and contexts start at zero: equal activity has equal vectors, and another another."""
    torch.manual_seed(0)
    session = placed(recording(num_units=N), ["M1", "PMd"] * 4, [300.0] * N)
    model = NDT(specification([session])).eval()
    assert not any(p.abs().sum() for p in (model.identity.residual, model.identity.site, model.context))
    activity = random_activity(np.arange(N) / 3)
    activity[5] = activity[2]
    found = vectors(model.identity, batch_of(np.arange(N), activity))
    torch.testing.assert_close(found[5], found[2], rtol=0, atol=1e-6)
    assert torch.cdist(found, found).fill_diagonal_(1.0)[:5, :5].min() > 1e-2


def test_units_that_training_has_not_seen_have_no_residual_and_the_rows_of_their_region() -> None:
    model = busy()
    new = placed(recording(num_units=2, name="sub-b_ses-1"), ["PMd", "V1"], [500.0, 0.0])
    new = replace(new, units=replace(new.units, id=np.array([f"b/{u[2:]}" for u in new.units.id])))
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([new]))
    extended = model.extended(spec).eval()
    assert spec.vocabulary.units[N:] == ("b/0", "b/1")
    assert not extended.identity.residual[N:].any()
    sites = spec.vocabulary.sites
    assert not extended.identity.site[sites.index("region:V1")].any()
    torch.testing.assert_close(extended.identity.site[: len(model.vocabulary.sites)], model.identity.site)

    rows, activity = np.array([N, N + 1]), random_activity([0.3, 2.0], seed=4)
    found = vectors(extended.identity, batch_of(rows, activity))
    for n, names in enumerate((("region:PMd", "probe:"), ("probe:",))):
        layer = model.identity
        known = sum(layer.site[model.vocabulary.sites.index(name)] for name in names) + (0.5, 0.0)[n] * layer.depth
        z = ((torch.from_numpy(activity[n]) - layer.activity_mean) / layer.activity_std).clamp(-5, 5)
        hidden = torch.nn.functional.gelu(layer.inner(z) + known[:-E])
        torch.testing.assert_close(found[n], layer.outer(hidden) + known[-E:], rtol=0, atol=1e-5)
    other = vectors(extended.identity, batch_of(rows, activity + 1))
    assert (found - other).abs().amax(1).min() > 1e-2


def test_a_permutation_of_units_permutes_their_vectors() -> None:
    model, order = busy(), np.random.default_rng(2).permutation(N)
    activity = random_activity(np.arange(N) / 3, seed=3)
    found = model.identity(batch_of(order, activity[order]))
    expected = model.identity(batch_of(np.arange(N), activity))
    torch.testing.assert_close(found.vectors, expected.vectors[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.mean_counts, expected.mean_counts[order], rtol=0, atol=0)


def test_activity_of_the_batch_goes_before_that_of_the_model() -> None:
    model = busy()
    own = vectors(model.identity, batch_of(np.arange(N)))
    given = model.identity.activity.numpy().copy()
    torch.testing.assert_close(vectors(model.identity, batch_of(np.arange(N), given)), own, rtol=0, atol=0)
    given[3:] = np.nan
    given[:3] += 1
    mixed = model.identity(batch_of(np.arange(N), given))
    torch.testing.assert_close(mixed.vectors[3:], own[3:], rtol=0, atol=1e-6)
    assert (mixed.vectors[:3] - own[:3]).abs().amax(1).min() > 1e-2
    np.testing.assert_allclose(mixed.mean_counts[:3], given[:3, 0])


def test_measures_are_standardised_over_the_units_of_all_sessions() -> None:
    rng = np.random.default_rng(0)
    sessions = [(rng.standard_normal((n, A)) * 3 + 5).astype(np.float32) for n in (5, 40)]
    for activity in sessions:
        activity[:, 4] = 2.5  # does not vary
    model = NDT(specification([recording(num_units=N)]))
    model.standardise(sessions)
    both = np.concatenate(sessions)
    std = both.std(0)
    std[4] = 1e-3
    np.testing.assert_allclose(model.identity.activity_mean, both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.identity.activity_std, std, rtol=1e-4)
    assert vectors(model.identity, batch_of(np.arange(N), both[:N])).isfinite().all()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_residuals_of_units_are_left_out_in_training_only(monkeypatch, dropout) -> None:
    monkeypatch.setattr("ndt.model.identity.KNOWN_DROPOUT", 0.0)
    model, rows = busy(), np.arange(4000) % N
    assert model.identity.residual_dropout == 0.0  # unless pretraining asks for it
    model.drop_residuals(dropout)
    full = vectors(model.identity, batch_of(rows))
    torch.testing.assert_close(vectors(model.identity, batch_of(rows)), full, rtol=0, atol=0)
    torch.manual_seed(0)
    found = vectors(model.identity.train(), batch_of(rows))
    left = full - model.identity.residual.detach()[rows]  # whole rows, not rescaled
    kept, out = ((found - x).abs().amax(1) < 1e-5 for x in (full, left))
    assert (kept ^ out).all()
    assert abs(float(out.double().mean()) - dropout) <= 5 * (dropout * (1 - dropout) / 4000) ** 0.5


def test_measures_and_sites_are_left_out_in_training_only(monkeypatch) -> None:
    """Each measure of each unit by itself; region, probe and depth of a unit together."""
    monkeypatch.setattr("ndt.model.identity.KNOWN_DROPOUT", 0.2)
    model, rows = busy(), np.arange(4000) % N
    layer, error = model.identity, 5 * (0.2 * 0.8 / 4000) ** 0.5
    with torch.no_grad():
        layer.residual.zero_()
        layer.inner.weight.zero_()
    full = vectors(layer.eval(), batch_of(rows))
    torch.manual_seed(0)
    found = vectors(layer.train(), batch_of(rows))
    bare = layer.outer(torch.nn.functional.gelu(layer.inner.bias)).detach()
    kept, out = ((found - x).abs().amax(1) < 1e-5 for x in (full, bare))
    assert (kept ^ out).all()
    assert abs(float(out.double().mean()) - 0.2) < error

    seen = {}
    layer.inner.register_forward_pre_hook(lambda _, given: seen.update(a=given[0]))
    vectors(layer, batch_of(rows))
    whole = ((layer.activity - layer.activity_mean) / layer.activity_std).clamp(-5, 5)[rows]
    gone = seen["a"] == 0
    torch.testing.assert_close(seen["a"], torch.where(gone, 0.0, whole))
    assert float((gone.double().mean(0) - 0.2).abs().max()) < error
    share = gone.double().mean(1)  # of the measures of a unit; scatters as independent draws do
    assert 0.9 < float(share.std()) / (0.2 * 0.8 / A) ** 0.5 < 1.1


def test_ndt2_knows_no_unit() -> None:
    model = busy_model(specification([recording(num_units=N)], config=NDT2))
    assert not hasattr(model, "identity")
    session = recording(num_units=N)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.observe(session, random_activity(np.arange(N)))
    model.standardise([random_activity(np.arange(N))])
    model.drop_residuals(0.5)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
