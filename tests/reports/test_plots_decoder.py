"""Figures of a decoder: where their geometry, or what they count, can be known."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndt.reports import plots_decoder, plots_errors
from ndt.reports.plots_decoder import broken, circled, first_seconds, runs, scores, traces


def ticks(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([−\d.]+)</text>", svg)


def test_lines_break_between_segments():
    time, values = broken(np.arange(4.0), np.arange(4.0), np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(time, [0, 1, np.nan, 2, 3])
    np.testing.assert_array_equal(values, [0, 1, np.nan, 2, 3])


def test_directions_take_the_shorter_way_round_the_circle():
    """From 150° by 40° to -170°, and back by 60° to 130°; half a circle is no turn; what is missing is no turn."""
    for line in circled(np.array([150.0, -170.0, 130.0])):
        np.testing.assert_allclose(np.diff(line), [40, -60])
    for line in circled(np.array([0.0, 180.0, 10.0, np.nan, 20.0])):
        np.testing.assert_allclose(np.diff(line), [180, -170, np.nan, np.nan])


@given(hnp.arrays(float, st.integers(1, 20), elements=st.floats(-180, 180)))
def test_copies_of_a_line_cover_the_circle_at_each_bin(degrees):
    """The direction itself is there, and a turn more and less of it."""
    found = np.array(circled(degrees))
    for turn in (-360, 0, 360):
        assert (np.abs(found - degrees - turn) < 1e-6).any(0).all()


def test_runs_are_equal_values_within_a_segment():
    assert runs(np.array([1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 1])) == [(0, 2), (2, 3), (3, 5)]
    assert runs(np.array([]), np.array([])) == []


def test_first_seconds_take_enough_bins_of_cut_recordings():
    assert first_seconds(np.arange(0, 100, 0.05)).sum() == 400
    assert first_seconds(np.arange(0, 100, 10.0), least=8).sum() == 8


def test_same_scores_give_the_same_figure():
    r2 = {"ensemble": 0.9, "ridge": 0.7}
    assert scores(r2).svg == scores(r2).svg


@pytest.mark.parametrize(("low", "first"), [(-0.3, "−0.2"), (0.05, "0.0"), (-40.0, "−0.4")])
def test_axis_of_scores_reaches_below_zero_and_up_to_one_and_is_not_squeezed(low, first):
    """A decoder worse than the mean must look worse than the mean, a poor one must not fill the axis, and a hopeless
    control must not squeeze it: its number stands beside an arrow instead."""
    drawing = scores({"ridge": 0.6, "shifted": low})
    axis = [t for t in ticks(drawing.svg) if re.fullmatch(r"−?\d\.\d", t)]
    assert axis[0] == first
    assert axis[-1] == "1.0"
    assert f"{low:.3f}".replace("-", "−") in drawing.svg
    assert ("Arrows" in drawing.caption) == (low < -0.5)


def test_weights_stand_beside_names_and_unknown_predictors_behind_known_ones():
    svg = scores({"my_own": 0.1, "ensemble": 0.5, "network": 0.4}, (0.45, 0.52), {"network": 0.25}).svg
    names = re.findall(r"<text[^>]*>([a-z][^<]*)</text>", svg)
    assert names[:3] == ["ensemble", "network alone, weight 0.25", "my_own"]


def test_confusion_is_a_share_of_each_row_with_its_count():
    counts = np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]])
    drawing = plots_errors.confusion(counts, ["left", "right", "up"])
    cells = re.findall(r">(\d+ %|\d+)<", drawing.svg)
    assert cells == ["75 %", "3", "25 %", "1", "50 %", "2", "50 %", "2"]
    assert re.findall(r">(\w+ \(\d\))<", drawing.svg) == [
        "left (4)",
        "right (4)",
        "up (0)",
    ]
    assert "Not in the test split: up." in drawing.caption


def test_errors_of_directions_are_summed_up_by_their_median():
    svg = plots_errors.angle_errors({"ensemble": np.array([5.0, 10.0, 90.0]), "ridge": np.array([])}).svg
    assert "ensemble, median 10.0°" in svg
    assert ">ridge regression<" in svg


def span(svg: str, colour: str) -> list[float]:
    """Widths of what is filled with a colour, and of nothing else."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: {colour}', svg)
    return [float(np.ptp([float(x) for x in re.findall(r"[ML] ([\d.]+) ", d)])) for d in paths]


def test_bins_out_of_range_are_shaded_over_their_own_width():
    """Of 40 bins over the whole axis, ten and five; the third shade is the legend's."""
    time, segment = 0.05 * np.arange(40.0), np.zeros(40)
    outside = np.zeros(40, bool)
    outside[5:15] = outside[20:25] = True
    values = {"measured": np.sin(time)[:, None], "ensemble": np.cos(time)[:, None]}
    svg = traces(time, values, segment, ["x"], outside=outside).svg
    first, second, _ = span(svg, plots_decoder.AMBER)
    np.testing.assert_allclose(first / second, 2, rtol=1e-4)
    assert "input drift" in svg
    assert "input drift" not in traces(time, values, segment, ["x"], outside=np.zeros(40, bool)).svg


def test_band_round_the_circle_is_on_both_sides_of_the_edge():
    """A constant 175° ± 20°: the band has to be at 155 to 180 and at -180 to -165, which takes a second copy."""
    time = np.arange(10.0)
    line = {"ensemble": np.full((10, 1), 175.0)}
    half = np.full((10, 1), 20.0)
    plain = traces(time, line, np.zeros(10), ["x"], half_width=half).svg
    round_it = traces(time, line, np.zeros(10), ["x"], half_width=half, circular=True).svg
    assert len(re.findall("FillBetweenPolyCollection_", round_it)) == 3 * len(
        re.findall("FillBetweenPolyCollection_", plain)
    )


def test_each_run_of_a_true_class_is_framed():
    time, segment = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1])
    true = np.array([0, 0, 1, 1, -1, 0])  # 0, 1, 1 in the next segment, none, 0
    svg = plots_decoder.probabilities(time, np.full((6, 2), 0.5), true, segment, ["a", "b"]).svg
    frames = re.findall(r"fill: none; stroke: #d1660c", svg)
    assert len(frames) == 4 + 1  # and the legend's


def test_figures_stand_values_that_are_not_there():
    nothing = np.full((30, 2), np.nan)
    time, segment = np.arange(30.0), np.zeros(30)
    lines = {"measured": nothing, "ensemble": nothing}
    for circular in (False, True):
        assert traces(time, lines, segment, ["x", "y"], half_width=nothing + np.inf, circular=circular).svg
    assert plots_errors.scatter(nothing, nothing, ["x", "y"], "", [None, None]).svg
    assert plots_errors.calibration(np.zeros(0), {"a": np.zeros(0)}, 0.9, np.nan, (np.zeros(0),) * 3, ("", ""), "").svg
    assert plots_errors.confusion(np.zeros((2, 2), int), ["a", "b"]).svg
