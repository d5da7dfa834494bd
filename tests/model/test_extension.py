"""Models grow: what they knew stays, and what is new starts where its kind is."""

from dataclasses import replace

import numpy as np
import torch
from problems import TINY, busy_model, recording, specification, with_means

from ndt.data.windows import BinnedSession
from ndt.model.tokens import pack
from ndt.session import Session, Units

P = TINY.units_per_patch


def placed(session: Session, regions: list[str], depths: list[float]) -> Session:
    """The same recording, its units in regions and at depths in micrometres."""
    columns = {"location": np.array(regions), "depth": np.array(depths)}
    return replace(session, units=Units(id=session.units.id, observed=session.units.observed, columns=columns))


def test_an_extended_model_says_the_same_of_what_it_knew() -> None:
    old, new = recording(num_units=4), recording(num_units=6, name="sub-a_ses-2")
    model = with_means(busy_model(specification([old])), np.arange(4) + 0.5)
    spec = specification([old, new])
    other = model.extended(spec).eval()
    window = BinnedSession(old, 0.05, 1.0).window(0, 20, spec.vocabulary.rows(old))
    with torch.no_grad():
        found, expected = other(pack([window], P)), model(pack([window], P))
    torch.testing.assert_close(found.decoded, expected.decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(other.unit[4:], model.unit.mean(0).expand(2, -1))
    row = spec.vocabulary.contexts.index("session:sub-a_ses-2")
    torch.testing.assert_close(other.context[row], model.context[0])  # the mean of the one session it knew


def test_new_units_start_at_the_mean_of_the_known_and_where_their_region_and_depth_are() -> None:
    old = placed(recording(num_units=4), ["M1", "PMd", "M1", "PMd"], [0.0, 100.0, 200.0, 300.0])
    new = recording(num_units=6, name="sub-a_ses-2")
    depths = [500.0 if u == "a/5" else 0.0 for u in new.units.id]
    new = placed(new, ["PMd" if u == "a/5" else "M1" for u in new.units.id], depths)
    spec = specification([old, new])
    model = busy_model(specification([old]))
    other = model.extended(spec).eval()
    row = spec.vocabulary.units.index("a/5")
    rows = spec.vocabulary.rows(new)
    window = BinnedSession(new, 0.05, 1.0).window(0, 5, rows)
    batch = pack([replace(window, context=window.context[1:])], P)
    found = other.population(batch).vectors[batch.unit == row][0]
    place = model.unit_site[[model.vocabulary.sites.index(name) for name in ("region:PMd", "probe:")]].sum(0)
    torch.testing.assert_close(found, model.unit.mean(0) + place + 0.5 * model.depth)  # millimetres


def test_a_decoder_of_another_target_starts_anew() -> None:
    spec = specification([recording()])
    model = busy_model(spec)
    renamed = replace(spec, target=replace(spec.target, name="pos"))
    same, other = model.extended(spec), model.extended(renamed)
    torch.testing.assert_close(same.decoder.readout.weight, model.decoder.readout.weight)
    assert not torch.equal(other.decoder.readout.weight, model.decoder.readout.weight)
    torch.testing.assert_close(other.embed.gain.weight, model.embed.gain.weight)
