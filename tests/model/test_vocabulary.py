"""Rows of the model's tables belong to names, in whatever order files list them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from problems import permuted, recording

from ndt.model.vocabulary import Vocabulary
from ndt.session import Session, Units


def test_units_with_one_identity_share_a_row_and_old_rows_stay() -> None:
    day1, day2 = recording(num_units=3, name="sub-a_ses-1"), recording(num_units=5, name="sub-a_ses-2", seed=1)
    old = Vocabulary().extend([day1])
    new = old.extend([day2])
    assert new.units[:3] == old.units
    assert new.contexts[:3] == old.contexts
    assert set(new.units) == {f"a/{n}" for n in range(5)}
    assert new.contexts == ("session:sub-a_ses-1", "subject:a", "task:", "session:sub-a_ses-2")
    for session in (day1, day2):
        rows = new.rows(session)
        assert [new.units[i] for i in rows.unit] == sorted(session.units.id)
        assert [new.contexts[i] for i in rows.context] == list(Vocabulary.context_names(session))
    assert new.extend([day1, day2]) == new


def test_rows_follow_identities_not_the_file() -> None:
    session = recording(num_units=7)
    other = permuted(session, np.random.default_rng(0).permutation(7))
    vocabulary = Vocabulary().extend([session])
    assert vocabulary == Vocabulary().extend([other])
    assert list(vocabulary.units) == sorted(session.units.id) != session.units.id.tolist()
    a, b = vocabulary.rows(session), vocabulary.rows(other)
    np.testing.assert_array_equal(a.unit, b.unit)
    np.testing.assert_array_equal(session.units.id[a.order], other.units.id[b.order])


def test_a_stranger_has_no_row() -> None:
    with pytest.raises(KeyError):
        Vocabulary().extend([recording(num_units=2)]).rows(recording(num_units=3))


def placed(session: Session, **columns: Sequence[object]) -> Session:
    """The same recording with columns of its units table."""
    return replace(session, units=Units(id=session.units.id, columns={k: np.array(v) for k, v in columns.items()}))


def test_places_are_rows_of_regions_and_probes_and_depths_are_millimetres() -> None:
    plain = recording(num_units=3)
    first = placed(plain, location=["M1", "PMd", "M1"], group=["left", "left", "right"], rel_z=[0, 250, -1500])
    found = Vocabulary().extend([first])
    assert set(found.sites) == {"region:M1", "probe:left", "region:PMd", "probe:right"}
    where = [tuple(found.sites[p] for p in pair) for pair in found.unit_sites]
    there = [("region:M1", "probe:left"), ("region:PMd", "probe:left"), ("region:M1", "probe:right")]
    assert dict(zip(found.units, where, strict=True)) == dict(zip(plain.units.id, there, strict=True))
    depths = [0.0, 0.25, -1.5]
    assert dict(zip(found.units, found.unit_depths, strict=True)) == dict(zip(plain.units.id, depths, strict=True))
    other = placed(recording(num_units=5, name="sub-a_ses-2"), location=["V1"] * 5, depth=[1000.0, np.nan, 0, 0, 0])
    both = found.extend([other])
    assert both.sites == (*found.sites, "region:V1", "probe:")
    assert both.unit_sites[:3] == found.unit_sites  # a unit stays where it was first
    assert set(both.unit_sites[3:]) == {(4, 5)}
    depth = {u: 0.0 if np.isnan(d) else d / 1e3 for u, d in zip(other.units.id, [1000, np.nan, 0, 0, 0], strict=True)}
    assert both.unit_depths[3:] == tuple(depth[u] for u in both.units[3:])


def test_what_a_file_does_not_say_of_units_is_one_place_at_no_depth() -> None:
    found = Vocabulary().extend([recording(num_units=2)])
    assert found.sites == ("region:", "probe:")
    assert found.unit_sites == ((0, 1), (0, 1))
    assert found.unit_depths == (0.0, 0.0)
    words = placed(recording(num_units=2), depth=["deep", "shallow"])  # no numbers: no depth
    assert Vocabulary().extend([words]).unit_depths == (0.0, 0.0)


def test_units_that_repeat_each_others_spikes_share_a_group_and_others_have_their_own() -> None:
    session = placed(recording(num_units=5), duplicate_group=[-1, 1, -1, 1, 0])
    vocabulary = Vocabulary().extend([session])
    rows = vocabulary.rows(session)
    group = rows.group[np.argsort(rows.order)]  # as the file lists them
    same = group[:, None] == group[None]
    np.testing.assert_array_equal(same - np.eye(5), [[0] * 5, [0, 0, 0, 1, 0], [0] * 5, [0, 1, 0, 0, 0], [0] * 5])
    assert group.min() >= 0
    plain = recording(num_units=5)
    np.testing.assert_array_equal(np.sort(vocabulary.rows(plain).group), np.arange(5))
