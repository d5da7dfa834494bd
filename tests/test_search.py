"""The search for settings: its candidates, its race, its honesty, and what is said of the winner."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_finetune import FakeFinetune, small_store
from hypothesis import given
from hypothesis import strategies as st
from joblib import parallel_config
from problems import busy_model, specification

from ndt.config import FinetuneConfig, ModelConfig, TrainConfig
from ndt.errors import InputError
from ndt.finetune.adapt import finetune
from ndt.finetune.search import search
from ndt.finetune.space import SPACE, Range, draw, read_space
from ndt.page import render
from ndt.search_record import Candidate, SearchRecord, read_search, section, sentences, table
from ndt.search_record import draw as draw_record
from ndt.session import Spikes
from ndt.tables import show_search

CONFIG = FinetuneConfig(train=TrainConfig(steps=7, learning_rate=0.003), mask_ratio=0.2, seed=4)
STATED = {"mask_ratio": {"low": 0.0, "high": 0.9}, "train.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
FILE = Path(__file__).resolve().parents[1] / "configs" / "finetune" / "search.yaml"


def score(scratch: bool, config: FinetuneConfig) -> float:
    """Best at a mask ratio of 0.6, and 0.001 better for each seed."""
    return 0.8 - (config.mask_ratio - 0.6) ** 2 + 0.001 * config.seed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("small") / "store")


def found(store, out, **options) -> SearchRecord:
    options = {"config": CONFIG, "space": STATED, "trials": 8, "seeds": 3} | options
    base = options.pop("base", None)

    return search(base, store.session_ids[0], "vel", out=out, store=store, progress=False, **options)


# The space


@given(
    st.floats(1e-6, 1e3), st.floats(1.5, 1e3), st.booleans(), st.floats(0, 1, exclude_max=True), st.integers(2, 10**6)
)
def test_a_range_holds_its_draws_and_goes_up(low, factor, log, u, whole) -> None:
    for axis in (
        Range(low=low, high=low * factor, log=log),
        Range(low=1, high=whole, log=log, whole=True),
        Range(low=-3, high=whole, whole=True),
    ):
        at = axis.at(u)
        assert axis.low <= at <= axis.high
        assert axis.at(u / 2) <= at
        if axis.whole:
            assert isinstance(at, int)


def test_draws_by_hand() -> None:
    assert [Range(low=0.0, high=2.0).at(u) for u in (0.0, 0.25, 0.12345)] == [0.0, 0.5, 0.247]
    assert [Range(low=0.001, high=0.1, log=True).at(u) for u in (0.0, 0.5)] == [0.001, 0.01]
    whole = Range(low=1, high=3, whole=True)  # a third each
    assert [whole.at(u) for u in (0.0, 0.33, 0.34, 0.66, 0.67, 0.999)] == [1, 1, 2, 2, 3, 3]
    log = Range(low=1, high=3, log=True, whole=True)  # 1, 2 and 3 begin at log 1, log 2 and log 3, of log 4
    assert [log.at(u) for u in (0.0, 0.49, 0.51, 0.79, 0.80, 0.999)] == [1, 1, 2, 2, 3, 3]


def test_candidates_are_a_function_of_seed_and_number() -> None:
    space, _ = read_space(STATED, CONFIG, pretrained=False)
    first = [draw(space, CONFIG, 4, n) for n in range(16)]
    assert [draw(space, CONFIG, 4, n) for n in reversed(range(40))][::-1][:16] == first
    assert first[0] == {"mask_ratio": 0.2, "train.learning_rate": 0.003}  # as given
    assert len({tuple(c.values()) for c in first}) == 16
    assert draw(space, CONFIG, 5, 3) != first[3]
    longer, _ = read_space(STATED | {"unit_dropout": [0.0, 0.5]}, CONFIG, pretrained=False)
    assert [{k: draw(longer, CONFIG, 4, n)[k] for k in STATED} for n in range(16)] == first


def test_candidates_fill_the_space_evenly() -> None:
    """Of 1 … 64, each eighth of each axis has 7 to 9: one point of the sequence's first 64 is the settings as given."""
    space, _ = read_space(STATED, CONFIG, pretrained=False)
    drawn = [draw(space, CONFIG, 0, n) for n in range(1, 64)]
    places = np.array([[c["mask_ratio"] / 0.9, np.log(c["train.learning_rate"] / 0.001) / np.log(100)] for c in drawn])
    for axis in places.T:
        counts = np.histogram(axis, 8, (0, 1))[0]
        assert counts.min() >= 6
        assert counts.max() <= 9


def test_the_file_of_the_repository_is_the_default_space() -> None:
    assert yaml.safe_load(FILE.read_text()) == SPACE
    for pretrained in (False, True):
        space, left_out = read_space(SPACE, FinetuneConfig(), pretrained=pretrained)
        assert any(name.startswith("model.") for name in space) != pretrained
        assert ("trunk_rate" in space) == pretrained
        assert len(left_out) == 1


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        ({"train.stepz": [1]}, r"s\.yaml: space\.train\.stepz: expected one of: steps, .*, found an unknown setting"),
        ({"train.steps": [1, "many"]}, r"space\.train\.steps: expected int, found 'many'"),
        ({"train.steps": {"low": 1.5, "high": 3}}, r"space\.train\.steps: expected int, found 1\.5"),
        ({"mask_ratio": {"low": 0.1, "high": 2.0}}, r"space\.mask_ratio: expected 0 to 0\.99, found 2"),
        ({"mask_ratio": {"low": 0.5, "high": 0.5}}, r"space\.mask_ratio: expected low below high"),
        ({"mask_ratio": {"low": 0, "high": 0.5, "log": True}}, r"space\.mask_ratio: expected low above 0 and below"),
        ({"mask_ratio": {"low": 0.1}}, r"space\.mask_ratio: expected a list of values, or low, high and perhaps log"),
        ({"mask_ratio": {"low": 0.1, "high": 0.2, "lin": 1}}, r"space\.mask_ratio: expected a list of values, or low"),
        ({"mask_ratio": []}, r"space\.mask_ratio: expected a list of values"),
        ({"mask_ratio": 0.5}, r"space\.mask_ratio: expected a list of values"),
        ({"fresh_contexts": {"low": False, "high": True}}, r"space\.fresh_contexts: expected a list of values"),
        ({"seed": [1, 2]}, r"space\.seed: expected a setting that candidates may differ in"),
        ({"window": [1.0, 2.0]}, r"space\.window: expected a setting that candidates may differ in"),
        ({"train": [1]}, r"space\.train: expected settings"),
        ([], "space: expected settings and their ranges"),
        ({"still_steps": [1, 2]}, "space: expected settings that do something, found still_steps: nothing is pretr"),
    ],
)
def test_spaces_that_are_not_one_are_refused_by_name(stated, match, store, tmp_path, monkeypatch) -> None:
    fake = FakeFinetune(score).use(monkeypatch)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(stated))
    with pytest.raises(InputError, match=match):
        found(store, tmp_path / "out", space=tmp_path / "s.yaml")
    assert fake.calls == []


def test_a_space_that_cannot_be_read_is_refused(store, tmp_path) -> None:
    (tmp_path / "s.yaml").write_text("a: {")
    for path in (tmp_path / "s.yaml", tmp_path / "none.yaml"):
        with pytest.raises(InputError, match=r"\.yaml: space: expected a YAML file"):
            found(store, tmp_path / "out", space=path)
    for options in ({"trials": 0}, {"seeds": 0}, {"workers": 0}):
        with pytest.raises(InputError, match="expected at least 1, found 0"):
            found(store, tmp_path / "out", **options)


# The race


def test_the_best_half_goes_on_and_the_best_of_all_seeds_wins(store, tmp_path, monkeypatch) -> None:
    """Of eight, four go on, then two; number 0 goes on whatever it scores. Only the winner's run is scored on test."""
    fake = FakeFinetune(score).use(monkeypatch)
    record = found(store, tmp_path)
    order = sorted(range(8), key=lambda n: -score(True, replace(CONFIG, **_own(record.candidates[n]))))
    assert record.winner == order[0]
    for c in record.candidates:
        place = order.index(c.number)
        expected = 3 if c.number == 0 or place < 2 else 2 if place < 4 else 1
        assert len(c.valid) == expected
        np.testing.assert_allclose(
            c.valid, [score(True, replace(CONFIG, seed=4 + s, **_own(c))) for s in range(expected)]
        )
        assert c.seconds == 2.0 * expected
    *runs, last = fake.calls
    assert [c.test for c in runs] == [False] * len(runs)
    assert (last.test, last.folder, last.config.seed) == (True, tmp_path, 4)
    assert last.config.mask_ratio == record.settings["mask_ratio"]
    assert len(runs) == sum(len(c.valid) for c in record.candidates)
    np.testing.assert_allclose(record.valid, record.candidates[record.winner].valid[0])
    np.testing.assert_allclose(record.optimism, 0.05)
    assert read_search(tmp_path) == record


def _own(candidate: Candidate) -> dict[str, float]:
    return {"mask_ratio": candidate.settings["mask_ratio"]}


def test_without_halving_all_have_all_seeds(store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    record = found(store, tmp_path / "all", halving=False)
    assert [len(c.valid) for c in record.candidates] == [3] * 8
    assert record.winner == found(store, tmp_path / "half").winner  # seeds here shift all candidates alike
    assert found(store, tmp_path / "one", trials=1).winner == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers, store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    with parallel_config(backend="threading"):  # where the fake is known
        record = found(store, tmp_path / "many", workers=workers)
    assert record == found(store, tmp_path / "here")


def test_what_has_ended_is_not_done_again(store, tmp_path, monkeypatch) -> None:
    whole = FakeFinetune(score).use(monkeypatch)
    expected, calls = found(store, tmp_path / "whole"), []
    for stop_at in (3, 8, 5, 0):
        fake = FakeFinetune(score, stop_at=stop_at).use(monkeypatch)
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                found(store, tmp_path / "cut")
            calls += fake.calls[:-1]
        else:
            assert found(store, tmp_path / "cut") == expected
            calls += fake.calls
    assert len({c.folder for c in calls}) == len(calls) == len(whole.calls)
    fake = FakeFinetune(score).use(monkeypatch)
    assert found(store, tmp_path / "cut") == expected
    assert fake.calls == []


def test_more_trials_go_on_where_fewer_ended(store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    fewer = found(store, tmp_path, seeds=1)
    fake = FakeFinetune(score).use(monkeypatch)
    more = found(store, tmp_path, seeds=1, trials=12)
    assert more.candidates[:8] == fewer.candidates
    new = [c.folder.relative_to(tmp_path).parts[1] for c in fake.calls if not c.test]
    assert new == ["008", "009", "010", "011"]
    assert [c.test for c in fake.calls].count(True) == (more.winner != fewer.winner)


def test_the_winners_run_takes_the_place_of_an_earlier_one_and_of_nothing_else(store, tmp_path, monkeypatch) -> None:
    """Another seed, another winner: metrics.json must be of this search, and notes beside it must stay."""
    FakeFinetune(score).use(monkeypatch)
    found(store, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    fake = FakeFinetune(lambda scratch, config: config.train.learning_rate).use(monkeypatch)
    record = found(store, tmp_path, config=replace(CONFIG, seed=9))
    assert fake.calls[-1].folder == tmp_path
    np.testing.assert_allclose(json.loads((tmp_path / "metrics.json").read_text())["valid"]["network"], record.valid)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_candidate_that_fails_is_out_and_the_settings_as_given_may_not(store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score, explode=lambda config: config.mask_ratio > 0.5).use(monkeypatch)
    record = found(store, tmp_path / "a")
    bad = [c for c in record.candidates if c.settings["mask_ratio"] > 0.5]
    assert bad
    assert all(c.failed and not c.valid for c in bad)
    assert record.settings["mask_ratio"] <= 0.5
    told = " ".join(sentences(record))
    assert f"Candidate {bad[0].number} failed: loss at step 3: expected a finite number" in told
    assert str(tmp_path) not in told  # pages are passed on
    assert [row[1] for row in table(record)[1]][-len(bad) :] == ["failed"] * len(bad)

    FakeFinetune(lambda *_: float("nan"), explode=lambda config: config.mask_ratio > 0.5).use(monkeypatch)
    with pytest.raises(InputError, match="validation block: expected labels that vary"):
        found(store, tmp_path / "nan")
    FakeFinetune(score, explode=lambda config: True).use(monkeypatch)
    with pytest.raises(InputError, match="loss at step 3"):
        found(store, tmp_path / "c")


def test_settings_that_do_nothing_are_left_out_and_it_is_said(store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    stated = STATED | {"model.dropout": [0.0, 0.1], "still_steps": [0, 5]}
    base = busy_model(specification([store.session(store.session_ids[0])]))
    tuned = found(store, tmp_path / "a", space=stated, base=base, trials=2)
    assert list(tuned.space) == [*STATED, "still_steps"]
    assert tuned.left_out == ["Not searched: model.dropout; a pretrained model brings its own architecture."]
    scratch = found(store, tmp_path / "b", space=stated, trials=2)
    assert list(scratch.space) == [*STATED, "model.dropout"]
    assert scratch.left_out == ["Not searched: still_steps; nothing is pretrained."]


def test_a_search_never_takes_the_place_of_its_base(store, tmp_path) -> None:
    busy_model(specification([store.session(store.session_ids[0])])).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="another folder than the base model's"):
        found(store, tmp_path, base=tmp_path)


# What is said of it


def candidate(number: int, mask_ratio: float, width: int, valid: list[float], failed: str = "") -> Candidate:
    settings = {"mask_ratio": mask_ratio, "model.width": width}
    return Candidate(number=number, settings=settings, valid=valid, seconds=10.0 * len(valid), failed=failed)


RECORD = SearchRecord(
    session="a", covariate="vel", seeds=[0, 1], halving=True, winner=2, valid=0.70, left_out=["Not searched: x."],
    space={"mask_ratio": {"low": 0.01, "high": 0.9, "log": True}, "model.width": [64, 96]},
    candidates=[
        candidate(0, 0.2, 128, [0.60, 0.62]), candidate(1, 0.05, 64, [0.10]), candidate(2, 0.4, 96, [0.70, 0.64]),
        candidate(3, 0.6, 96, [0.65, 0.66]), candidate(4, 0.8, 64, [], "it exploded"),
    ],
    test={"network": 0.625, "delivered": 0.66, "ridge": 0.5},
)  # fmt: skip


def test_table_by_hand() -> None:
    head, rows = table(RECORD)
    assert head == ["candidate", "validation R²", "seeds", "mask ratio", "width", "seconds"]
    assert rows == [
        ["2 (won)", "0.670", "2", "0.4", "96", "20"],
        ["3", "0.655", "2", "0.6", "96", "20"],
        ["0 (as given)", "0.610", "2", "0.2", "128", "20"],
        ["1", "0.100", "1", "0.05", "64", "10"],
        ["4", "failed", "0", "0.8", "64", "0"],
    ]


def test_spread_gain_and_optimism_by_hand() -> None:
    """First seed: 0.60, 0.10, 0.70, 0.65, median 0.625.

    Between seeds: variances 0.0002, 0.0018 and 0.00005 of two seeds each, so their mean is 0.00068 and the deviation
    0.026. To the settings as given: differences 0.10 and 0.02, mean 0.06, standard error 0.04.
    """
    spread, gain, worth, *rest = sentences(RECORD)
    assert "5 candidates, the first as given" in spread
    assert "the better half went on" in spread
    assert "0.100 to 0.700, with median 0.625; over seeds, one candidate's scores" in spread
    assert spread.endswith("standard deviation of 0.026.")
    assert gain == (
        "Candidate 2 won with 0.670 on validation; as given it was 0.610 (difference in paired seeds +0.060 ± 0.040)."
    )
    assert "has R² 0.625 there and 0.700 on validation, a difference of +0.075" in worth
    assert worth.endswith("Delivered with ridge: 0.660; ridge: 0.500.")
    assert rest == ["Not searched: x.", "Candidate 4 failed: it exploded."]
    np.testing.assert_allclose(RECORD.optimism, 0.075)


def test_settings_as_given_may_win() -> None:
    record = replace(RECORD, winner=0)
    assert sentences(record)[1] == (
        "The settings as given won, with 0.610 on validation: nothing tried was better."
    )  # fmt: skip
    assert table(record)[1][2][0] == "0 (won, as given)"


def test_figure_has_a_panel_a_setting_and_says_what_is_below_its_axis() -> None:
    drawing = draw_record(RECORD)
    for words in ("mask ratio", "width", "validation R²", "all seeds", "fewer seeds", "as given", "winner"):
        assert f">{words}<" in drawing.svg
    labels = re.findall(r"<text[^>/]*>([^<]+)<", drawing.svg)
    assert {"64", "96", "128"} <= set(labels)  # 128 is not in the list, but given
    assert drawing.caption.endswith("Below it: candidate 1 (0.10).")  # 0.57 under the best
    assert draw_record(replace(RECORD, candidates=[RECORD.candidates[0]], winner=0)).caption.endswith("not at 0.")


def test_page_and_command_line_show_the_search(store, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    FakeFinetune(score).use(monkeypatch)
    record = found(store, tmp_path, trials=12)
    show_search({"run": str(tmp_path)})
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{record.winner} (won)" in shown
    assert "… and 4 more in search.json" in shown
    assert "Only the winner was scored on the test block, once" in shown
    text = render("t", "s", [section(record)])
    assert f"<td>{record.winner} (won)</td>" in text
    assert "the mean over seeds, against each setting" in text


def test_record_of_another_form_is_refused(tmp_path) -> None:
    assert read_search(tmp_path) is None
    for text in ('{"session": "a"}', '{"candidates": [{"x": 1}], "test": {}}', '{"candidates": 3, "test": 1}'):
        (tmp_path / "search.json").write_text(text)
        with pytest.raises(InputError, match=r"search\.json: content: expected what `ndt finetune --search`"):
            read_search(tmp_path)


# Its honesty, with the real fine-tuning


SHORT = FinetuneConfig(
    train=TrainConfig(steps=4, batch_size=4, valid_every=2, warmup_steps=1),
    model=ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8),
    decoder_steps=4,
    window=1.0,
    max_lag=0.1,
    baselines=("ridge",),
)


def _spoilt(session):
    """The session with other spikes and other labels in its test block."""
    from ndt.data.splits import split

    start, rng = split(session, 1.0).test.start[0], np.random.default_rng(0)
    (series,), spikes = session.covariates.values(), session.spikes
    late = series.timestamps >= start
    values = np.where(late[:, None], rng.standard_normal(series.values.shape), series.values)
    units = np.where(spikes.timestamps >= start, rng.integers(5, size=len(spikes.timestamps)), spikes.unit_index)

    return replace(
        session,
        spikes=Spikes(timestamps=np.array(spikes.timestamps), unit_index=units),
        covariates={series.name: replace(series, values=values)},
    )


@pytest.mark.slow
def test_nothing_in_the_test_block_moves_the_choice(store, tmp_path, monkeypatch) -> None:
    """Garbage there leaves every candidate's score as it was to the bit, and changes what the winner is worth."""
    options = {"config": SHORT, "trials": 3, "seeds": 1, "space": STATED}
    clean = found(store, tmp_path / "clean", **options)
    session = _spoilt(store.session(store.session_ids[0]))
    monkeypatch.setattr(type(store), "session", lambda self, _: session)
    spoilt = found(store, tmp_path / "spoilt", **options)
    assert [c.valid for c in spoilt.candidates] == [c.valid for c in clean.candidates]
    assert (spoilt.winner, spoilt.valid) == (clean.winner, clean.valid)
    assert spoilt.test["network"] != clean.test["network"]
    assert clean.valid == clean.candidates[clean.winner].valid[0]  # fitted once more, it is the same network
    for path in (tmp_path / "clean" / "search").rglob("metrics.json"):
        found_metrics = json.loads(path.read_text())
        assert set(found_metrics["valid"]) == {"network"}
        assert not {"test", "network", "baselines"} & set(found_metrics)
        assert not (path.parent / "predictions.npz").exists()


def test_a_run_that_is_not_to_score_the_test_block_decodes_none_of_it(store, tmp_path, monkeypatch) -> None:
    """The rows that are decoded, in training and after, are validation rows."""
    from ndt.data.windows import VALID
    from ndt.finetune import objective, scoring

    asked, decode = [], objective.decode

    def spy(model, grid, rows, *rest, **options):
        asked.append(set(np.unique(grid.block[rows]).tolist()))
        return decode(model, grid, rows, *rest, **options)

    monkeypatch.setattr(objective, "decode", spy)
    monkeypatch.setattr(scoring, "decode", spy)
    done = finetune(
        None, store.session_ids[0], out=tmp_path, config=SHORT, store=store, progress=False, test=False
    )  # fmt: skip
    assert asked
    assert all(blocks == {VALID} for blocks in asked)
    assert "test" not in done.metrics
