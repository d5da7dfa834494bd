"""``ndt bench transfer``: its cases, its controls, and the rows that it makes of them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import TINY, busy_model, recording, specification
from realdata import real_file

from ndt.benchmarks import transfer as bench
from ndt.benchmarks.encoder_controls import contextless, noised, permuted
from ndt.benchmarks.transfer import QUESTIONS, SIDE, Case, pooled, transfer
from ndt.benchmarks.transfer_rows import draw, rows
from ndt.config import FinetuneConfig, PretrainConfig, StudyConfig, TrainConfig
from ndt.data.store import Store
from ndt.data.stored_masks import VALID_MASKS
from ndt.errors import InputError


def test_folds_are_pooled_over_trials_of_each_class() -> None:
    folds = [{"recall": [1.0, 0.5], "class_counts": [1, 4]}, {"recall": [0.0, float("nan")], "class_counts": [3, 0]}]
    assert pooled(folds) == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert pooled([{"r2": 0.5}]) == 0.5


def test_rows_pair_sessions_and_name_what_they_compare(tmp_path: Path) -> None:
    rng, found = np.random.default_rng(0), {}
    score = {}
    for labels in QUESTIONS["animal"]:
        for session in ("a", "b", "c"):
            for fold in (1, 2):
                for seed in (0, 1):
                    each = {v: 0.5 + 0.4 * rng.random() for v in ("pretrained", "noise")}
                    score[labels, session, fold, seed] = each
                    found[Case("animal", session, fold, labels, seed)] = {
                        v: {"recall": [r, r], "class_counts": [5, 5]} for v, r in each.items()
                    }
    table = {row["name"]: row for row in rows("animal", found)}
    assert set(table) == {f"transfer.animal.{n}.{v}" for n in ("0", "20", "all") for v in ("pretrained", "noise")}
    gain = [
        np.mean([s["pretrained"] - s["noise"] for (n, at, *_), s in score.items() if (n, at) == (20, session)])
        for session in ("a", "b", "c")
    ]
    noise = table["transfer.animal.20.noise"]
    assert noise["difference"] == pytest.approx(np.mean(gain))
    assert noise["standard_error"] == pytest.approx(np.std(gain, ddof=1) / 3**0.5)
    bits = {f"{k}/bits_per_spike{of}": v for k in VALID_MASKS for of, v in (("", 0.2), ("_smoother", 0.1))}
    found = {case: s | {"likelihood": bits} for case, s in found.items()}
    (unit,) = (r for r in rows("animal", found) if r["name"] == "transfer.animal.bits.unit")
    assert unit["peer"] == "smoother"
    assert (unit["value"], unit["ratio"]) == (pytest.approx(0.2), pytest.approx(2.0))
    draw(rows("animal", found), tmp_path / "transfer.png")
    assert (tmp_path / "transfer.png").stat().st_size > 1000


def test_noise_replaces_the_encoder_alone_and_identities_are_permuted() -> None:
    session = recording(num_units=5)
    model = busy_model(specification([session], dims=2, config=TINY))
    noise, before = dict(noised(model, 1).named_parameters()), dict(model.named_parameters())
    outside = ("identity.", "context", "rates.", "heads.")  # all else lies between counts and latents
    for name, weight in before.items():
        assert torch.equal(weight, noise[name]) == (name.startswith(outside) or not bool(weight.any()))
    other = permuted(model, session, 3)
    rows_of = torch.from_numpy(model.rows(session).unit)
    assert not torch.equal(other.identity.residual, model.identity.residual)
    for name in ("residual", "activity"):
        mine, theirs = (getattr(m.identity, name)[rows_of] for m in (model, other))
        mine, theirs = (x[:, 1:] if name == "activity" else x for x in (mine, theirs))
        assert sorted(map(tuple, mine.tolist())) == sorted(map(tuple, theirs.tolist()))
    torch.testing.assert_close(other.identity.activity[:, 0], model.identity.activity[:, 0])


def test_without_contexts_what_is_known_of_them_is_zero() -> None:
    model = busy_model(specification([recording(num_units=5)], dims=2, config=TINY))
    after, before = dict(contextless(model).named_parameters()), dict(model.named_parameters())
    assert [name for name, weight in before.items() if not torch.equal(weight, after[name])] == ["context"]
    assert not after["context"].any()


def test_a_fold_in_which_the_fewest_labels_lack_a_class_gives_way_to_the_next(monkeypatch) -> None:
    left, both = np.array([[1.0, 0.0], [1.0, 0.0], [np.nan, np.nan]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])

    def labels(base, binned, target, config, window):
        assert (config.label_seconds, target) == (4.0, SIDE)  # ten trials
        if binned == 3:
            raise InputError("a", "validation split", "at least 4 trials", "3")
        return SimpleNamespace(values=(left, both, left, both, both)[binned]), np.array([True, True, False]), {}

    monkeypatch.setattr(bench, "session_labels", labels)
    monkeypatch.setattr(bench, "BinnedSession", lambda recording, *_: recording)
    monkeypatch.setattr(bench, "default_bin_size", lambda recordings: 0.02)
    folds = [SimpleNamespace(session=lambda name, k=k: k) for k in range(5)]
    assert [bench._labelled_fold(folds, "a", first) for first in range(7)] == [2, 2, 5, 5, 5, 2, 2]
    monkeypatch.setattr(bench, "session_labels", lambda *_: (SimpleNamespace(values=left), np.ones(3, bool), {}))
    with pytest.raises(InputError, match="each class"):
        bench._labelled_fold(folds, "a", 0)


def test_every_session_and_animal_is_left_out_once_and_fine_tuning_gets_its_labels(monkeypatch, tmp_path) -> None:
    names = [f"sub-{animal}_ses-{n}" for animal in "AB" for n in range(3)]
    store = Store.__new__(Store)
    store.root = tmp_path / "store"
    monkeypatch.setattr(Store, "session_ids", property(lambda self: names))
    monkeypatch.setattr(bench, "mouse_stores", lambda out: (store, [store] * 5))
    monkeypatch.setattr(bench, "_labelled_fold", lambda folds, session, first: 1 + first % len(folds))
    bases, tuned = {}, []

    def pretrained(root, folder, config) -> None:
        bases[folder] = set(config.sessions)

    def decoded(variant, folder, base, root, case, target, config) -> dict:
        assert config.label_seconds == pytest.approx((case.labels or 0) * 0.4)
        assert (config.strategy == "none") == (case.labels == 0)
        if variant == "pretrained":
            assert case.session not in bases[base]
        if variant == "own":
            assert bases[base] == {case.session}
        tuned.append((variant, case))
        return {variant: {"recall": [1.0, 1.0], "class_counts": [1, 1]}}

    monkeypatch.setattr(bench, "pretrained", pretrained)
    monkeypatch.setattr(bench, "_decoded", decoded)
    monkeypatch.setattr(bench, "run_all", lambda jobs, *_: [job() for job in jobs])
    table = transfer(tmp_path, 1, StudyConfig(data=("session", "animal")))
    assert len(tuned) == len(set(tuned))
    assert {case.session for _, case in tuned} == set(names)
    for base, others in bases.items():
        if "animal" in base.parts and "base" in base.parts:
            assert len({name[:5] for name in others}) == 1
    assert {row["value"] for row in table} == {1.0}
    with pytest.raises(InputError, match="some of session, animal, day"):
        transfer(tmp_path, 1, StudyConfig(data=("m1",)))


@pytest.mark.slow
def test_the_second_day_of_a_recording_is_decoded_by_all_variants(monkeypatch, tmp_path) -> None:
    """Everything is run, for a few steps: the rows exist, the pretrained network is neither noise nor permuted."""
    real_file("sub-chewie/*20131003*.nwb")
    small = TrainConfig(steps=30, batch_size=8, warmup_steps=5, valid_every=15)
    model = replace(TINY, width=32, units_per_patch=256)
    study = StudyConfig(
        data=("day",),
        pretrain=PretrainConfig(model=model, train=small),
        finetune=FinetuneConfig(model=model, train=small, max_lag=0.3),
    )
    published = bench._published()
    short = replace(published, train=replace(small, steps=4, valid_every=4), model=replace(published.model, width=32))
    monkeypatch.setattr(bench, "_published", lambda: short)
    monkeypatch.setitem(QUESTIONS, "day", (0, 15))
    table = {row["name"]: row["value"] for row in transfer(tmp_path, 1, study)}
    zero, few = ({name.split(".")[3] for name in table if name.startswith(f"transfer.day.{n}.")} for n in ("0", "15"))
    assert zero == {"pretrained", "noise", "permuted", "contextless"}
    assert {name for name in table if ".bits." in name} == {f"transfer.day.bits.{k}" for k in VALID_MASKS}
    assert few == zero | {"scratch", "own", "ndt2", "ridge", "tcn", "gru"}
    assert len(set(table.values())) == len(table)  # no variant is another one under its name
    assert table["transfer.day.15.pretrained"] > max(table["transfer.day.15.noise"], 0.1)
    again = {row["name"]: row["value"] for row in transfer(tmp_path, 1, study)}  # resumed: nothing is trained
    assert again == table
