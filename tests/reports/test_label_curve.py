"""The curve of R² against seconds of labels: numbers by hand, an honest axis, and what a reader must be told."""

import re
from dataclasses import replace

import numpy as np
import pytest
from fake_run import CURVE, SESSION

from ndt.errors import InputError
from ndt.reports import label_curve
from ndt.reports.console import show_curve
from ndt.reports.label_curve import LabelCurve, gather, read_curve, sentences

LINES = {  # two numbers of seconds, three seeds
    "ensemble": [[0.10, 0.20, 0.40], [0.50, 0.60, 0.70]],
    "network": [[-2.0, 0.0, 0.1], [0.4, 0.5, 0.6]],
    "ridge": [[0.20, 0.25, 0.30], [0.50, 0.50, 0.50]],
}
SMALL = LabelCurve(session="a", target="vel", seconds=[15.0, 41.5], lines=LINES, valid_seconds=6.0, whole=True)


def metrics(ensemble, network, **baselines):
    return {
        "test": {"r2": ensemble},
        "network": {"r2": network},
        "baselines": {name: {"r2": value} for name, value in baselines.items()},
    }


def ticks(svg: str) -> dict[str, tuple[float, float]]:
    """Where the labels of an SVG stand, by their text."""
    found = re.findall(r'<text[^>]*?(?:translate\(([\d.]+) ([\d.]+)\)| x="([\d.]+)" y="([\d.]+)")[^>/]*>([^<]+)<', svg)

    return {text: (float(a or c), float(b or d)) for a, b, c, d, text in found}


def test_table_by_hand() -> None:
    """Differences to ridge: −0.10, −0.05, 0.10, with mean −1/60, and 0.0, 0.1, 0.2, with mean 0.1 and se 0.1/√3."""
    head, rows = label_curve.table(SMALL)
    assert head == ["R² on test bins", "15 s", "all, 41.5 s"]
    assert dict((name, cells) for name, *cells in rows[:4]) == {
        "ensemble": ["0.200", "0.600"],
        "network alone": ["0.000", "0.500"],
        "ridge regression": ["0.250", "0.500"],
        "ensemble − ridge": ["−0.017", "+0.100"],
    }
    error = np.sqrt(((-0.1 + 1 / 60) ** 2 + (-0.05 + 1 / 60) ** 2 + (0.1 + 1 / 60) ** 2) / 6)
    assert rows[4] == ["± standard error", f"{error:.3f}", "0.058"]
    assert len(rows) == 5


def test_networks_are_compared_where_there_is_one_from_scratch() -> None:
    head, rows = label_curve.table(CURVE)
    found = {name: cells for name, *cells in rows}
    assert head[1:] == ["15 s", "30 s", "60 s", "120 s"]
    assert found["network alone, pretrained"] == ["0.510", "0.600", "0.660", "0.720"]
    assert found["network − scratch"][0] == "+0.330"  # differences 0.39, 0.26, 0.34
    assert rows[-1] == ["± standard error", "0.038", "0.020", "0.012", "0.003"]
    assert found["control: block-permuted targets"] == ["−0.010"] * 4  # in the table, though not drawn


@pytest.mark.parametrize(
    ("ensemble", "below"),
    [
        ([0.40, 0.40, 0.40], [10.0]),  # always 0.1 below: no doubt about it
        ([0.50, 0.50, 0.50], []),  # ridge itself: no difference and no error
        ([0.46, 0.45, 0.44], [10.0]),  # mean −0.05, standard error 0.006
        ([0.30, 0.50, 0.55], []),  # mean −0.05, standard error 0.076
        ([0.434, 0.464, 0.494], [10.0]),  # mean −0.036, standard error 0.03/√3 = 0.0173: 2.08 of them
        ([0.437, 0.467, 0.497], []),  # mean −0.033: 1.9 of them
        ([0.60, 0.70, 0.80], []),
    ],
)
def test_below_ridge_is_more_than_two_paired_standard_errors(ensemble, below) -> None:
    curve = replace(SMALL, seconds=[10.0], lines={"ensemble": [ensemble], "ridge": [[0.5] * 3]})
    assert curve.below_reference() == below
    told = sentences(curve)[0]
    assert told.endswith("at 10 s of labelled data." if below else "at no point.")
    assert "over 3 paired seeds" in told


def test_one_seed_has_no_verdict_and_what_was_left_out_is_said() -> None:
    lines = {"ensemble": [[0.1]], "ridge": [[0.5]]}
    curve = replace(SMALL, seconds=[10.0], lines=lines, left_out=["Left out: 300 s."])
    assert curve.below_reference() == []
    assert sentences(curve) == ["One seed: differences have no standard error.", "Left out: 300 s."]
    assert label_curve.table(curve)[1][-1] == ["± standard error", "–"]


def test_lines_are_gathered_from_metrics() -> None:
    runs = [
        [metrics(0.1, 0.2, ridge=0.3, kalman=0.4), metrics(0.5, 0.6, ridge=0.7)],
        [metrics(0.8, None, ridge=0.9, kalman=None), metrics(1.0, 0.0, ridge=0.1, kalman=0.2)],
    ]
    controls = [[metrics(9.0, 0.01, ridge=9.0), metrics(9.0, 0.02)], [metrics(9.0, 0.03), metrics(9.0, 0.04)]]
    found = gather(runs, controls)
    assert list(found) == ["ensemble", "network", "scratch", "ridge", "kalman"]
    np.testing.assert_array_equal(found["ensemble"], [[0.1, 0.5], [0.8, 1.0]])
    np.testing.assert_array_equal(found["network"], [[0.2, 0.6], [np.nan, 0.0]])
    np.testing.assert_array_equal(found["scratch"], [[0.01, 0.02], [0.03, 0.04]])
    np.testing.assert_array_equal(found["ridge"], [[0.3, 0.7], [0.9, 0.1]])
    np.testing.assert_array_equal(found["kalman"], [[0.4, np.nan], [np.nan, 0.2]])
    assert "scratch" not in gather(runs)


def test_curve_comes_back_from_its_file_missing_scores_too(tmp_path) -> None:
    lines = LINES | {"kalman": [[0.1, float("nan"), 0.2], [0.3, 0.4, 0.5]]}
    replace(SMALL, lines=lines, left_out=["x"]).save(tmp_path)
    found = read_curve(tmp_path)
    np.testing.assert_array_equal(found.lines.pop("kalman"), lines["kalman"])
    assert found == replace(SMALL, left_out=["x"])
    assert label_curve.table(replace(SMALL, lines=lines))[1][3] == ["Kalman filter", "–", "0.400"]
    assert read_curve(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text",
    [
        '{"session": "a"}',
        '{"session": "a", "target": "b", "seconds": [1.0], "pretrained": [[1.0]], "ridge": [[1.0]]}',  # an old one
        '{"session": "a", "target": "b", "seconds": [1.0], "valid_seconds": 1.0, "lines": {"ridge": [[1.0]]}}',
        '{"session": "a", "target": "b", "seconds": [1.0, 2.0], "valid_seconds": 1.0,'
        ' "lines": {"ridge": [[1.0]], "ensemble": [[1.0]]}}',
        '{"session": "a", "target": "b", "seconds": [1.0], "valid_seconds": 1.0,'
        ' "lines": {"ridge": [[1.0, 2.0]], "ensemble": [[1.0]]}}',
    ],
)
def test_curve_of_another_form_is_refused(text, tmp_path) -> None:
    (tmp_path / "curve.json").write_text(text)
    with pytest.raises(
        InputError, match=r"curve\.json: .*: expected (the output of `ndt finetune|an entry of that name)"
    ):
        read_curve(tmp_path)


def test_figure_has_a_logarithmic_axis_with_a_tick_at_each_number_of_seconds() -> None:
    """Four numbers of seconds, each twice the one before, must stand equally far apart."""
    svg = label_curve.draw(CURVE).svg
    places = ticks(svg)
    steps = np.diff([places[s][0] for s in ("15", "30", "60", "120")])
    np.testing.assert_allclose(steps, steps[0], atol=0.5)
    assert steps[0] > 50
    for words in ("network alone, pretrained", "network trained from scratch", "ridge regression", "R² of cursor_vel"):
        assert words in svg
    assert "block_permuted" not in svg


def test_axis_reaches_as_low_as_what_it_is_about_and_the_caption_says_what_is_lower() -> None:
    """The network falls to −2 in one seed, and the axis ends at −1; a poor baseline does not extend it."""
    drawing = label_curve.draw(SMALL)
    places = ticks(drawing.svg)
    assert {"−1.00", "0.00", "1.00"} <= set(places)
    assert "−1.25" not in places
    assert "Below the axis" not in drawing.caption  # its median is 0

    lines = {"ensemble": [[0.1]], "network": [[-1.5]], "ridge": [[0.2]], "wiener": [[-40.0]]}
    drawing = label_curve.draw(replace(SMALL, seconds=[15.0], lines=lines))
    assert drawing.caption.endswith("Below the axis: network alone at 15 s (−1.50), Wiener filter at 15 s (−40.00).")
    places = ticks(label_curve.draw(replace(SMALL, seconds=[15.0], lines=lines | {"network": [[0.1]]})).svg)
    assert {"0.0", "1.0"} <= set(places)
    assert not any(label.startswith("−") for label in places)


def test_all_labels_are_named_a_line_below_their_neighbour() -> None:
    lines = {name: [*scores, scores[-1]] for name, scores in LINES.items()}
    places = ticks(label_curve.draw(replace(SMALL, seconds=[15.0, 40.0, 41.5], lines=lines)).svg)
    assert places["all: 41.5"][1] > places["40"][1] + 5


def test_a_baseline_without_a_score_leaves_the_others_drawn() -> None:
    nothing = LINES | {"kalman": [[float("nan")] * 3] * 2}
    assert "Kalman filter" in label_curve.draw(replace(SMALL, lines=nothing)).svg


def test_curve_is_printed_with_its_verdict(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    CURVE.save(tmp_path)
    show_curve({"run": str(tmp_path)})
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{SESSION}, cursor_vel: medians over seeds R² on test bins 15 s 30 s 60 s 120 s" in shown
    assert "ensemble 0.520 0.610 0.670 0.730" in shown
    assert "below ridge by more than 2 standard errors over 3 paired seeds at no point." in shown
