"""A decoder's section of the report, from hand-made runs: of each kind of target, and of several."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_decoder import CLASSES, PARTS, fake_decoder, part_of
from html_page import Page

from ndt.errors import InputError
from ndt.evaluation.conformal import misfit
from ndt.reports.decoder import section, unscored
from ndt.reports.decoder_figures import figures
from ndt.reports.run import write_report
from ndt.reports.run_files import Decoder, read_decoders, score_table

VELOCITY, HEADING, TARGET = PARTS


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Run of a decoder of a velocity and of classes, with its page."""
    run = tmp_path_factory.mktemp("two") / "run"
    fake_decoder(run, VELOCITY, TARGET)
    write_report(run)

    return run


def decoder(name: str, num_bins: int = 400, **test: object) -> Decoder:
    """A decoder of one target; `test` replaces scores of its test split."""
    metrics, predictions = part_of(name, num_bins)
    predictions |= {"time": 0.05 * np.arange(num_bins), "segment": np.zeros(num_bins, int)}
    metrics |= {"session": "s", "seed": 0}
    metrics["test"] |= test

    return Decoder(metrics=metrics, log=[], scratch_log=[], predictions=predictions)


def read(x: float | None, digits: int = 3) -> str:
    return f"{x:,.{digits}f}".replace("-", "−")


def test_page_has_the_numbers_of_the_metrics(two):
    metrics, page = json.loads((two / "metrics.json").read_text()), Page((two / "report.html").read_text())
    assert page.ids == ["scores", "decoder-sub-b_ses-2", "settings", "definitions"]
    assert page.tags.count("figure") == 2 + 2 * 3
    assert "script" not in page.tags
    assert page.fetched == []
    for name, m in metrics["targets"].items():
        for scored in (m["test"], m["network"], *(b for b in m["baselines"].values() if "r2" in b)):
            assert read(scored["r2"]) in page.text
        low, high = m["test"]["r2_interval_95"]
        assert f"95 % interval {read(low)} to {read(high)}" in page.text
        assert (
            f"gain over ridge is +{m['test']['over_reference']:.3f} ± {m['test']['over_reference_error']:.3f}"
            in page.text
        )
        assert name in page.text
    velocity, target = metrics["targets"].values()
    for half in velocity["test"]["interval_half_width"]:
        assert f"{half:.3g}" in page.text
    assert f"always the most frequent class {target['test']['chance']:.3f}" in page.text
    for share, n in zip(target["test"]["recall"], target["test"]["class_counts"], strict=True):
        assert f"{100 * share:.1f} % of {n}" in page.text
    assert "Fitted on 60 s of labelled training bins in 21 s (400 steps)" in page.text
    assert "follows the spikes by 100 ms" in page.text
    assert "validation R² of ridge 0.610 0.660 0.580" in page.text
    assert "Poisson naive Bayes has no score: too few bins with spikes" in page.text
    assert "1 silent unit: no spike at the end of the test split, for longer than chance: b/array/00007/0." in page.text


def test_rows_of_the_table_are_predictors_with_weights_and_errors(two):
    page = Page((two / "report.html").read_text())
    velocity, target = json.loads((two / "metrics.json").read_text())["targets"].values()
    for weight, m in (
        ("", velocity["test"]),
        ("0.70 ", velocity["network"]),
        ("0.30 ", velocity["baselines"]["ridge"]),
    ):
        assert f"{weight}{m['r2']:.3f} {m['rmse']:.2f} {m['correlation']:.3f}" in page.text
    for weight, m in (("", target["test"]), ("0.70 ", target["network"])):
        accuracies = [m[key] for key in ("accuracy", "balanced_accuracy", "log_loss")]
        assert f"{weight}{m['r2']:.3f} {' '.join(f'{a:.3f}' for a in accuracies)}" in page.text


def test_errors_of_directions_are_in_degrees():
    test = {"r2": 0.5, "median_error_deg": 12.34, "mean_error_deg": 20.0, "num_bins": 7}
    one = decoder(HEADING, 40)
    one.metrics.update(test=test, network={"r2": 0.4}, baselines={"ridge": {"r2": -0.1, "median_error_deg": 40.0}})
    head, rows = score_table(one.metrics)
    assert head == ["predictor", "weight", "R²", "median error (°)", "mean error (°)"]
    assert [row[1:] for row in rows] == [
        ["", "0.500", "12.3", "20.0"],
        ["0.70", "0.400", "–", "–"],
        ["0.30", "−0.100", "40.0", "–"],
    ]


def test_a_target_finds_its_own_arrays(tmp_path):
    """The second one's begin with its name, which may have a slash of its own."""
    fake_decoder(tmp_path, VELOCITY, TARGET, HEADING, num_bins=100)
    (whole,) = read_decoders(tmp_path)
    each = whole.by_target()
    assert [(d.kind, d.unit, d.dims) for d in each] == [
        ("continuous", "cm/s", ["x", "y"]),
        ("class", "", list(CLASSES)),
        ("angle", "°", ["yaw"]),
    ]
    for i, (one, name) in enumerate(zip(each, (VELOCITY, TARGET, HEADING), strict=True)):
        expected, arrays = part_of(name, 100, i)
        assert set(one.predictions) == {*arrays, "time", "segment", "out_of_distribution"}
        for key in ("true", "ensemble", "half_width"):
            np.testing.assert_array_equal(one.predictions[key], arrays[key])
        np.testing.assert_allclose(one.metrics["test"]["r2"], expected["test"]["r2"])
        assert one.metrics["label_seconds"] == 60.0
        assert one.r2["ensemble"] == one.metrics["test"]["r2"]


def test_controls_that_a_demo_adds_are_shown_too():
    one = decoder(VELOCITY, 40)
    own = dict(one.metrics)
    whole = replace(one, metrics=own | {"targets": {VELOCITY: own}, "baselines": {"oracle": {"r2": 0.99}}})
    assert whole.by_target()[0].r2["oracle"] == 0.99


def findings(one: Decoder) -> dict[str, str]:
    return {f.where: f.grade for part in section(one).parts for f in part.findings}


def test_difference_to_ridge_is_judged_by_its_error():
    for difference, error, words, warned in (
        (0.03, 0.01, "+0.030 ± 0.010 (standard error), beyond noise", False),
        (-0.019, 0.01, "−0.019 ± 0.010 (standard error), within noise", False),
        (-0.021, 0.01, "−0.021 ± 0.010 (standard error), beyond noise", True),
        (0.0, None, "+0.000.", False),
        (0.1, None, "+0.100; too few independent segments", False),
    ):
        one = decoder(VELOCITY, 40, over_reference=difference, over_reference_error=error)
        one.predictions.clear()
        assert words in section(one).parts[0].text[0]
        assert ("Ridge regression" in findings(one)) == warned


def test_coverage_is_judged_by_both_its_errors():
    """5 % too little is noise if test and validation bins are each uncertain by 2 %, and is not if by 1.5 %."""
    for share, error, grade in (
        (0.85, 0.02, None),
        (0.85, 0.015, "warning"),
        (0.95, 0.015, "note"),
        (0.85, None, None),
    ):
        test = {"interval_coverage_90": share, "interval_coverage_90_error": error, "interval_calibration_error": error}
        one = decoder(VELOCITY, 40, **test)
        one.predictions.clear()
        assert findings(one).get("90 % intervals") == grade
        assert f"intervals contain the target in {100 * share:.1f} %" in section(one).parts[0].text[1]


def test_input_out_of_range_is_a_warning_beyond_what_false_alarms_make():
    for share, grade in ((0.0, None), (0.01, "note"), (0.04, "warning")):
        one = decoder(VELOCITY, 40)
        one.predictions.clear()
        one.metrics["input_drift"] = {"silent_units": [], "rate_shift": 1.0, "flagged": share}
        assert [f.grade for f in section(one).findings] == ([grade] if grade else [])


def test_coverage_that_is_drawn_is_that_of_the_metrics():
    """Half widths and errors of the test split give the share that metrics.json says, bin by bin."""
    for name in PARTS:
        metrics, p = part_of(name, 400)
        one = decoder(name)
        known = np.isfinite(p["true"]).all(1)
        held = misfit(p["true"], p["ensemble"], one.kind)[known] <= p["half_width"][known]
        np.testing.assert_allclose(held.mean(), metrics["test"]["interval_coverage_90"])


def test_confusion_counts_labelled_bins():
    """Class of the largest probability against the true one: a twice right and once wrong, b never, one unlabelled."""
    true = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [np.nan, np.nan]])
    said = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
    one = decoder(TARGET, 40)
    arrays = {
        "true": true,
        "ensemble": said,
        "time": np.arange(5.0),
        "segment": np.zeros(5),
        "dims": np.array(["a", "b"]),
    }
    one = replace(one, predictions=arrays)
    _, confusion = figures(one)  # no half widths: no figure of what they hold
    assert "on 4 test bins" in confusion.caption
    for words in ("67 %", "33 %", "100 %"):
        assert words in confusion.svg


@pytest.mark.parametrize("name", PARTS)
def test_numbers_that_are_not_there_are_dashes(name):
    """A run in which nothing could be computed: all scores null, all that was decoded NaN."""
    one = decoder(name, 100)

    def gone(found):
        if isinstance(found, dict):
            return {k: gone(v) for k, v in found.items()}
        return [None] * len(found) if isinstance(found, list) else None

    kept = {k: one.metrics[k] for k in ("target", "kind", "dims", "unit", "session")}
    metrics = gone(one.metrics) | kept | {"weights": {"network": 1.0}}
    arrays = dict(one.predictions)
    for key in ("ensemble", "network", "ridge", "half_width", "adaptive_half_width"):
        arrays[key] = np.full_like(arrays[key], np.nan)
    part = section(replace(one, metrics=metrics, predictions=arrays)).parts[0]
    assert part.tables[0].rows[0][:3] == ["ensemble", "", "–"]
    assert len(part.drawings) == 3
    arrays["true"] = np.full_like(arrays["true"], np.nan)
    assert figures(replace(one, metrics=metrics, predictions=arrays)) == []


def test_run_without_a_score_says_what_was_done(tmp_path):
    """A session without labels, decoded without a step: there is no log."""
    metrics = {"session": "s", "target": "vel", "strategy": "none", "seed": 1}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    found = unscored(tmp_path)
    assert found.title == "Adapted to s"
    assert found.text[0].startswith("Not fitted; adaptation: none (zero-shot)")
    assert found.drawings == []
    (tmp_path / "metrics.json").write_text(json.dumps({"valid": {"nll": 1.0}}))
    assert unscored(tmp_path) is None
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json: expected a run"):
        write_report(tmp_path)


def test_learning_curves_are_those_of_the_logged_measures(tmp_path):
    """The training error is logged as ``target``, the name of the decoding loss."""
    metrics = {"session": "s", "target": "vel", "strategy": "heads", "label_seconds": 9.0, "seed": 1}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    lines = [{"step": s, "split": "train", "target": 1.0 / s, "nll": 0.5} for s in (10, 20)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = unscored(tmp_path)
    assert "Fitted on 9 s of labelled training bins; adaptation: fine-tuning of heads and of unit" in found.text[0]
    (drawing,) = found.drawings
    assert drawing.caption == "Learning curves of fine-tuning."
