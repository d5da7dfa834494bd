"""Labels per trial: short, few and partly unlabelled trials are scored once each, in every fold."""

from dataclasses import replace

import numpy as np
import pytest

from ndt.config import FinetuneConfig
from ndt.data.splits import assign_splits
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.decoders.ensemble import Ensemble
from ndt.errors import InputError
from ndt.evaluation.metrics import score
from ndt.finetune import scoring
from ndt.finetune.session_labels import bins_since_start, can_be_scored, choose_lag, session_labels, too_few
from ndt.intervals import Intervals
from ndt.reports.decoder import section
from ndt.reports.run_files import Decoder
from ndt.session import Session, Spikes, Units
from ndt.target import Target, labelled

BIN, T, N = 0.02, 20, 40
CONTROLS = ("block_permuted", "circularly_shifted")


def mouse(num_trials: int = 114, seed: int = 0, share: float = 0.6) -> Session:
    """Trials of 0.4 s, all that is observed, with a side that 40 % of them lack, and units tuned to the side."""
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=num_trials)
    names = np.where(rng.random(num_trials) < share, np.array(["left", "right"])[side], "")
    rate = 8 * np.exp(0.6 * np.random.default_rng(1).standard_normal((2, N)))
    start = 2.0 + 1.5 * np.arange(num_trials)
    counts = rng.poisson(rate[side] * 0.4)  # (M, N)
    trial, unit = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.ravel(), 1)
    times = start[trial] + rng.uniform(0, 0.4, len(trial))
    order = np.argsort(times)
    trials = Intervals(start, start + 0.4, {"side": names, "contrast": np.where(names == "", np.nan, side + 0.5)})

    return Session(
        session_id="sub-m_ses-1",
        subject="m",
        spikes=Spikes(timestamps=times[order], unit_index=unit[order]),
        units=Units(id=np.array([f"m/{n}" for n in range(N)])),
        observed=Intervals(start, start + 0.4),
        intervals={"trials": trials},
    )


def bins_of(session: Session, fold: int, name: str = "trials/side") -> tuple[BinnedSession, Target]:
    table = session.intervals["trials"]
    number, test = np.arange(len(table)), np.array_split(np.arange(len(table)), 5)[fold - 1]
    before = test[0] if fold > 1 else len(table)  # an eighth before it validates
    valid = (number >= before - (len(table) - len(test)) // 8) & (number < before)
    names = np.where(np.isin(number, test), "test", np.where(valid, "valid", "train"))
    rows = Intervals(table.start, table.end, {**table.columns, "split": names})
    session = assign_splits(replace(session, intervals={"trials": rows}), "trials/split")
    binned = BinnedSession(session, BIN, 1.0)

    return binned, build_targets(binned.session, name, binned.start, BIN, split=binned.split)


def scored(monkeypatch, binned: BinnedSession, target: Target, **options: object) -> scoring.Scored:
    """Scores with a network that knows nothing."""
    network = np.full((len(binned), target.values.shape[1]), 0.5)
    monkeypatch.setattr(scoring, "decode", lambda *_: network)
    config = FinetuneConfig(**({"baselines": CONTROLS} | options))  # without networks, which take minutes

    return scoring.score_session(None, binned, target, binned.split == TRAIN, config)


@pytest.mark.parametrize("fold", [1, 3, 5])
def test_a_trial_counts_once_and_unlabelled_ones_do_not(monkeypatch, fold: int) -> None:
    binned, target = bins_of(mouse(), fold)
    found = scored(monkeypatch, binned, target)
    metrics, p = found.metrics, found.predictions
    known = labelled(target) & (binned.split == TEST)
    assert metrics["test"]["num_trials"] == sum(metrics["test"]["class_counts"]) == known.sum() / T
    assert "num_bins" not in metrics["test"]
    assert metrics["label_trials"] == (labelled(target) & (binned.split == TRAIN)).sum() / T
    assert set(metrics["baselines"]) == {"logistic", *CONTROLS}
    assert metrics["test"]["reference"] == "logistic"
    assert metrics["baselines"]["logistic"]["balanced_accuracy"] > 0.8
    assert metrics["network"]["balanced_accuracy"] == 0.5
    assert metrics["weights"]["logistic"] > 0.8
    # the scores are those of the file of predictions: its labels are the last bins of trials
    again = score(p["true"], p["ensemble"], "class")
    np.testing.assert_allclose(again["log_loss"], metrics["test"]["log_loss"], rtol=1e-6)
    np.testing.assert_array_equal(p["bins_since_start"][np.isfinite(p["true"]).all(1)], T - 1)
    confusion = np.array(metrics["test"]["confusion"])
    np.testing.assert_allclose(confusion.diagonal() / confusion.sum(1), metrics["test"]["recall"], rtol=1e-12)


def test_intervals_of_few_trials_are_finite_and_cover(monkeypatch) -> None:
    shares, trials = [], []
    for fold in range(1, 6):
        for name in ("trials/side", "trials/contrast"):
            binned, target = bins_of(mouse(), fold, name)
            found = scored(monkeypatch, binned, target, baselines=())
            conformal, test = found.ensemble.parts[0].conformal, found.metrics["test"]
            number = int((labelled(target) & (binned.split == VALID)).sum() / T)
            assert np.isfinite(found.predictions["half_width"]).all()
            assert conformal.attained == min(0.9, number / (number + 1))
            assert ("interval_attained" in test) == (number < 9)
            shares.append(test["interval_coverage_90"])
            trials.append(test["num_trials"])
    assert 0.8 < np.average(shares, weights=trials) < 1


def test_the_stored_ensemble_decodes_trials_as_before(monkeypatch, tmp_path) -> None:
    binned, target = bins_of(mouse(), 5)
    found = scored(monkeypatch, binned, target, baselines=())
    found.ensemble.save(tmp_path)
    edges = np.flatnonzero(np.diff(binned.segment)) + 1
    counts = np.split(binned.all_counts(), edges)
    since = np.split(bins_since_start(binned, target.parts[0], 0.0), edges)
    network = np.full((len(binned), 2), 0.5)
    got = Ensemble.load(tmp_path).predict(network, counts, [since])
    np.testing.assert_allclose(got[binned.split == TEST], found.predictions["ensemble"], rtol=1e-6)


def test_bins_are_counted_from_the_start_of_each_row_labelled_or_not() -> None:
    binned, target = bins_of(mouse(), 5)
    np.testing.assert_array_equal(bins_since_start(binned, target.parts[0], 0.0), binned.place)
    half = binned.session.intervals["trials"]
    late = Intervals(half.start + 0.1, half.end - 0.1, half.columns)
    session = replace(binned.session, intervals={**binned.session.intervals, "trials": late})
    shifted = replace_session(binned, session)
    expected = np.where((binned.place >= 5) & (binned.place < 15), binned.place - 5, -1)
    np.testing.assert_array_equal(bins_since_start(shifted, target.parts[0], 0.0), expected)
    np.testing.assert_array_equal(
        bins_since_start(shifted, target.parts[0], 0.06),
        np.where((binned.place >= 2) & (binned.place < 12), binned.place - 2, -1),
    )
    events = Intervals(half.start[::2] + 0.1, half.start[::2] + 0.1, {k: v[::2] for k, v in half.columns.items()})
    session = replace(session, intervals={**session.intervals, "trials": events})
    since = bins_since_start(replace_session(binned, session), target.parts[0], 0.0)
    np.testing.assert_array_equal(since[:T], np.maximum(np.arange(T) - 5, -1))
    np.testing.assert_array_equal(since[T : T + 2], [70, 71])  # 1.4 s after the event: it lasts until the next one


def replace_session(binned: BinnedSession, session: Session) -> BinnedSession:
    return BinnedSession(session, binned.bin_size, 1.0)


def test_too_few_trials_or_classes_are_one_line() -> None:
    session = mouse()
    names = session.intervals["trials"].columns["side"].copy()
    names[:92] = np.where(names[:92] == "", "", "left")
    one = replace(session, intervals={"trials": Intervals(*edges_of(session), {"side": names})})
    config = FinetuneConfig()
    expected = "split: expected trials of at least 2 classes of trials/side, found"
    for fold, name in ((5, "training"), (1, "test")):
        binned, target = bins_of(one, fold)
        assert not can_be_scored(binned, target)
        with pytest.raises(InputError, match=rf"{name} {expected} \d+ trials of left"):
            session_labels(None, binned, "trials/side", config, 1.0)
    few = np.where(np.arange(len(names)) < 111, names, "")
    binned, target = bins_of(replace(session, intervals={"trials": Intervals(*edges_of(session), {"side": few})}), 5)
    assert too_few(target, 0, np.ones(len(binned), bool)) is None
    assert not can_be_scored(binned, target)
    assert can_be_scored(*bins_of(session, 5))


def edges_of(session: Session) -> tuple[np.ndarray, np.ndarray]:
    return session.intervals["trials"].start, session.intervals["trials"].end


def test_trials_choose_no_lag() -> None:
    binned, _ = bins_of(mouse(), 5)
    assert choose_lag(binned, "trials/side", (-0.1, 0.02, 0.1), binned.split == TRAIN, FinetuneConfig()) == (0.02, {})


def test_the_report_shows_trials(monkeypatch) -> None:
    binned, target = bins_of(mouse(), 5)
    found = scored(monkeypatch, binned, target)
    decoder = Decoder(metrics=found.metrics, predictions=found.predictions)
    part = section(decoder).parts[0]
    test = found.metrics["test"]
    assert f"Scores on the same {test['num_trials']} labelled test trials" in part.tables[0].caption
    assert f"Balanced accuracy {test['balanced_accuracy']:.3f} (chance 0.500); trials decoded right: left " in "".join(
        part.text
    )
    assert "gain over logistic is" in part.text[0]
    assert "of test trials" in part.text[-1]
    unfolding, confusion, _ = part.drawings
    assert f"over {test['num_trials']} test trials" in unfolding.caption
    assert f"on {test['num_trials']} test trials" in confusion.caption
    for words in ("time since the trial began", "chance", "logistic regression"):
        assert words in unfolding.svg
