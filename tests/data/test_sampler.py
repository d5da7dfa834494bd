"""Windows are drawn as a function of (seed, step, place), from chosen bins only, and from all of them."""

import numpy as np
import pytest
from hypothesis import given
from problems import recording
from strategies import recordings, seeds

from ndt.data.windows import BinnedSession, Sampler, TrainingData
from ndt.errors import InputError
from ndt.model.tokens import ACTIVITY
from ndt.model.vocabulary import Vocabulary


def sampler(
    binned_sessions: list[BinnedSession],
    chosen: list[np.ndarray],
    seed: int = 0,
    window_bins: int = 10,
    min_bins: int = 3,
) -> Sampler:
    vocabulary, data = Vocabulary().extend(g.session for g in binned_sessions), []
    for i, (binned, rows) in enumerate(zip(binned_sessions, chosen, strict=True)):
        activity = np.full((binned.session.num_units, len(ACTIVITY)), i, np.float32)
        data.append(TrainingData(binned, rows, vocabulary.rows(binned.session), activity))
    return Sampler(data, window_bins=window_bins, min_bins=min_bins, seed=seed)


@given(session=recordings(), seed=seeds)
def test_windows_hold_chosen_bins_only(session, seed) -> None:
    rng = np.random.default_rng(seed)
    try:
        binned = BinnedSession(session, 0.1, 0.5)
        chosen = rng.random(len(binned)) < 0.8
        draws = sampler([binned], [chosen], seed)
    except InputError:  # too short
        return
    for step in range(20):
        first, last = draws.draw(draws.generator(step, 0))[1].index
        assert chosen[first:last].all()
        assert binned.segment[first] == binned.segment[last - 1]
        assert 3 <= last - first <= 10


def test_a_window_depends_on_seed_step_and_place_alone() -> None:
    binned_sessions = [BinnedSession(recording(name=f"sub-a_ses-{i}", seed=i), 0.1, 0.5) for i in range(3)]
    chosen = [g.split == 1 for g in binned_sessions]
    one, again, other = (sampler(binned_sessions, chosen, seed) for seed in (0, 0, 1))
    key = lambda s, step, place: (lambda g, w: (binned_sessions[g].session.session_id, *w.index))(
        *s.draw(s.generator(step, place))
    )
    places = [(step, place) for step in range(8) for place in range(8)]
    first = [key(one, *p) for p in places]
    assert [key(again, *p) for p in reversed(places)] == first[::-1]  # in whichever order they are drawn
    assert len(set(first)) > 50
    assert len({x[0] for x in first}) == 3
    assert sum(key(other, *p) == x for p, x in zip(places, first, strict=True)) < 8


def test_each_chosen_bin_is_drawn_about_as_often_as_any() -> None:
    binned = BinnedSession(recording([(0.0, 20.0), (21.0, 22.0), (23.0, 40.0)]), 0.1, 0.5)
    chosen = np.zeros(len(binned), bool)
    chosen[[*range(40, 80), *range(200, 210), *range(300, 302)]] = True  # the last run is too short
    draws, seen = sampler([binned], [chosen]), np.zeros(len(binned))
    for step in range(2000):
        first, last = draws.draw(draws.generator(step, 0))[1].index
        seen[first:last] += 1
    assert not seen[~chosen].any()
    assert not seen[300:302].any()
    expected = 2000 * 10 / 50
    assert seen[200:210].min() > 0.8 * expected  # a run as long as a window
    assert seen[45:75].min() > 0.8 * expected
    assert seen[[40, 79]].min() > 0.05 * expected  # the ends of a run, which few windows reach
    assert seen.max() < 2 * expected


def test_no_run_that_is_long_enough_is_said() -> None:
    binned = BinnedSession(recording(), 0.1, 0.5)
    with pytest.raises(InputError, match="unbroken run of 3 bins"):
        sampler([binned], [np.arange(len(binned)) % 3 > 0])


def test_a_window_says_which_of_the_sessions_it_was_cut_from() -> None:
    binned_sessions = [
        BinnedSession(recording(name=f"sub-a_ses-{i}", num_units=i + 2, seed=i), 0.1, 0.5) for i in range(3)
    ]
    draws = sampler(binned_sessions, [g.split == 1 for g in binned_sessions])
    seen = set()
    for place in range(40):
        at, window = draws.draw(draws.generator(0, place))
        rows = draws.sessions[at].rows
        expected = binned_sessions[at].window(*window.index, rows)
        np.testing.assert_array_equal(window.counts, expected.counts)
        np.testing.assert_array_equal(window.unit, rows.unit)
        np.testing.assert_array_equal(window.activity, np.full((at + 2, len(ACTIVITY)), at))
        assert window.session == binned_sessions[at].session.session_id
        seen.add(at)
    assert seen == {0, 1, 2}


def test_sessions_of_mixed_bin_widths_are_refused() -> None:
    binned_sessions = [
        BinnedSession(recording(name=f"sub-a_ses-{i}"), width, 0.5) for i, width in enumerate((0.1, 0.05))
    ]
    with pytest.raises(
        InputError, match=r"sampler: bin width: expected the same in all sessions, found \[0.05, 0.1\] s"
    ):
        sampler(binned_sessions, [g.split == 1 for g in binned_sessions])
