"""Self-contained HTML pages: nothing is fetched, nothing is executed, and they print.

A page is data: a title, tiles, and sections of text, findings, tables and drawings. One template makes all pages, and
what comes from a file is escaped in it.
"""

import importlib.metadata
import math
import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "GRADES",
    "Cell",
    "Drawing",
    "Graded",
    "Section",
    "Table",
    "compact",
    "count_grades",
    "fixed",
    "number",
    "percent",
    "render",
    "versions",
    "worst",
    "write_text",
]

GRADES = {"error": "Error", "warning": "Warning", "note": "Note", "ok": "No finding"}  # worst first, and in words


@dataclass(frozen=True)
class Cell:
    """A table's cell that is more than text.

    Arguments:
        text: What it says; for a grade, its word.
        href: Where it leads, relative to the page; empty for nowhere.
        grade: Key of `GRADES` that colours it; empty for none.
    """

    text: str
    href: str = ""
    grade: str = ""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A finding.

    Arguments:
        grade: How bad it is; a key of `GRADES`, which gives its colour.
        where: What it is about.
        message: A sentence.
        word: Its grade in words, where those are not of `GRADES`.
    """

    grade: str
    where: str
    message: str
    word: str = ""


@dataclass(kw_only=True)
class Table:
    """A table of the page; `numeric` names the columns that align right."""

    head: list[str]
    rows: Sequence[Sequence[str | Cell]]
    numeric: Collection[int] = ()
    caption: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure on a page: an ``<svg>`` element, and a caption for those who see it and those who do not."""

    svg: str
    caption: str


@dataclass(kw_only=True)
class Section:
    """A section of the page; parts that are empty are left out.

    Arguments:
        title: Its heading.
        anchor: Its id on the page; that of a part is not used.
        text: Paragraphs.
        findings: Graded sentences.
        tables: Tables.
        drawings: Figures.
        dropped: What was left out, by the name of who lost it.
        sources: Preformatted texts by name.
        parts: Sections one level below this one, with a smaller heading.
        definitions: What words mean.
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
    """Returns a page.

    Arguments:
        title: Its heading.
        subtitle: A line below.
        sections: In order; the navigation lists them.
        tiles: Values and their labels, shown first.
        kind: What the page is; ends the title of its window.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip

    return environment.get_template("page.html.j2").render(
        title=title, subtitle=subtitle, sections=sections, tiles=tiles, kind=kind, grades=GRADES
    )


def versions(packages: Sequence[str]) -> Table:
    """Returns a table of the interpreter, the platform and those of the packages that are installed."""
    rows = [["Python", platform.python_version()], ["platform", f"{platform.system()} {platform.machine()}"]]
    for name in packages:
        try:
            rows.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            continue

    return Table(head=["package", "version"], rows=rows, caption="Where this page was written")


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and renames it, so that a crash leaves no half of it."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8", errors="replace")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def percent(share: float) -> str:
    """Returns a share in per cent, with two digits where it is small.

    Example:
        >>> percent(0.4444), percent(0.01234), percent(0.0), percent(1.0)
        ('44 %', '1.2 %', '0 %', '100 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def number(value: float) -> str:
    """Returns a number with three digits or all before the point, never with an exponent but for the tiniest.

    Example:
        >>> number(36980.4), number(3.14159), number(0.0123), number(float("nan"))
        ('36,980', '3.14', '0.0123', '–')
    """
    if not math.isfinite(value):
        return "–"

    return (f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}").replace("-", "−")


def fixed(value: object, digits: int = 3) -> str:
    """Returns a number with `digits` decimals; a dash where there is none.

    Example:
        >>> fixed(-1234.5, 1), fixed(None)
        ('−1,234.5', '–')
    """
    there = isinstance(value, int | float) and math.isfinite(value)

    return f"{value:,.{digits}f}".replace("-", "−") if there else "–"


def compact(count: int) -> str:
    """Returns a count with all its digits, or in millions from one of them on.

    Example:
        >>> compact(842910), compact(38175752)
        ('842,910', '38.2 M')
    """
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f} M"


def worst(grades: Sequence[str]) -> str:
    """Returns the worst of the grades; ``ok`` of none.

    Example:
        >>> worst(["note", "error", "warning"]), worst([])
        ('error', 'ok')
    """
    return min(grades, key=list(GRADES).index, default="ok")


def count_grades(grades: Sequence[str]) -> str:
    """Returns how many there are of each grade, in words.

    Example:
        >>> count_grades(["note", "error", "note"]), count_grades([])
        ('1 error, 2 notes', 'no finding')
    """
    counts = [(grades.count(grade), word.lower()) for grade, word in GRADES.items() if grade != "ok"]

    return ", ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in counts if n) or "no finding"
