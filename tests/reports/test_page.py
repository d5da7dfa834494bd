"""Pages as data: what goes in is on the page, as text; words and numbers by hand."""

import subprocess
import sys

import pytest
from html_page import Page

from ndt.reports.page import (
    Cell,
    Graded,
    Section,
    Table,
    compact,
    count_grades,
    number,
    percent,
    render,
    worst,
    write_text,
)
from ndt.reports.plots import Drawing

HOSTILE = '<script>alert(1)</script> & "it\'s" {{ 7 * 7 }}'


def everything(text):
    """A section in which every part says `text`."""
    return Section(
        title=text,
        anchor="all",
        text=[text],
        findings=[Graded(grade="warning", where=text, message=text, word=text)],
        tables=[
            Table(head=[text], rows=[[text], [Cell(text, href="a.html")], [Cell(text, grade="note")]], caption=text)
        ],
        drawings=[Drawing("<svg></svg>", text)],
        dropped={text: [text]},
        sources={text: text},
        parts=[Section(title=text, text=[text])],
        definitions={text: text},
    )


def test_whatever_a_file_says_stays_text():
    page = Page(render(HOSTILE, HOSTILE, [everything(HOSTILE)], [(HOSTILE, HOSTILE)]))
    assert "script" not in page.tags
    # title twice; subtitle; tile 2; navigation, heading, text, finding 3, table 5, drawing, dropped 2, source 2,
    # part 2, definition 2
    assert page.text.count(HOSTILE) == 2 + 1 + 2 + 3 + 3 + 5 + 1 + 2 + 2 + 2 + 2
    assert page.fetched == ["a.html"]
    assert page.ids == ["all"]


def test_a_grade_is_said_in_words_and_not_by_colour_alone():
    found = [Graded(grade=grade, where="units", message="x") for grade in ("error", "warning", "note", "ok")]
    found.append(Graded(grade="note", where="file", message="y", word="Violation"))
    text = Page(render("t", "s", [Section(title="Findings", anchor="f", findings=found)])).text
    assert "Error units x Warning units x Note units x No finding units x Violation file y" in text


def test_parts_that_are_empty_are_left_out():
    tags = Page(render("t", "s", [Section(title="a", anchor="a"), Section(title="b", anchor="b")])).tags
    assert [tags.count(tag) for tag in ("h2", "h3", "table", "figure", "ul", "pre", "dl")] == [2, 0, 0, 0, 0, 0, 0]


def test_parts_of_a_section_stand_one_level_lower_and_are_not_in_the_navigation():
    part = Section(title="Details", text=["inner"])
    page = Page(render("t", "s", [Section(title="Units", anchor="units", parts=[part])]))
    assert page.tags.count("h3") == 1
    assert page.ids == ["units"]
    assert page.text.endswith("Units Units Details inner")


@pytest.mark.parametrize(
    ("grades", "expected", "words"),
    [
        ([], "ok", "no finding"),
        (["note"], "note", "1 note"),
        (["note", "warning", "note"], "warning", "1 warning, 2 notes"),
        (["warning", "error", "error"], "error", "2 errors, 1 warning"),
    ],
)
def test_the_worst_grade_counts(grades, expected, words):
    assert (worst(grades), count_grades(grades)) == (expected, words)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (9.996, "10"),
        (999.4, "999"),
        (999.6, "1,000"),
        (-36980.4, "−36,980"),
        (float("nan"), "–"),
    ],
)
def test_numbers_have_three_digits_or_all_before_the_point(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.444, "44 %"), (0.0123, "1.2 %"), (0.00004, "0.004 %"), (0.0996, "10 %")],
)
def test_shares_in_per_cent(share, expected):
    assert percent(share) == expected


def test_counts_of_a_million_and_more_are_short():
    assert [compact(n) for n in (999_999, 1_000_000, 38_175_752)] == ["999,999", "1.0 M", "38.2 M"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_text(path, "old")
    monkeypatch.setattr("os.replace", lambda a, b: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_without_figures_needs_no_matplotlib():
    code = "import ndt.reports.page, sys; print('matplotlib' in sys.modules, 'jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
