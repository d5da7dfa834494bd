"""Units that hold the same spikes are found, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import permuted

from ndt.data.inspection import synchrony
from ndt.data.inspection.synchrony import (
    WINDOW,
    Pair,
    _Candidates,
    count_shared,
    groups,
    measure_synchrony,
    time_grid,
)
from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units

SECONDS = 200.0
GOLDEN = (1 + 5**0.5) / 2


def session(trains, seconds=SECONDS, start=0.0, observed=None, count_bin=0.0):
    """A recording of units with these spike times, which begins at `start`."""
    unit = np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    times = np.concatenate([*trains, np.zeros(0)]) + start
    order = np.argsort(times, kind="stable")

    return Session(
        session_id="s",
        subject="a",
        spikes=Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32)),
        units=Units(id=np.array([f"u{n}" for n in range(len(trains))]), observed=observed),
        observed=Intervals([start], [start + seconds]),
        count_bin=count_bin,
    )


def poisson(rng, rates_hz, seconds=SECONDS):
    return [np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))) for rate in rates_hz]


def uneven(number, step):
    """Spikes about every `step` seconds, at intervals of all lengths and nowhere near a grid, from 0.01 s on."""
    k = np.arange(number)
    return 0.01 + step * (k + 0.3 * np.mod(k * k * GOLDEN, 1.0))


def shared_spikes(made):
    return measure_synchrony(made).pairs


def names(pairs):
    return [(p.first, p.second, p.kind) for p in pairs]


# Counting


def slow_shared(times, unit, N, window):
    """For each spike of a: does b fire within the window? One spike after another."""
    found = np.zeros((N, N), np.int64)
    for t, a in zip(times, unit, strict=True):
        for b in set(range(N)) - {a}:
            found[a, b] += np.any(np.abs(times[unit == b] - t) <= window)

    return found


TICK = 1 / 8192  # seconds: exact in binary, and four of them are 0.488 ms
TICKS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), max_size=60)


@given(spikes=TICKS, chunk=st.integers(1, 20))
def test_each_spike_counts_once_for_each_unit_that_meets_it(spikes, chunk):
    spikes = sorted(spikes)  # some at the same time, of one unit too
    times, unit = np.array([t for t, _ in spikes]) * TICK, np.array([n for _, n in spikes], np.int64)

    found = count_shared(times, unit, 4, chunk)
    np.testing.assert_array_equal(found, slow_shared(times, unit, 4, 0.0005))


def test_a_burst_near_one_spike_is_met_by_it_once_and_each_of_its_spikes_meets_it():
    found = count_shared(np.array([0.9998, 1.0, 1.0002]), np.array([0, 1, 0]), 2)

    np.testing.assert_array_equal(found, [[0, 2], [1, 0]])


def test_rare_pairs_are_tallied_like_frequent_ones():
    rng = np.random.default_rng(0)
    times, unit = np.sort(rng.uniform(0, 0.2, 200)), rng.integers(0, 100, 200)  # 10,000 places, some 100 meetings

    found = count_shared(times, unit, 100, chunk=50)
    assert found.sum() > 50
    np.testing.assert_array_equal(found, slow_shared(times, unit, 100, 0.0005 + 1e-6))


# Pairs worked out by hand


def test_share_and_expected_share_by_hand():
    a = uneven(1000, 0.1)  # 10 Hz for 100 s
    b = np.sort(np.r_[a[::5], a[1::5], a[2::5], a[3::5][:100] + 0.035, a[4::5] + 0.041])  # 900, of which 600 are a's
    (pair,) = shared_spikes(session([a, b], seconds=100.0))

    assert (pair.first, pair.second, pair.kind) == (0, 1, "duplicate")
    assert pair.shared == pytest.approx(600 / 900)
    assert pair.expected == pytest.approx(1 - np.exp(-2 * WINDOW * 10.0), rel=1e-3)  # cells differ a little


def test_half_of_the_spikes_makes_a_duplicate_and_less_makes_cross_talk():
    a, kinds = uneven(1000, 10.0), []  # so few that chance gives 0.1 shared spikes
    for copies in (500, 499, 101, 99):
        b = np.sort(np.r_[a[:copies], a[copies:] + 0.037])
        kinds.append([p.kind for p in shared_spikes(session([a, b], seconds=10_000.0))])

    assert kinds == [["duplicate"], ["cross-talk"], ["cross-talk"], []]


def test_only_time_in_which_both_were_observed_counts():
    a = uneven(1000, 0.1)
    late = a[a >= 50.0]
    b = np.sort(np.r_[late, late + 0.037])  # twice as many there: over all time a has as many as b
    observed = Intervals([0.0, 50.0], [100.0, 100.0], {"unit_index": np.array([0, 1])})
    (pair,) = shared_spikes(session([a, b], seconds=100.0, observed=observed))

    assert pair.kind == "duplicate"
    assert pair.shared == pytest.approx(1.0)
    assert pair.expected == pytest.approx(1 - np.exp(-2 * WINDOW * len(b) / 50.0), rel=1e-3)


def test_units_never_observed_together_are_no_pair():
    a = uneven(1000, 0.1)
    observed = Intervals([0.0, 50.0], [50.0, 100.0], {"unit_index": np.array([0, 1])})

    assert shared_spikes(session([a[a < 50.0], a[a >= 50.0]], seconds=100.0, observed=observed)) == ()


def test_nine_shared_spikes_prove_nothing_and_ten_do():
    a = uneven(10, 10.0)

    assert shared_spikes(session([a[:9], a[:9]])) == ()
    assert names(shared_spikes(session([a, a]))) == [(0, 1, "duplicate")]


# Planted


@pytest.mark.parametrize("seed", range(3))
def test_a_jittered_copy_of_a_train_is_a_duplicate(seed):
    rng = np.random.default_rng(seed)
    trains = poisson(rng, [5.0, 20.0, 1.0, 40.0, 10.0, 8.0])
    trains.append(np.sort(trains[1] + rng.normal(0, 1e-4, len(trains[1]))))
    (pair,) = shared_spikes(session(trains))

    assert (pair.first, pair.second, pair.kind) == (1, 6, "duplicate")
    assert pair.shared > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_another_units_spikes_is_cross_talk(seed):
    rng = np.random.default_rng(seed)
    trains = poisson(rng, [5.0, 20.0, 30.0, 40.0, 10.0, 8.0])
    some = trains[1][rng.random(len(trains[1])) < 0.2]
    trains[2] = np.sort(np.r_[trains[2], some + rng.normal(0, 1e-4, len(some))])
    (pair,) = shared_spikes(session(trains))

    assert (pair.first, pair.second, pair.kind) == (1, 2, "cross-talk")
    chance = 1 - np.exp(-2 * WINDOW * 34.0)
    assert pair.shared == pytest.approx(0.2 + 0.8 * chance, abs=4 * (0.2 * 0.8 / 4000) ** 0.5)


def test_a_copy_of_a_unit_that_bursts_is_still_a_duplicate():
    rng = np.random.default_rng(0)
    (first,) = poisson(rng, [2.0])
    second = first + rng.uniform(0.003, 0.008, len(first))  # lags of 5 and 10 ms are among its own intervals
    burst = np.sort(np.concatenate([first, second, second + rng.uniform(0.003, 0.008, len(first))]))

    assert names(shared_spikes(session([burst, burst + 1e-4, *poisson(rng, [9.0])]))) == [(0, 1, "duplicate")]


# Not planted


@pytest.mark.parametrize("seed", range(6))
def test_independent_units_are_never_flagged(seed):
    rng = np.random.default_rng(seed)
    trains = poisson(rng, rng.gamma(0.7, 15.0, 40), seconds=100.0)
    found = measure_synchrony(session(trains, seconds=100.0))

    assert found.pairs == ()
    assert found.typical < 1.05


@pytest.mark.parametrize("others", [0, 8])
@pytest.mark.parametrize("seed", range(3))
def test_units_that_follow_one_rate_over_10_ms_are_not_flagged(seed, others):
    rng = np.random.default_rng(seed)
    active = np.repeat(rng.random(20_000) < 0.05, 2)  # 10 ms in 200 ms hold nearly all spikes of three units
    trains = []
    for _ in range(3):
        counts = rng.poisson(np.where(active, 2.0, 0.0))  # per 5 ms
        trains.append(np.sort((np.repeat(np.arange(40_000), counts) + rng.random(counts.sum())) * 0.005))
    chance = 2 * WINDOW * np.mean([len(t) for t in trains]) / SECONDS
    shared = count_shared(*flat(trains[:2]), 2)[0, 1] / len(trains[0])

    assert shared > 0.1  # they do meet,
    assert shared > 5 * chance  # far more often than rates say
    assert shared_spikes(session([*trains, *poisson(rng, [10.0] * others)])) == ()


def flat(trains):
    made = session(trains)
    return made.spikes.timestamps, made.spikes.unit_index.astype(np.int64)


def test_slow_changes_of_all_rates_are_no_synchrony():
    rng = np.random.default_rng(0)
    trains = [t[(t % 100) < 10] for t in poisson(rng, [60.0] * 8)]  # active for 10 s in 100 s, then silent

    assert measure_synchrony(session(trains)).typical < 1.1


def test_a_clock_that_locks_spikes_raises_the_bar_for_all():
    rng = np.random.default_rng(0)
    trains = [np.round(t * 2000) / 2000 for t in poisson(rng, [30.0] * 8)]  # 0.5 ms: 3 ticks in a window of 2
    found = measure_synchrony(session(trains))

    assert found.pairs == ()
    assert found.typical == pytest.approx(1.5, rel=0.05)


def test_artefacts_on_all_units_are_not_a_thousand_pairs():
    rng = np.random.default_rng(0)
    (artefact,) = poisson(rng, [3.0])
    trains = [np.sort(np.r_[t, artefact]) for t in poisson(rng, [10.0] * 8)]
    found = measure_synchrony(session(trains))

    assert found.pairs == ()
    assert found.typical > 10


@pytest.mark.parametrize(
    ("spikes", "shared", "chance", "num_pairs", "stands_out"),
    [
        (400, 200, 100.0, 1_000_000, True),
        (400, 199, 100.0, 1, False),  # less than twice chance, though no accident
        (60, 20, 8.0, 1, True),
        (60, 20, 8.0, 1_000, False),  # P(X >= 20) = 2.5e-4: one of a thousand pairs may well
        (9_000, 1_000, 100.0, 1, True),  # 900 of 8,900 others are copies
        (9_200, 1_000, 100.0, 1, False),  # of 9,100: less than a tenth
    ],
)
def test_a_pair_must_exceed_chance_by_far_and_beyond_luck(spikes, shared, chance, num_pairs, stands_out):
    one = _Candidates(np.array([0]), np.array([1]), np.array([spikes]), np.array([shared]), np.array([chance]))

    assert len(one.stands_out(num_pairs).less) == stands_out


# Not assessed


def test_counted_spikes_are_not_assessed():
    a = uneven(1000, 0.1)
    found = measure_synchrony(session([a, a], count_bin=0.02))

    assert (found.pairs, found.unassessed) == ((), "spikes were counted in bins of 20 ms")


@pytest.mark.parametrize("start", [0.0, -1e4, 1e9])
@pytest.mark.parametrize(("step", "known"), [(0.05, True), (0.001, True), (0.0005, False), (1 / 30_000, False)])
def test_times_on_a_grid_coarser_than_the_window_are_not_assessed(step, known, start):
    rng = np.random.default_rng(0)
    trains = [np.round(t / step) * step for t in poisson(rng, [30.0] * 3)]
    trains.append(trains[0])
    found = measure_synchrony(session(trains, start=start))

    assert bool(found.unassessed) == known
    if known:
        assert time_grid(session(trains, start=start)) == pytest.approx(step, rel=1e-3)
    else:
        assert names(found.pairs) == [(0, 3, "duplicate")]


def test_times_without_a_grid_have_none():
    assert time_grid(session(poisson(np.random.default_rng(0), [0.4] * 3))) == 0.0  # some 80 spikes each
    assert time_grid(session([uneven(5, 0.1)])) == 0.0


def test_spikes_that_all_lie_at_one_time_end_soon(monkeypatch):
    monkeypatch.setattr(synchrony, "MOST_MEETINGS", 100_000)
    found = measure_synchrony(session([np.full(2000, 1.0), np.full(2000, 1.0)], seconds=1e6))

    assert found.pairs == ()
    assert "same time" in found.unassessed


@pytest.mark.parametrize("trains", [[], [[]], [[], []], [[1.0]], [[1.0], []]])
def test_sessions_without_pairs_have_none(trains):
    assert measure_synchrony(session([np.array(t, float) for t in trains])) == ((), 1.0, "")


# Invariance


def planted(seed, **options):
    rng = np.random.default_rng(seed)
    trains = poisson(rng, [5.0, 20.0, 30.0, 40.0, 10.0, 8.0])
    trains[2] = np.sort(np.r_[trains[2], trains[1][::4] + 2e-4])
    trains[4] = trains[5][:-3]

    return session(trains, **options)


@settings(max_examples=20)
@given(order=st.permutations(range(6)))
def test_pairs_follow_the_units_wherever_they_are_listed(order):
    def by_id(made):
        return {frozenset(made.units.id[[p.first, p.second]]): p for p in shared_spikes(made)}

    made = planted(0)
    before, after = by_id(made), by_id(permuted(made, np.array(order)))

    assert set(before) == set(after) == {frozenset({"u1", "u2"}), frozenset({"u4", "u5"})}
    for key, pair in before.items():
        assert after[key].kind == pair.kind
        assert (after[key].shared, after[key].expected) == pytest.approx((pair.shared, pair.expected), rel=1e-5)


@pytest.mark.parametrize("start", [1e6, -1e6, 1e9])
def test_the_clocks_zero_does_not_matter(start):
    here, there = shared_spikes(planted(1)), shared_spikes(planted(1, start=start))

    assert names(here) == names(there)
    for a, b in zip(here, there, strict=True):  # a spike may cross a border of half a millisecond by rounding
        assert (a.shared, a.expected) == pytest.approx((b.shared, b.expected), abs=2e-3)


def test_of_many_spikes_some_stretches_are_read_and_say_the_same(monkeypatch):
    made = planted(2)
    whole = shared_spikes(made)
    monkeypatch.setattr(synchrony, "MOST_SPIKES", len(made.spikes.timestamps) // 4)
    some, again = shared_spikes(made), shared_spikes(made)

    assert some == again
    assert some != whole
    assert names(some) == names(whole)
    for a, b in zip(some, whole, strict=True):  # 400 spikes: 4 standard errors of a share of a half
        assert a.shared == pytest.approx(b.shared, abs=0.1)


def test_stretches_of_units_with_observation_of_their_own(monkeypatch):
    half = Intervals([0, 0, 0, 0, 0, 100], [200, 200, 200, 200, 200, 200], {"unit_index": np.arange(6)})
    trains = [made.copy() for made in poisson(np.random.default_rng(3), [5.0, 20.0, 30.0, 40.0, 10.0, 8.0])]
    trains[5] = trains[3][trains[3] >= 100] + 1e-4
    made = session(trains, observed=half)
    for most in (3_000_000, len(made.spikes.timestamps) // 3):
        monkeypatch.setattr(synchrony, "MOST_SPIKES", most)
        (pair,) = shared_spikes(made)
        assert (pair.first, pair.second, pair.kind) == (3, 5, "duplicate")
        assert pair.shared > 0.99


def test_memory_maps_are_read(tmp_path):
    made = planted(0)
    times, unit = (np.asarray(x) for x in (made.spikes.timestamps, made.spikes.unit_index))
    for name, values in (("t", times), ("u", unit)):
        values.tofile(tmp_path / name)
    mapped = Spikes(
        timestamps=np.memmap(tmp_path / "t", times.dtype, "r"), unit_index=np.memmap(tmp_path / "u", unit.dtype, "r")
    )

    assert shared_spikes(Session(**{**vars(made), "spikes": mapped})) == shared_spikes(made)


# Groups


def pair(first, second, kind="duplicate"):
    return Pair(first=first, second=second, kind=kind, shared=0.9, expected=0.1)


def test_groups_join_pairs_directly_and_through_others():
    found = groups([pair(4, 6), pair(1, 3, "cross-talk"), pair(0, 6)], 8)

    np.testing.assert_array_equal(found, [0, 1, -1, 1, 0, -1, 0, -1])


def test_without_pairs_no_unit_is_in_a_group():
    np.testing.assert_array_equal(groups([], 3), [-1, -1, -1])
    assert groups([], 0).shape == (0,)
