"""Hidden characters of names are shown as escapes wherever people read them."""

import json

import numpy as np
import pytest
from rich.console import Console

from ndt.cli import main
from ndt.errors import InputError
from ndt.reports import console
from ndt.reports.page import Section, render
from ndt.reports.plots import page_figure
from ndt.reports.plots_recording import plain_text
from ndt.text import escaped, escaped_within

EVIL = "m1\x1b[31m\u202egpj.\u2066\u200bx\udcff"
SHOWN = r"m1\x1b[31m\u202egpj.\u2066\u200bx\udcff"


def test_hidden_characters_become_escapes_and_others_stay() -> None:
    assert escaped(EVIL) == SHOWN
    plain = "Zürich µV 神経 − é 🧠 a\\b"
    assert escaped(plain) == plain
    assert escaped("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert escaped_within({"a\x07": [("\x07",), 1, None]}) == {"a\\x07": [("\\x07",), 1, None]}


def test_errors_show_them_escaped_on_one_line() -> None:
    error = InputError(f"{EVIL}.nwb", "units\r\n2", "a name", "x\u2028y")
    assert str(error) == f"{SHOWN}.nwb: units 2: expected a name, found x y"
    assert len(str(InputError("a", "b", "c", "x" * 10_000))) <= 2000


def test_the_console_shows_them_escaped(capsys) -> None:
    table = console._table(["name", EVIL], [[EVIL, "[red]1"]], EVIL)
    console._print(table, EVIL)
    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 4
    assert "\x1b" not in printed
    assert "[red]1" in printed
    assert Console().width  # rich's own is untouched


def test_pages_show_them_escaped() -> None:
    section = Section(title=EVIL, anchor=EVIL, text=[EVIL], sources={EVIL: f"a: {EVIL}\n"}, dropped={EVIL: [EVIL]})
    page = render(EVIL, EVIL, [section], [("1", EVIL)])
    assert SHOWN in page
    assert not set(page) & set("\x1b\u202e\u2066\u200b\udcff")


def test_plots_show_them_escaped() -> None:
    with plain_text(), page_figure(2.0) as sheet:
        sheet.axes[0, 0].set(xlabel=EVIL.replace("\udcff", ""), title="a\u202eb")
        sheet.axes[0, 0].set_xticks(np.arange(2), ["c\u2067d", "e"])
    assert r"gpj.\u2066\u200bx" in sheet.svg
    assert r"a\u202eb" in sheet.svg
    assert r"c\u2067d" in sheet.svg


@pytest.mark.parametrize("argv", [["report", EVIL], ["embed", EVIL, "--session", "x", "--out", "x.npz"], [EVIL]])
def test_verbs_show_them_escaped(argv, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main([word.replace("\udcff", "") for word in argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"m1\x1b[31m\u202egpj" in line


def test_json_output_is_plain_ascii(tmp_path, capsys) -> None:
    name = tmp_path / "a\u202eb.npz"
    np.savez(name, x=np.zeros(3))
    main(["inspect", str(name), "--json", "--quiet"])
    assert capsys.readouterr().out.isascii()
    assert json.dumps(EVIL).isascii()
