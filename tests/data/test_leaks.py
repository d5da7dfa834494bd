"""Overlaps of sessions: copies, slices and shared units are found, nothing else is, and leaks are refused."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from problems import recording

from ndt.config import FinetuneConfig, ModelConfig, PretrainConfig, TrainConfig
from ndt.data.fingerprint import fingerprint
from ndt.data.leaks import blocks_of, check_base, check_store, read_fingerprint, report_leaks
from ndt.data.overlaps import LEAST, find_overlaps
from ndt.data.splits import split
from ndt.data.store import STORE_VERSION, Store, read_session, write_manifest, write_session
from ndt.errors import InputError
from ndt.finetune.adapt import finetune
from ndt.intervals import Intervals
from ndt.pretrain.train import pretrain
from ndt.session import Session, Spikes, Units
from tests.realdata import DATA, real_file

TRAIN = TrainConfig(steps=2, batch_size=2, valid_every=2)
PRETRAIN = PretrainConfig(
    model=ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8), train=TRAIN, window=1.0
)
FINETUNE = FinetuneConfig(train=TRAIN, freeze_steps=0, max_lag=0.2, baselines=("ridge",))


def population(num_units: int = 24, seconds: float = 400.0, rate_hz: float = 8.0, seed: int = 0, **changes) -> Session:
    """Poisson units whose rates differ by a factor of ten or so, without a covariate."""
    rng = np.random.default_rng(seed)
    rates = rate_hz * rng.lognormal(0.0, 0.6, num_units)
    number = rng.poisson(rates * seconds)
    times, unit = rng.uniform(0, seconds, number.sum()), np.repeat(np.arange(num_units), number)
    order = np.argsort(times)
    fields = {
        "session_id": f"sub-a_ses-{seed}",
        "subject": "a",
        "spikes": Spikes(timestamps=times[order], unit_index=unit[order]),
        "units": Units(id=np.array([f"a/{n}" for n in range(num_units)])),
        "observed": Intervals([0.0], [seconds]),
    }
    return Session(**(fields | changes))


def shifted(session: Session, offset: float) -> Session:
    """The same with another clock."""
    spikes = replace(session.spikes, timestamps=session.spikes.timestamps + offset)
    observed = Intervals(session.observed.start + offset, session.observed.end + offset)
    series = {n: replace(c, timestamps=c.timestamps + offset) for n, c in session.covariates.items()}
    return replace(session, spikes=spikes, observed=observed, covariates=series)


def cut(session: Session, start: float, end: float) -> Session:
    """A slice, its clock set to zero."""
    times = session.spikes.timestamps
    rows = (times >= start) & (times < end)
    series = {}
    for name, c in session.covariates.items():
        some = (c.timestamps >= start) & (c.timestamps < end)
        series[name] = replace(c, timestamps=c.timestamps[some], values=c.values[some])
    spikes = Spikes(timestamps=times[rows], unit_index=session.spikes.unit_index[rows])
    part = replace(session, spikes=spikes, observed=session.observed & Intervals([start], [end]), covariates=series)
    return shifted(part, -start)


def chosen(session: Session, units: np.ndarray) -> Session:
    """Some units, in this order, with other names."""
    row = np.full(session.num_units, -1)
    row[units] = np.arange(len(units))
    unit = row[session.spikes.unit_index]
    spikes = Spikes(timestamps=session.spikes.timestamps[unit >= 0], unit_index=unit[unit >= 0])
    return replace(session, spikes=spikes, units=Units(id=np.array([f"new/{n:03d}" for n in range(len(units))])))


def together(one: Session, other: Session) -> Session:
    """The units of both."""
    times = np.r_[one.spikes.timestamps, other.spikes.timestamps]
    unit = np.r_[one.spikes.unit_index, other.spikes.unit_index + one.num_units]
    order = np.argsort(times, kind="stable")
    spikes = Spikes(timestamps=times[order], unit_index=unit[order])
    return replace(one, spikes=spikes, units=Units(id=np.array([f"u/{n}" for n in range(unit.max() + 1)])))


def overlaps(*sessions: Session):
    return find_overlaps({f"s{i}": fingerprint(s) for i, s in enumerate(sessions)})


def stored(root, **sessions: Session) -> Store:
    """A store of these sessions; each is a file of its own unless its source says otherwise."""
    root.mkdir(parents=True, exist_ok=True)
    entries = {}
    for key, session in sessions.items():
        digest = session.source.get("sha256", key * 4)
        write_session(replace(session, session_id=key, source={"sha256": digest}), root / f"{key}.h5")
        entries[key] = {"source": f"{key}.nwb", "sha256": digest}
    write_manifest(root, {"version": STORE_VERSION, "sessions": entries})
    return Store(root)


@pytest.mark.parametrize("offset", [0.0, 1e6, -123.456])
def test_the_same_recording_is_found_whatever_its_clock(offset) -> None:
    one = population()
    (found,) = overlaps(one, shifted(one, offset))
    assert (found.first, found.second, found.kind, found.num_units) == ("s0", "s1", "same recording", 24)
    assert found.shared == 1
    first, last = one.spikes.timestamps[[0, -1]]
    np.testing.assert_allclose(found.offset, offset, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.first_time, (first, last), rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.second_time, (first + offset, last + offset), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("start", "length"), [(0.0, 150.0), (321.0, 20.0), (0.0, 20.0), (210.0, 190.0)])
@pytest.mark.parametrize("seed", range(3))
def test_prefixes_and_slices_of_a_twentieth_are_found_with_their_times(start, length, seed) -> None:
    one = population(seed=seed)
    part = cut(one, start, start + length)
    (found,) = overlaps(one, part)
    a, b = part.spikes.timestamps[[0, -1]]
    assert found.kind == "slice"
    assert found.shared > 0.9
    np.testing.assert_allclose(found.offset, -start, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.second_time, (a, b), rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.first_time, (a + start, b + start), rtol=0, atol=1e-3)


def test_parts_that_overlap_are_found_with_the_time_that_they_share() -> None:
    one = population()
    (found,) = overlaps(cut(one, 0.0, 250.0), cut(one, 150.0, 400.0))
    assert found.kind == "slice"
    np.testing.assert_allclose(found.first_time, (150, 250), rtol=0, atol=0.02)  # a spike every five milliseconds
    np.testing.assert_allclose(found.second_time, (0, 100), rtol=0, atol=0.02)
    np.testing.assert_allclose(found.shared, 0.4, atol=0.01)


def test_pieces_with_clocks_of_their_own_are_found_each_at_its_offset() -> None:
    one = population()
    segments = [shifted(cut(one, a, a + 100.0), b) for a, b in ((0.0, 0.0), (300.0, 100.0))]
    times, unit = (np.concatenate([getattr(p.spikes, n) for p in segments]) for n in ("timestamps", "unit_index"))
    found = overlaps(one, replace(one, spikes=Spikes(timestamps=times, unit_index=unit)))
    np.testing.assert_allclose([o.offset for o in found], [-200, 0], rtol=0, atol=1e-6)
    # where one segment ends and the next begins the clock alone does not tell: to within a few sampled hashes
    np.testing.assert_allclose([o.first_time for o in found], [(300, 400), (0, 100)], rtol=0, atol=2.0)


@pytest.mark.parametrize("number", [24, 12, 5])
def test_units_in_another_order_renamed_or_left_out_are_the_same_recording(number) -> None:
    one = population()
    units = np.random.default_rng(1).permutation(24)[:number]
    (found,) = overlaps(one, shifted(chosen(one, units), 10.0))
    assert (found.kind, found.num_units) == ("same recording", number)
    assert found.shared > 0.95
    np.testing.assert_allclose(found.offset, 10, rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_few_shared_units_of_many_are_found(number, seed) -> None:
    one, other = population(96, seed=seed), population(96, seed=seed + 100)
    few = together(shifted(chosen(one, np.arange(40, 40 + number)), 5.0), other)
    (found,) = overlaps(one, few)
    assert (found.kind, found.num_units) == ("shared units", number)
    np.testing.assert_allclose(found.offset, 5, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.shared, number / 96, rtol=0.5)


def test_many_copies_are_linked_each_to_the_next() -> None:
    one = population(8, 100.0)
    found = {(o.first, o.second) for o in overlaps(*[shifted(one, float(n)) for n in range(10)])}
    assert {(f"s{n}", f"s{n + 1}") for n in range(9)} <= found


def counted(session: Session, bin_size: float, declared: bool = True) -> Session:
    times = (np.floor(session.spikes.timestamps / bin_size) + 0.5) * bin_size
    order = np.lexsort((session.spikes.unit_index, times))
    spikes = Spikes(timestamps=times[order], unit_index=session.spikes.unit_index[order])
    return replace(session, spikes=spikes, count_bin=bin_size if declared else 0.0)


def test_slices_of_counts_are_found_and_times_are_not_compared_with_counts() -> None:
    one = population(rate_hz=20.0)
    whole = counted(one, 0.02)
    (found,) = overlaps(whole, counted(cut(one, 100.0, 130.0), 0.02))
    assert found.kind == "slice"
    np.testing.assert_allclose(found.offset, -100, rtol=0, atol=1e-6)
    assert overlaps(one, whole) == []


@pytest.mark.parametrize("seed", range(4))
def test_unrelated_sessions_share_nothing(seed) -> None:
    some = [population(40, 300.0, rate, seed=10 * seed + i) for i, rate in enumerate((1.0, 8.0, 8.0, 40.0))]
    some += [counted(s, width, declared) for s in some for width in (0.01, 0.02, 0.05) for declared in (False, True)]
    assert overlaps(*some) == []


def test_periodic_trains_and_empty_sessions_share_nothing() -> None:
    base = population(6, 100.0, seed=3)
    sessions = []
    for n, steps in enumerate(((0.02,), (0.02,), (0.016, 0.017, 0.017), (0.016, 0.017, 0.017), ())):
        times = np.cumsum(np.tile(steps, 1000)) + n
        sessions.append(replace(base, spikes=Spikes(timestamps=times, unit_index=np.zeros(len(times), int))))
    sessions += [sessions[-1], replace(base, units=Units(id=np.zeros(0, str)), spikes=sessions[-1].spikes)]
    assert overlaps(*sessions) == []
    assert overlaps() == []


def test_a_few_hashes_in_common_raise_no_alarm_and_enough_of_them_do() -> None:
    """A run of one unit's spikes that holds fewer grams than it takes, in a session of others; then a longer one."""
    one, other = population(seconds=8.0, seed=0), population(seconds=8.0, seed=1)
    own = np.flatnonzero(one.spikes.unit_index == 3)  # 58 spikes: all its grams are kept
    for number, alarms in ((18, 0), (40, 1)):
        run = 1000 + one.spikes.timestamps[own[:number]]
        spikes = Spikes(
            timestamps=np.r_[other.spikes.timestamps, run],
            unit_index=np.r_[other.spikes.unit_index, np.full(number, other.num_units)],
        )
        units = Units(id=np.array([f"a/{n}" for n in range(other.num_units + 1)]))
        prints = [fingerprint(s) for s in (one, replace(other, spikes=spikes, units=units))]
        common = len(np.intersect1d(*[p.hash for p in prints]))
        assert 0 < common < LEAST if alarms == 0 else common >= LEAST
        assert len(find_overlaps(dict(zip("ab", prints, strict=True)))) == alarms


def test_days_of_one_subject_share_nothing(sim_store) -> None:
    assert report_leaks(sim_store) == []


def test_files_that_are_the_same_are_found_where_spikes_are_not() -> None:
    one, other, empty = population(seed=0), population(seed=1, seconds=500.0), population(rate_hz=0.0)
    prints = {name: fingerprint(s) for name, s in (("a", one), ("b", other), ("c", one), ("d", empty), ("e", empty))}
    found = find_overlaps(prints, {"a": "1", "b": "1", "c": "", "d": "2", "e": "2"})
    assert [(o.first, o.second, o.kind, o.num_units) for o in found] == [
        ("a", "b", "same file", 0),
        ("a", "c", "same recording", 24),
    ]
    np.testing.assert_allclose(found[0].first_time, (0, 500), atol=0.1)
    np.testing.assert_allclose(found[0].second_time, found[0].first_time)
    (found,) = find_overlaps({n: prints[n] for n in "ac"}, {"a": "1", "c": "1"})
    assert (found.kind, found.num_units) == ("same file", 24)


def test_a_file_holds_the_fingerprint_of_its_spikes(tmp_path) -> None:
    one, path = population(6, 100.0), tmp_path / "a.h5"
    write_session(one, path)
    for change in (None, "gone", "cut"):
        if change == "gone":
            with h5py.File(path, "a") as file:
                del file["fingerprint"]
        if change == "cut":  # as another writer would, who knows nothing of fingerprints
            write_session(one, path)
            with h5py.File(path, "a") as file:
                for name in ("timestamps", "unit_index"):
                    values = file[f"spikes/{name}"][:400]
                    del file[f"spikes/{name}"]
                    file[f"spikes/{name}"] = values
        found, expected = read_fingerprint(path), fingerprint(read_session(path))
        for name in ("hash", "unit", "time", "end", "span"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert len(found) > 0
    with pytest.raises(InputError, match=r"b.h5: file: .*found no such file"):
        read_fingerprint(tmp_path / "b.h5")


def test_temporaldata_reads_a_file_with_a_fingerprint(tmp_path) -> None:
    temporaldata = pytest.importorskip("temporaldata", reason="temporaldata, the layout's other reader, is missing")
    write_session(population(6, 100.0), tmp_path / "a.h5")
    data = temporaldata.Data.load(tmp_path / "a.h5", lazy=False)
    np.testing.assert_array_equal(data.fingerprint.hash, read_fingerprint(tmp_path / "a.h5").hash)
    assert len(data.slice(10.0, 20.0).spikes) > 0


def test_a_copy_split_alike_is_trained_on_twice_and_leaks_nothing(tmp_path) -> None:
    one = recording(((0.0, 60.0),), num_units=12)
    store = stored(tmp_path, a=one, b=shifted(one, 1000.0))
    (found,) = report_leaks(store)
    assert (found["kind"], found["leak"], found["exposed_seconds"]) == ("same recording", False, 0)
    np.testing.assert_allclose(found["trained_twice_seconds"], split(one, 2.0).train.duration, atol=0.1)
    assert json.loads(json.dumps(found))["first_time"] == list(found["first_time"])
    with pytest.warns(UserWarning, match=r"a and b share 40\.\d s of training data: same recording: at least 12 units"):
        check_store(store, {"a", "b"}, 2.0)
    check_store(store, {"a"}, 2.0)  # the other's blocks are the same: nothing to say


def test_a_slice_leaks_where_one_trains_on_what_the_other_holds_out(tmp_path) -> None:
    """Of 100 s the last 20 are the test split; a slice that begins at 60 s trains on 28 s of 40, 18 of them held out.

    Validation lies at 70 to 80 s, and of training the last second is guard.
    """
    one = recording(((0.0, 100.0),), num_units=12)
    store = stored(tmp_path, whole=one, part=cut(one, 60.0, 100.0))
    (found,) = report_leaks(store, guard=1.0)
    assert found["leak"]
    trained = Intervals([60.0], [60.0 + 0.7 * 40 - 1.0])  # of the slice, in the clock of the whole
    held = Intervals([69.0], [100.0])
    exposed = (trained & held).duration + (Intervals([87.0], [100.0]) & Intervals([0.0], [69.0])).duration
    np.testing.assert_allclose(found["exposed_seconds"], exposed, atol=0.2)
    told = (
        r"part: training data: expected nothing that whole holds out \(leave one of the two out, or set leaks to warn\)"
        r", found 18\.0 s of it: slice: at least 12 units, 100% of the shorter"
        r", 0\.0\d\d to 40\.000 s of part, 60\.0\d\d to 100\.000 s of whole$"
    )
    for trained in ({"whole", "part"}, {"part"}):
        with pytest.raises(InputError, match=told):
            check_store(store, trained, 1.0)
    with pytest.warns(UserWarning, match=told):
        check_store(store, {"part"}, 1.0, "warn")
    check_store(store, {"whole"}, 1.0)  # which trains on what the slice trains on


def test_shared_units_leak_where_their_time_does(tmp_path) -> None:
    one, other = (recording(((0.0, 60.0),), num_units=12, seed=s) for s in (0, 1))
    both = together(chosen(one, np.arange(3)), other)
    back = shifted(both, 25.0)
    series = {"vel": replace(other.covariates["vel"])}
    moved = replace(back, observed=Intervals([0.0], [85.0]), covariates={})  # nothing of others before 25 s
    with pytest.raises(InputError, match="shared units: at least 3 units, "):
        check_store(stored(tmp_path / "a", a=replace(one, covariates={}), b=moved), {"a", "b"}, 1.0)
    with pytest.warns(UserWarning, match="share .* of training data: shared units: at least 3 units, "):
        check_store(stored(tmp_path / "b", a=one, b=replace(both, covariates=series)), {"a", "b"}, 1.0)


def test_what_is_kept_for_evaluation_or_cannot_be_split_is_held_out_throughout(tmp_path) -> None:
    one = recording(((0.0, 60.0),), num_units=12)
    store = stored(tmp_path / "a", a=one, b=one)
    check_store(store, {"a"}, 1.0)
    store.manifest["sessions"]["b"]["role"] = "evaluate"
    with pytest.raises(InputError, match="a: training data: expected nothing that b holds out"):
        check_store(store, {"a"}, 1.0)
    short = cut(one, 10.0, 18.0)
    assert blocks_of(short, 3.0).held_out.duration == pytest.approx(8.0)
    with pytest.raises(InputError, match="a: training data: expected nothing that b holds out"):
        check_store(stored(tmp_path / "b", a=one, b=short), {"a"}, 3.0)


def test_pretraining_refuses_and_can_be_told_to_go_on(tmp_path) -> None:
    one = recording(((0.0, 100.0),), num_units=12)
    store = stored(tmp_path / "store", whole=one, part=cut(one, 60.0, 100.0))
    with pytest.raises(InputError, match="part: training data: expected nothing that whole holds out"):
        pretrain(store, tmp_path / "run", PRETRAIN, progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.warns(UserWarning, match="part: training data: expected nothing that whole holds out"):
        pretrain(store, tmp_path / "run", replace(PRETRAIN, leaks="warn"), progress=False)
    assert (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(InputError, match=r"settings: pretrain\.leaks: expected refuse or warn, found no"):
        replace(PRETRAIN, leaks="no")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model pretrained on the last 70 s of a recording, and the whole of it in 100 s."""
    one = recording(((0.0, 100.0),), num_units=12)
    root = tmp_path_factory.mktemp("leaks")
    store = stored(root / "store", late=cut(one, 30.0, 100.0), other=recording(seed=5))
    return pretrain(store, root / "run", PRETRAIN, progress=False), one


def test_finetuning_refuses_what_the_base_model_saw_of_its_held_out_blocks(base, tmp_path) -> None:
    """It saw 48 s from 30 s on, of which validation and the guard before it hold out 69 to 78 s."""
    model, one = base
    store = stored(tmp_path / "store", whole=one, late=one, new=recording(seed=9))
    for name in ("whole", "late"):  # another store's sessions may have the same names
        with pytest.raises(InputError, match=rf"training data: expected nothing that {name} holds out .* found 9\.0 s"):
            finetune(model, name, "vel", out=tmp_path / "run", store=store, config=FINETUNE, progress=False)
    assert not (tmp_path / "run").exists()
    told = replace(FINETUNE, leaks="warn")
    with pytest.warns(UserWarning, match="expected nothing that whole holds out"):
        finetune(model, "whole", "vel", out=tmp_path / "run", store=store, config=told, progress=False)
    finetune(model, "new", "vel", out=tmp_path / "new", store=store, config=FINETUNE, progress=False)
    finetune(model, "late", "vel", out=tmp_path / "late", config=FINETUNE, progress=False)  # in the model's own store


def test_files_alone_are_compared_where_the_base_models_store_is_gone(base, tmp_path) -> None:
    model, one = base
    copy = shutil.copytree(model.store, tmp_path / "moved")
    store, data, gone = Store(copy), model.spec.data, tmp_path / "gone"
    check_base(data, gone, store, "late", 1.0)  # the same file under the same name
    check_base(data, None, store, "late", 1.0)
    known, changed = (replace(one, source={"sha256": digest}) for digest in (data["late"], "1"))
    other = stored(tmp_path / "other", again=known, late=changed)
    told = (
        r"again: training data: expected a base model trained on this file under the same name only.* found it as late"
    )
    with pytest.raises(InputError, match=told):
        check_base(data, gone, other, "again", 1.0)
    with pytest.warns(UserWarning, match=told):
        check_base(data, gone, other, "again", 1.0, "warn")
    check_base(data, gone, other, "late", 1.0)  # another file now; nothing is known of the one that it was


def test_splits_of_a_run_need_a_base_model_that_saw_nothing_of_the_session(base, tmp_path) -> None:
    """The base model was trained on 48 s of the recording, and held out the rest of it."""
    model, one = base
    data, own, guard = model.spec.data, Store(model.store), 1.0
    told = r"late: split: expected a base model that was not trained on this session.* found one that was"
    with pytest.raises(InputError, match=told):
        check_base(data, model.store, own, "late", guard, own_splits=True)
    with pytest.warns(UserWarning, match=told):
        check_base(data, model.store, own, "late", guard, "warn", own_splits=True)
    changed = replace(one, source={"sha256": "1"})  # another file of the same name
    some = {"new": recording(seed=9), "early": cut(one, 0, 25), "end": cut(one, 82, 100)}
    store = stored(tmp_path, whole=one, late=changed, **some)
    for name in ("whole", "late"):
        with pytest.raises(InputError, match=rf"expected nothing that {name} holds out .* found 48\.0 s"):
            check_base(data, model.store, store, name, guard, own_splits=True)
    for name in some:
        check_base(data, model.store, store, name, guard, own_splits=True)


@pytest.mark.slow
@pytest.mark.real
def test_real_recordings_share_nothing_but_a_slice_of_one_is_found() -> None:
    from ndt.data.read.nwb import read_nwb

    real_file("sub-m1/*.nwb")
    sessions = {path.stem: read_nwb(path) for path in sorted(DATA.glob("sub-*/*.nwb"))}
    prints = {name: fingerprint(s) for name, s in sessions.items()}
    assert len(prints) == 5
    assert find_overlaps(prints) == []
    for name, one in sessions.items():
        a, b = one.spikes.timestamps[[0, -1]]
        start = a + 0.6 * (b - a)
        end = start + 0.05 * (b - a)
        (found,) = find_overlaps(prints | {"slice": fingerprint(cut(one, start, end))})
        assert {found.first, found.second} == {name, "slice"}
        assert found.kind == "slice"
        np.testing.assert_allclose(abs(found.offset), start, rtol=0, atol=1e-6)
