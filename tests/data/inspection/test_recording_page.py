"""Pages of recordings: what is known stands there, drawn where it belongs; odd recordings have pages, too."""

import dataclasses
import re

import numpy as np
import pytest
from html_page import Page
from problems import recording

from ndt.config import IngestConfig
from ndt.data.inspection import recording_figures as figures
from ndt.data.inspection.findings import Finding
from ndt.data.inspection.quality import assess
from ndt.data.inspection.recording_page import index_page, recording_page
from ndt.data.inspection.summary import examine
from ndt.data.inspection.synchrony import Pair
from ndt.intervals import Intervals
from ndt.reports.page import percent
from ndt.reports.plots_recording import plain_text, presence, traces
from ndt.reports.plots_recording_timeline import COLOURS, Lane, timeline
from ndt.session import Covariate, Session, Spikes, Units
from tests.trains import session_of

HOSTILE = "<script>alert(1)</script>"
START = 1.6e9  # seconds: some clocks count from 1970


def session(trains, observed=((0.0, 10.0),), unit_observed=None, **fields):
    return session_of(trains, observed, unit_observed, **fields)


def view(session, quality=None):
    quality = quality or assess(session)

    return figures.view_of(session, quality, examine(session, quality))


def odd():
    """A recording with everything, late on the clock, whose names would run as code if they were let."""
    rng = np.random.default_rng(0)
    trains = [START + np.sort(rng.uniform(0, 60, 300)) for _ in range(12)]
    rows = [(START + a, START + b, n) for n in range(12) for a, b in [(0, 25), (30, 60 if n < 8 else 50)]]
    trains = [
        t[(t < START + 25) | ((t >= START + 30) & (t < START + (60 if n < 8 else 50)))] for n, t in enumerate(trains)
    ]
    made = session(trains, [(START, START + 25), (START + 30, START + 60)], rows)
    time = START + np.arange(0, 60, 0.05) + 0.025
    values = np.stack([np.sin(time), np.cos(time)], 1)
    values[100:200] = np.nan
    series = {
        name: Covariate(name=name, path=f"p/{name}", timestamps=time, values=x, dims=dims, unit=unit, angular=angular)
        for name, x, dims, unit, angular in (
            (f"hand {HOSTILE}", values, ("x", "y"), "cm/s", False),
            ("$\\oops$ 直径", values[:, :1], ("0",), "", False),
            ("heading", (time % 6.28)[:, None], ("0",), "radian", True),
        )
    }
    start = START + np.arange(0, 58, 2.0)
    columns = {"target": np.arange(29) % 4, f"cue{HOSTILE}": np.array(["go", "", "no"])[np.arange(29) % 3]}
    tables = {"trials": Intervals(start, start + 3.0, columns), f"licks{HOSTILE}": Intervals(start, start)}
    columns = {"location": np.array(["M1"] * 6 + [HOSTILE] * 6)}

    return dataclasses.replace(
        made,
        session_id=f"sub-{HOSTILE}",
        units=dataclasses.replace(made.units, columns=columns),
        covariates=series,
        intervals=tables,
        dropped=tuple(f"acquisition/s{n} {HOSTILE}: no numbers" for n in range(40)),
        warnings=(f"{HOSTILE} was kept",),
        source={"path": "/somewhere/odd.nwb", "size": 2_500_000},
    )


@pytest.fixture(scope="module")
def page():
    """The page of the odd recording, and what was to be said on it."""
    made = odd()
    quality = assess(made)
    quality = dataclasses.replace(
        quality,
        pairs=(Pair(first=2, second=5, kind="duplicate", shared=0.97, expected=0.004),),
        findings=(*quality.findings, Finding(grade="error", where=HOSTILE, message=f"{HOSTILE} & worse")),
    )
    entry = examine(made, quality)
    entry["nwb_check"] = {
        "messages": [
            {"importance": "CRITICAL", "check": "check_x", "count": 9, "objects": ["/a", "/b"], "message": HOSTILE}
        ]
    }
    text = recording_page(made, quality, entry, IngestConfig())

    return Page(text), entry, text


def test_every_finding_and_every_loss_is_on_the_page(page):
    found, entry, _ = page
    assert entry["grade"] == "error"
    assert len(entry["findings"]) >= 5
    for finding in entry["findings"]:
        assert f"{finding['where']} {finding['message']}" in found.text
    for sentence in entry["dropped"]:
        assert sentence in found.text
    assert found.text.index(f"{HOSTILE} & worse") < found.text.index(f"{HOSTILE} was kept")  # the worst first
    assert f"Critical /a, /b and others, 9 in all {HOSTILE} [check_x]" in found.text


def test_page_has_its_parts_and_fetches_nothing(page):
    found, _, text = page
    parts = "findings timeline ingested activity isi pairs covariates nwb-inspector settings definitions"
    assert found.ids == parts.split()
    assert found.tags.count("figure") == 6
    assert found.fetched == []
    assert "script" not in found.tags
    assert re.search(r"url\((?!#)|@import", text) is None


def test_numbers_of_the_page_are_those_of_the_summary(page):
    found, entry, _ = page
    assert f"{entry['spikes']:,} spikes" in found.text
    assert "55 s observed, in 2 segments" in found.text
    assert "Observed time has 1 gap, 5 s in all; the median is 5 s, the longest 5 s." in found.text
    (hand,) = [c for c in entry["covariates"] if c["name"].startswith("hand")]
    assert f"1,200 × 2 20 cm/s {percent(hand['coverage'])} {percent(hand['missing'])}" in found.text
    assert hand["missing"] == pytest.approx(100 / 1200)
    assert "u2 u5 duplicate 97 % 0.4 %" in found.text
    assert (
        "trials 29 3 3 to 3 28" in found.text
    )  # rows, seconds, their spread, and all but the first begin before the one before has ended
    assert "unit_identity: electrode" in found.text


def test_a_late_clock_is_shown_from_zero(page):
    found, _, text = page
    assert "Zero on all axes of this page is second 1,600,000,000 of the file's clock." in found.text
    ticks = [float(t) for t in re.findall(r"<text[^>]*>(\d+(?:\.\d+)?)</text>", text)]
    assert max(ticks) < 1e4
    assert view(recording()).origin == 0


def test_names_are_drawn_as_they_are(page):
    """A dollar begins no formula, of which this one would not be any."""
    _, _, text = page
    assert text.count("$\\oops$ 直径") >= 3
    assert "<text" in text
    assert f"hand {HOSTILE}" not in text


def plain(made, **entry):
    quality = assess(made)

    return Page(recording_page(made, quality, examine(made, quality) | entry, IngestConfig()))


def test_a_recording_without_spikes_covariates_and_tables_has_a_page():
    found = plain(session([[], []]))
    assert "none of 2 units fires at all" in found.text
    assert "Not available: spike times are too coarse, or no unit has two spikes." in found.text
    assert "Nothing was left out." in found.text
    assert "NWB Inspector" not in found.text


def test_a_recording_of_nothing_has_a_page():
    found = plain(session([], []), nwb_check={"skipped": "NWB Inspector is not installed"})
    assert "0 units" in found.text
    assert "NWB Inspector is not installed." in found.text
    assert "There is no split into training, validation and test" in found.text


def test_counted_spikes_have_no_intervals_and_no_duplicates():
    """Two units of equal counts would share every spike; what was not looked at is not said to be absent."""
    train = np.arange(0.01, 10, 0.02)
    found = plain(dataclasses.replace(session([train, train]), count_bin=0.02))
    assert "The file counts spikes in bins of 20 ms" in found.text
    assert "duplicates and cross-talk are not assessed" in found.text
    assert "No two units share" not in found.text
    assert "inter-spike interval (ms)" not in found.text


def test_intervals_between_spikes_by_hand():
    """Unit 0 has intervals of 1, 3 and 1 ms, and one across a gap; unit 1 of 2 ms."""
    made = session([[0.001, 0.002, 0.005, 5.001, 5.002], [0.5, 0.502]], [(0.0, 1.0), (5.0, 6.0)])
    counts = figures.isi_counts(made, np.array([0.0, 0.0015, 0.0025, 0.0035, 10.0]))
    np.testing.assert_array_equal(counts, [2, 1, 1, 0])


def test_rates_divide_by_the_time_in_which_units_were_observed():
    """Two units at 10 Hz, the second seen in the second half only, and none in the last fifth."""
    every = np.arange(0.05, 100, 0.1)
    one, two = every[every < 80], every[(every >= 50) & (every < 80)]
    made = session([one, two], [(0, 80), (99, 100)], [(0, 80, 0), (50, 80, 1), (99, 100, 0)])
    edges, rate = figures._rate(view(made))
    middle = (edges[1:] + edges[:-1]) / 2
    assert (edges[0], edges[-1], len(rate)) == (0, 100, 240)
    np.testing.assert_allclose(rate[middle < 79], 10, rtol=0.25)  # 4 or 5 spikes in a block of 5 / 12 s
    np.testing.assert_allclose(rate[middle < 79].mean(), 10, rtol=0.01)
    assert np.isnan(rate[(middle > 80.5) & (middle < 98.5)]).all()
    assert rate[-1] == 0


def test_covariates_sampled_alike_share_a_lane():
    def series(name, times, lost=()):
        values = np.zeros((len(times), 1))
        values[list(lost)] = np.nan
        return Covariate(name=name, path=name, timestamps=times, values=values, dims=("0",), unit="")

    time = np.arange(0.05, 10, 0.1)
    made = [series("a", time), series("b", time), series("c", time[:50]), series("d", time, lost=[0, 1])]
    lanes = figures._covariates(view(session([[1.0]], covariates={c.name: c for c in made})))
    assert [(lane.name, lane.note) for lane in lanes] == [
        ("a, b", "100 % covered"),
        ("c", "50 % covered"),
        ("d", "100 % covered, 2 % missing"),
    ]
    np.testing.assert_allclose([lanes[2].pale.start, lanes[2].pale.end], [[0.0], [0.2]], atol=1e-9)


def test_what_is_shown_closely_has_spikes_and_covariates():
    """Of segments [0, 30) and [40, 100), the middle of labels in [45, 75); of short ones, several in the middle."""
    made = recording([(0.0, 30.0), (40.0, 100.0)], labels=(45.0, 75.0))
    np.testing.assert_allclose(view(made).window, (50, 70), atol=0.1)
    short = recording([(float(a), a + 2.0) for a in range(0, 60, 3)])
    assert view(short).window == (30.0, 50.0)
    np.testing.assert_allclose(view(recording([(0.0, 5.0)])).window, (0.0, 20.0), atol=1e-9)


def horizontal(svg, colour):
    """Leftmost and rightmost x of what is filled with a colour."""
    (name,) = re.findall(rf'<use xlink:href="#(\w+)" x="0" [^>]*fill: {colour}', svg)
    (path,) = re.findall(rf'<path id="{name}" d="([^"]*)"', svg)
    x = np.array([float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", path)])

    return x.min(), x.max()


def ticks(svg):
    """Seconds of the labelled ticks of the axis of time, and their x."""
    found = re.findall(r'<text[^>]*?(?:translate\(| x=")([\d.]+)[^>]*>([\d,]+)</text>', svg[svg.index("axes_2") :])
    by_label = {float(label.replace(",", "")): float(x) for x, label in found}

    return np.array(list(by_label)), np.array(list(by_label.values()))


def test_bars_of_the_time_line_lie_on_its_axis():
    """The axis is read off the ticks' labels: what is drawn from 200 to 500 s must lie there."""
    lanes = [
        Lane(name="train", bars=Intervals([200.0], [500.0]), kind="train"),
        Lane(name="test", bars=Intervals([640.0], [880.0]), kind="test", note="240 s"),
    ]
    none = Intervals.empty()
    drawn = timeline(lanes, (0.0, 1000.0), none, (np.array([0.0, 1000.0]), np.array([5.0])))
    seconds, x = ticks(drawn.svg)
    assert len(seconds) >= 4
    slope, zero = np.polyfit(seconds, x, 1)
    for lane, colour in zip(lanes, (COLOURS["train"], COLOURS["test"]), strict=True):
        ends = (np.array(horizontal(drawn.svg, colour)) - zero) / slope
        np.testing.assert_allclose(ends, [lane.bars.start[0], lane.bars.end[0]], atol=2.0)  # a pixel is 2 s
    assert drawn.caption == "The whole session on one axis of time."
    assert "240 s" in drawn.svg


def test_captions_say_what_was_drawn_and_what_was_not():
    rows = Lane(name="trials", bars=Intervals([1.0, 2.0], [2.0, 3.0]), kind="rows", stagger=True)
    pale = Lane(name="vel", bars=Intervals([0.0], [9.0]), kind="covariate", pale=Intervals([1.0], [2.0]))
    rate = (np.array([0.0, 10.0]), np.array([np.nan]))
    caption = timeline([rows, pale], (0.0, 10.0), Intervals([9.0], [10.0]), rate, "1 more.").caption
    for words in ("Grey: no unit was observed.", "alternate between two heights", "Pale: samples without", "1 more."):
        assert words in caption
    hz = np.array([[1.0, np.nan], [2.0, 0.0]])
    assert "Hatched: the unit was not observed." in presence(np.arange(3.0), hz, ["a", "b"]).caption
    assert "Hatched" not in presence(np.arange(3.0), np.ones((2, 2)), ["", ""]).caption


def test_lines_of_covariates_break_where_samples_or_values_are_missing():
    """Samples at 0 to 1 s and 3 to 4 s, one of them without a value: three strokes."""
    time = np.r_[np.arange(0, 1, 0.1), np.arange(3, 4, 0.1)]
    values = np.sin(time)[:, None]
    values[4] = np.nan
    one = Covariate(name="vel", path="vel", unit="cm", dims=("0",), timestamps=time, values=values)
    svg = traces([one], (0.0, 4.0), Intervals.empty()).svg
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: #0b62a4', svg)
    assert line.count("M") == 3
    none = dataclasses.replace(one, timestamps=time[:0], values=values[:0])
    assert "no sample in these seconds" in traces([none], (0.0, 4.0), Intervals.empty()).svg
    many = dataclasses.replace(one, dims=tuple("abcdef"), values=np.tile(values, 6))
    assert "Only the first 4 dimensions of vel (6) are drawn." in traces([many], (0.0, 4.0), Intervals.empty()).caption


def test_letters_that_the_font_lacks_and_dollars_are_no_matter():
    with plain_text():
        svg = presence(np.arange(3.0), np.ones((2, 2)), ["$a$ \\frac", "直径"]).svg
    assert "直径" in svg
    assert "$a$ \\frac" in svg


def test_index_lists_the_worst_first_and_what_was_not_read():
    def entry(name, grade):
        made = recording(name=name)
        return examine(made) | {"grade": grade, "page": f"{name}.html", "findings": []}

    failed = {"source": "/here/bad.nwb", "error": f"/here/bad.nwb: file: {HOSTILE}", "grade": "error"}
    found = Page(index_page([entry("sub-a ses #1", "note"), failed, entry("sub-b", "warning")]))
    assert found.ids == ["failed", "recordings", "definitions"]
    assert found.fetched == ["sub-b.html", "sub-a%20ses%20%231.html"]
    assert f"Not read Error bad.nwb /here/bad.nwb: file: {HOSTILE}" in found.text
    assert "Error worst grade 2 of 3 files read 10 units" in found.text
    assert Page(index_page([entry("sub-a", "ok")])).ids == ["recordings", "definitions"]


@pytest.mark.slow
def test_a_page_of_many_units_stays_small():
    """Two hours of 1,500 units in 37 regions, with 12 covariates and 2,000 trials: below 3 MB."""
    rng = np.random.default_rng(0)
    N, S = 1500, 7200.0
    unit = np.repeat(np.arange(N, dtype=np.int32), rng.poisson(0.5 * S, N))
    times = rng.uniform(0, S, len(unit))
    order = np.argsort(times)
    stamps = np.arange(0, S, 1 / 60)
    values = rng.normal(size=(len(stamps), 3))
    series = {
        f"c{n:02}": Covariate(
            name=f"c{n:02}", path=f"p/c{n}", timestamps=stamps, values=values, dims=tuple("xyz"), unit=""
        )
        for n in range(12)
    }
    start = np.arange(0, S - 4, 3.6)
    made = Session(
        session_id="big",
        subject="a",
        spikes=Spikes(timestamps=times[order], unit_index=unit[order]),
        units=Units(id=np.arange(N).astype(str), columns={"location": np.array([f"R{n % 37}" for n in range(N)])}),
        observed=Intervals([0.0], [S]),
        covariates=series,
        intervals={"trials": Intervals(start, start + 2.5, {"target": rng.integers(0, 8, len(start))})},
    )
    quality = assess(made)
    text = recording_page(made, quality, examine(made, quality), IngestConfig())
    assert len(text.encode()) < 3e6
    assert "4 more covariates in the table above" in text
    assert "21 more regions are not shown" in text
