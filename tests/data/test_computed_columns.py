"""Labels computed from columns of a table: by hand, without labels, and refused."""

from dataclasses import replace

import numpy as np
import pytest
from problems import recording

from ndt.data.targets import build_targets, find_sources, offers, requests
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.target import Part, united

NAN = np.nan
SIDE = "side=sign(left-right)"
TRIALS = {
    "left": [1.0, 0.0, 0.5, 0.0, NAN, 0.25],
    "right": [0.0, 0.5, 0.5, 0.0, 1.0, 1.0],
    "count": [3, 1, 2, 0, 2, 1],
    "cue": np.array(["go", "stop", " ", "go", "none", "stop"]),
}
BINS = np.arange(6) + 0.25  # one in each trial


def session(**tables):
    """A recording of 30 s with tables of consecutive rows of a second."""
    found = {}
    for name, columns in tables.items():
        start = np.arange(len(next(iter(columns.values()))), dtype=float)
        found[name] = Intervals(start, start + 1.0, {k: np.asarray(v) for k, v in columns.items()})

    return replace(recording(), intervals=found)


def labels(name, **tables):
    """The part, and the name of the class or the value in each trial, None without a label."""
    target = build_targets(session(**tables or {"trials": TRIALS}), name, BINS, 0.5)
    (part,), values = target.parts, target.values
    known = ~np.isnan(values).any(1)
    np.testing.assert_array_equal(target.trial[0], np.where(known, np.arange(6), -1))
    if part.kind == "class":
        return part, [part.dims[v.argmax()] if k else None for v, k in zip(values, known, strict=True)]

    return part, [round(float(v[0]), 6) if k else None for v, k in zip(values, known, strict=True)]


def test_a_sign_has_two_classes_and_neither_zero_nor_missing_is_one() -> None:
    part, found = labels(SIDE)
    assert part == Part(name="side", kind="class", dims=("-1", "1"), per="trials", expression="sign(left - right)")
    assert found == ["1", "-1", None, None, None, "-1"]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("stronger=left>right", "class", ["True", "False", "False", "False", None, "False"]),
        ("continuous:stronger=left>right", "continuous", [1.0, 0.0, 0.0, 0.0, None, 0.0]),
        ("gap=left-right", "continuous", [1.0, -0.5, None, None, None, -0.75]),
        ("class:gap = left-right", "class", ["1", "-0.5", None, None, None, "-0.75"]),
        ("continuous:side=sign(left-right)", "continuous", [1.0, -1.0, None, None, None, -1.0]),
        ("ratio=right/left", "continuous", [None, None, 1.0, None, None, 4.0]),  # 1 / 0 is no number
        ("n=count*2", "class", ["6", "2", "4", None, "4", "2"]),
        ("go=cue=='go'", "class", ["True", "False", None, "True", None, "False"]),
        ("word=cue", "class", ["go", "stop", None, "go", None, "stop"]),
        ("seen=not isnan(left)", "class", ["True", "True", "True", "True", "False", "True"]),
        ("angle:turn=left*0", "angle", [1.0, 1.0, 1.0, 1.0, None, 1.0]),  # the cosine: an angle of 0 is a direction
    ],
)
def test_labels_by_hand(name, kind, expected) -> None:
    part, found = labels(name)
    assert (part.kind, found) == (kind, expected)


@pytest.mark.parametrize("name", [SIDE, "gap=left-right", "stronger=left > right", "go=cue=='go'"])
def test_a_request_asks_for_the_same_labels_again(name) -> None:
    recorded = session(trials=TRIALS)
    first = build_targets(recorded, name, BINS, 0.5)
    (part,) = first.parts
    again = build_targets(recorded, part.request, BINS, 0.5)
    assert again.parts == first.parts
    np.testing.assert_array_equal(again.values, first.values)
    assert requests(name, part)
    assert requests(part.request, part)
    assert requests(part.name, part)
    assert not requests(f"{part.name}=left", part)
    assert not requests("other", part)


def test_spaces_make_no_other_part_and_sessions_share_all_classes() -> None:
    (one,) = build_targets(session(trials=TRIALS), SIDE, BINS, 0.5).parts
    (other,) = build_targets(session(trials=TRIALS), "side = sign( left -right )", BINS, 0.5).parts
    assert one == other
    few = {"left": [1.0, 1.0], "right": [0.5, 0.0]}
    (part,) = build_targets(session(trials=few), SIDE, BINS, 0.5).parts
    assert part.dims == ("1",)
    assert united([("a", part), ("b", one)]) == one


def test_the_table_is_trials_or_the_only_one_with_all_columns() -> None:
    other = {"left": [0.0] * 6, "right": [1.0] * 6, "extra": [1.0] * 6}
    assert labels(SIDE, trials=TRIALS, blocks=other)[0].per == "trials"
    assert labels("x=left-extra", trials=TRIALS, blocks=other)[0].per == "blocks"
    assert labels(SIDE, blocks=other)[1] == ["-1"] * 6
    two = session(first=other, second=other)
    with pytest.raises(
        InputError, match=r"target: expected an expression over columns of one table of intervals: first"
    ):
        find_sources(two, SIDE)
    assert not offers(two, SIDE)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "x=sign(up-right)",
            r"one table of intervals: trials \(left, right, count, cue\), found 'x=sign\(up - right\)'",
        ),
        ("x=1", "one table of intervals"),
        ("x=left -", "an expression over columns of a table of intervals, without commas, found 'left -'"),
        ("x=cue in ['go', 'stop']", "without commas"),
        ("x=left.sum()", "columns, numbers, texts"),
        ("x=sign(cue)", "a number, found 'cue'"),
        ("continuous:x=cue", "numbers for continuous, found text"),
        ("x==left", "one of: vel, trials/left"),
        (f"{SIDE},{SIDE}", "each once, found side twice"),
    ],
)
def test_other_expressions_are_refused(name, told) -> None:
    with pytest.raises(InputError, match=told):
        build_targets(session(trials=TRIALS), name, BINS, 0.5)


def test_a_session_offers_what_its_columns_give() -> None:
    assert offers(session(trials=TRIALS), SIDE)
    assert offers(session(trials=TRIALS), f"class:{SIDE}")
    assert not offers(session(trials=TRIALS), "side=sign(up-down)")
    assert not offers(session(trials={"left": np.ones((6, 2)), "right": np.ones(6)}), SIDE)  # two values a row
