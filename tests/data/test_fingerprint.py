"""Fingerprints: the definition by a slow reference, what they do not depend on, and trains that betray nothing."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from ndt.data.fingerprint import BASE, BITS, KEPT, PHASE, Fingerprint, fingerprint
from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units

ALL = 2**64


def session(trains, count_bin: float = 0.0) -> Session:
    """A session of these spike trains."""
    times = np.concatenate([*map(np.asarray, trains), []]).astype(float)
    unit = np.repeat(np.arange(len(trains), dtype=np.int32), [len(t) for t in trains])
    order = np.argsort(times, kind="stable")
    return Session(
        session_id="sub-a_ses-1",
        subject="a",
        spikes=Spikes(timestamps=times[order], unit_index=unit[order]),
        units=Units(id=np.array([f"a/{n}" for n in range(len(trains))], np.str_)),
        observed=Intervals([0.0], [times.max(initial=0.0) + 1.0]),
        count_bin=count_bin,
    )


def poisson(num_units: int, seconds: float, rate_hz: float, seed: int) -> list[np.ndarray]:
    """Poisson trains."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.uniform(0, seconds, rng.poisson(rate_hz * seconds))) for _ in range(num_units)]


def mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % ALL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % ALL
    return x ^ (x >> 31)


def slow(trains, count_bin: float = 0.0) -> set[tuple[int, int, float]]:
    """Hash, unit and time of every gram by the definition, one interval after another; with none left out."""
    quantum, step = (count_bin, 1) if count_bin else (1e-5, 100)
    found = set()
    for unit, times in enumerate(trains):
        intervals = [int(np.floor((b - a) / quantum + PHASE)) for a, b in itertools.pairwise(times)]
        for i in range(len(intervals)):
            bits, total, power, some = 0.0, 0, 1, []
            for n in intervals[i:]:
                bits += (n // step).bit_length() or 0.5
                total += mixed(n ^ mixed(round(quantum * 1e9))) * power
                power, some = power * pow(BASE, -1, ALL) % ALL, [*some, n]
                if bits >= BITS:
                    if len(set(some)) > 1:
                        found.add((mixed(total % ALL), unit, float(times[i])))
                    break
    return found


def rows(found: Fingerprint) -> set[tuple[int, int, float]]:
    return set(zip(found.hash.tolist(), found.unit.tolist(), found.time.tolist(), strict=True))


@settings(max_examples=40)
@given(seed=seeds, num_units=st.integers(0, 3), rate_hz=st.sampled_from([0.5, 5.0, 80.0]))
def test_of_few_grams_all_are_kept_and_are_those_of_the_definition(seed, num_units, rate_hz) -> None:
    trains = [t[:60] for t in poisson(num_units, 60 / rate_hz, rate_hz, seed)]
    assert rows(fingerprint(session(trains))) == slow(trains)


@settings(max_examples=40)
@given(seed=seeds, rate_hz=st.sampled_from([0.5, 5.0, 80.0]), bin_size=st.sampled_from([0.02, 0.05]))
def test_counts_have_intervals_in_bins(seed, rate_hz, bin_size) -> None:
    trains = [(np.floor(t[:60] / bin_size) + 0.5) * bin_size for t in poisson(2, 60 / rate_hz, rate_hz, seed)]
    assert rows(fingerprint(session(trains, bin_size))) == slow(trains, bin_size)


def test_a_gram_is_as_long_as_it_takes_to_hold_its_bits() -> None:
    """64 to 127 ms hold 7 bits, so that 14 hold 98; 2 to 3 s hold 11 and 12, so that 8 or 9 do."""
    rng = np.random.default_rng(0)
    for low, high, number in ((0.064, 0.1279, 14), (1.0241, 2.047, 9), (0.0021, 0.0039, 48)):
        times = np.cumsum(rng.uniform(low, high, number + 5))  # so many spikes have one interval fewer
        found = fingerprint(session([times]))
        np.testing.assert_array_equal(np.sort(found.time), times[:5])


def test_hashes_are_kept_by_their_size_and_are_spread_evenly() -> None:
    """Some 3000 grams of a unit are 47 times 64, and the next power of two is 64: those below 2^58 are kept."""
    trains = poisson(200, 300.0, 10.0, 1)
    found = fingerprint(session(trains))
    grams = sum(len(t) - 14 for t in trains)  # most grams hold 13 to 15 intervals
    assert abs(len(found) - grams / 64) < 5 * np.sqrt(grams / 64)
    part = found.hash.astype(float) / 2.0**58
    assert part.max() < 1
    np.testing.assert_allclose(np.histogram(part, 4, (0, 1))[0] / len(part), 0.25, atol=0.023)  # five standard errors


def test_the_clock_does_not_matter() -> None:
    """Recorders count samples; their times are shifted by a million seconds, where a double holds a tenth of a ns."""
    rng = np.random.default_rng(2)
    for rate in (20_000.0, 24_414.0625, 25_000.0, 30_000.0, 32_000.0, 40_000.0, 1e6, 1e3):
        times = np.unique(rng.integers(0, int(2000 * rate), 20_000)) / rate
        a, b = (fingerprint(session([t])) for t in (times, times + 1e6))
        assert len(a) > 20
        np.testing.assert_array_equal(a.hash, b.hash, f"{rate} samples a second")
        np.testing.assert_allclose(b.time - a.time, 1e6, rtol=0, atol=1e-9)
        first = times[9000]
        part = fingerprint(session([(times + 1e6)[9000:] - (first + 1e6)]))  # shifted twice, rounded twice
        later = a.hash[a.time >= first]
        assert len(later) > 5
        assert set(later.tolist()) <= set(part.hash.tolist())


def test_clocks_of_any_fineness_lose_next_to_nothing_to_rounding() -> None:
    trains = poisson(100, 600.0, 10.0, 3)
    a, b = (fingerprint(session([t + d for t in trains])) for d in (0.0, 1e6))
    assert len(set(a.hash.tolist()) & set(b.hash.tolist())) > 0.998 * len(a)


def test_order_and_number_of_units_do_not_matter() -> None:
    trains = poisson(30, 300.0, 8.0, 4)
    whole = fingerprint(session(trains))
    order = np.random.default_rng(0).permutation(30)[:12]
    part = fingerprint(session([trains[n] for n in order]))
    chosen = np.isin(whole.unit, order)
    np.testing.assert_array_equal(part.hash, whole.hash[chosen])
    np.testing.assert_array_equal(order[part.unit], whole.unit[chosen])
    np.testing.assert_array_equal(part.time, whole.time[chosen])


@settings(max_examples=20)
@given(start=st.floats(0.0, 250.0), length=st.floats(10.0, 50.0), seed=seeds)
def test_a_slice_has_every_hash_of_its_time(start, length, seed) -> None:
    """Grams of units at 20 Hz hold 12 to 20 intervals: less than five seconds."""
    trains = poisson(10, 300.0, 20.0, seed)
    whole = fingerprint(session(trains))
    part = fingerprint(session([t[(t >= start) & (t < start + length)] - start for t in trains]))
    within = whole.hash[(whole.time >= start) & (whole.time < start + length - 5)]
    assert set(within.tolist()) <= set(part.hash.tolist())


def test_spike_times_and_counts_of_any_width_have_nothing_in_common() -> None:
    binned = [np.unique(np.floor(t * 50)) / 50 + 0.01 for t in poisson(5, 300.0, 5.0, 5)]
    found = [set(fingerprint(session(binned, width)).hash.tolist()) for width in (0.0, 0.02, 0.01, 0.04)]
    assert all(len(f) > 50 for f in found)
    assert len(set.union(*found)) == sum(map(len, found))


def test_trains_that_betray_nothing_have_no_fingerprint() -> None:
    rng = np.random.default_rng(6)
    mains = np.round(np.arange(0, 100, 1 / 60), 3)  # 16, 17, 17, 16 … ms
    beat = np.cumsum(np.tile([0.013, 0.029, 0.007], 600))
    once = np.cumsum(rng.uniform(0.01, 0.2, 200))
    for train in (np.arange(0, 100, 0.02), mains, beat, np.r_[once, once + 100], [], [1.0], [1.0, 2.0]):
        found = fingerprint(session([train]))
        assert len(found) <= 20  # where the first and the second hundred meet, intervals are there once
    assert len(fingerprint(session([np.arange(0, 100, 0.02)], 0.02))) == 0
    assert len(fingerprint(session([np.arange(15) * 0.1]))) == 0  # one gram, of equal intervals
    assert len(fingerprint(session([np.r_[np.arange(14), 14.1] * 0.1]))) == 1
    assert len(fingerprint(session([]))) == 0
    assert len(fingerprint(session([once]))) > 30


def test_two_units_with_the_same_spikes_both_have_theirs_and_with_later_ones_neither() -> None:
    once = poisson(1, 100.0, 8.0, 7)[0]
    alone = fingerprint(session([once]))
    for later, number in ((0.0, 2), (1e-4, 2), (0.5, 0)):
        found = fingerprint(session([once, once + later]))
        assert len(found) == number * len(alone)
        assert len(set(found.hash.tolist())) == len(found) // 2


def test_span_is_that_of_all_spikes() -> None:
    some = session([[3.0, 4.0], [1.5]])
    assert fingerprint(some).span == (1.5, 4.0)
    empty = replace(some, spikes=Spikes(timestamps=np.zeros(0), unit_index=np.zeros(0, np.int32)))
    np.testing.assert_array_equal(fingerprint(empty).span, (np.nan, np.nan))


@pytest.mark.slow
def test_five_million_spikes_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(8)
    times, unit = np.sort(rng.uniform(0, 1800.0, 5_000_000)), rng.integers(96, size=5_000_000).astype(np.int32)
    large = replace(session([[]] * 96), spikes=Spikes(timestamps=times, unit_index=unit))
    took = []
    for _ in range(3):
        start = time.process_time()
        found = fingerprint(large)
        took.append(time.process_time() - start)
    assert min(took) < 2.0  # 0.4 s on an idle core
    assert 96 * KEPT / 2 < len(found) < 96 * KEPT
