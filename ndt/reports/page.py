"""Self-contained HTML pages, made of sections of text, findings, tables and figures by one template.

A page fetches nothing and runs no script; the template escapes every text that comes from a file.
"""

import importlib.metadata
import math
import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ndt.text import escaped

__all__ = [
    "GRADES", "Cell", "Drawing", "Graded", "Section", "Table", "compact", "count_grades", "fixed", "many", "number",
    "percent", "render", "versions", "worst", "write_text",
]  # fmt: skip

GRADES = {"error": "Error", "warning": "Warning", "note": "Note", "ok": "No finding"}  # worst first: key -> words


@dataclass(frozen=True)
class Cell:
    """A table's cell with a link, relative to the page, or with the colour of a grade (a key of `GRADES`)."""

    text: str
    href: str = ""
    grade: str = ""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A finding.

    Arguments:
        grade: Key of `GRADES`, which gives the colour.
        where: Subject of the finding.
        message: A sentence.
        word: Grade in words, if not that of `GRADES`.
    """

    grade: str
    where: str
    message: str
    word: str = ""


@dataclass(kw_only=True)
class Table:
    """A table; `numeric` are the columns that align right."""

    head: list[str]
    rows: Sequence[Sequence[str | Cell]]
    numeric: Collection[int] = ()
    caption: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure: an ``<svg>`` element and its caption, which is also its text for screen readers."""

    svg: str
    caption: str


@dataclass(kw_only=True)
class Section:
    """A section of the page; the template leaves empty fields out.

    Arguments:
        title: Heading.
        anchor: Id on the page; unused in parts.
        text: Paragraphs.
        findings: Graded sentences.
        tables: Tables.
        drawings: Figures.
        dropped: Sentences about what was left out, by file or session.
        sources: Preformatted texts by name.
        parts: Subsections.
        definitions: Meaning of each term.
    """

    title: str
    anchor: str = ""
    text: list[str] = field(default_factory=list)
    findings: list[Graded] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    parts: list["Section"] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)


def render(
    title: str, subtitle: str, sections: Sequence[Section], tiles: Sequence[tuple[str, str]] = (), kind: str = "report"
) -> str:
    """Returns a page: heading, tiles of values and their labels, and sections; `kind` ends the window's title."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip

    return environment.get_template("page.html.j2").render(
        title=title, subtitle=subtitle, sections=sections, tiles=tiles, kind=kind, grades=GRADES
    )


def _shown(value: object) -> object:
    """Returns what a page shows of a value: text with escapes for hidden characters; markup as it is."""
    return escaped(value, keep="\n") if type(value) is str else value


def versions(packages: Sequence[str]) -> Table:
    """Returns a table of the versions of Python, the platform and the installed ones of the packages."""
    rows = [["Python", platform.python_version()], ["platform", f"{platform.system()} {platform.machine()}"]]
    for name in packages:
        try:
            rows.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            continue

    return Table(head=["package", "version"], rows=rows, caption="Versions that wrote this page")


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name and renames it, so that a crash leaves no partial file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def percent(share: float) -> str:
    """Returns a share in per cent, with two digits if it is small.

    Example:
        >>> percent(0.4444), percent(0.01234), percent(0.0), percent(1.0)
        ('44 %', '1.2 %', '0 %', '100 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def number(value: float) -> str:
    """Returns a number with three significant digits, or with all digits before the decimal point.

    Example:
        >>> number(36980.4), number(3.14159), number(0.0123), number(float("nan"))
        ('36,980', '3.14', '0.0123', '–')
    """
    if not math.isfinite(value):
        return "–"

    return (f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}").replace("-", "−")


def fixed(value: object, digits: int = 3, *, signed: bool = False) -> str:
    """Returns a number with `digits` decimals; a dash for None and NaN.

    Example:
        >>> fixed(-1234.5, 1), fixed(0.5, 2, signed=True), fixed(None)
        ('−1,234.5', '+0.50', '–')
    """
    finite = isinstance(value, int | float) and math.isfinite(value)

    return f"{value:{'+' * signed},.{digits}f}".replace("-", "−") if finite else "–"


def compact(count: int) -> str:
    """Returns a count with all its digits, or in millions from 1,000,000.

    Example:
        >>> compact(842910), compact(38175752)
        ('842,910', '38.2 M')
    """
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f} M"


def many(count: int, noun: str) -> str:
    """Returns a count and its noun, in the plural unless the count is 1.

    Example:
        >>> many(1, "gap"), many(2000, "gap")
        ('1 gap', '2,000 gaps')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def worst(grades: Sequence[str]) -> str:
    """Returns the worst of the grades; ``ok`` if there is none.

    Example:
        >>> worst(["note", "error", "warning"]), worst([])
        ('error', 'ok')
    """
    return min(grades, key=list(GRADES).index, default="ok")


def count_grades(grades: Sequence[str]) -> str:
    """Returns the number of findings of each grade, in words.

    Example:
        >>> count_grades(["note", "error", "note"]), count_grades([])
        ('1 error, 2 notes', 'no finding')
    """
    counts = [many(n, word.lower()) for grade, word in GRADES.items() if grade != "ok" and (n := grades.count(grade))]

    return ", ".join(counts) or "no finding"
