"""Rows of the model's tables belong to names, in whatever order files list them."""

import numpy as np
import pytest
from problems import permuted, recording

from ndt.vocabulary import Vocabulary


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
    a, b = vocabulary.rows(session), vocabulary.rows(other)
    np.testing.assert_array_equal(a.unit, b.unit)
    np.testing.assert_array_equal(session.units.id[a.order], other.units.id[b.order])


def test_a_stranger_has_no_row() -> None:
    with pytest.raises(KeyError):
        Vocabulary().extend([recording(num_units=2)]).rows(recording(num_units=3))
