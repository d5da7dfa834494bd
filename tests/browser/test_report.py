"""The report in a real browser: nothing on the console, nothing fetched, and no script: its own policy forbids them."""

import re
import sys
from pathlib import Path

import matplotlib.image
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_decoder import PARTS, fake_decoder
from fake_run import SESSION, fake_run

from ndt.api import report as write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(fake_run(tmp_path_factory.mktemp("browser") / "demo"))


def test_page_is_quiet_and_self_contained(report, browse):
    asked, console, page = browse(report, "--dump-dom")
    assert asked == ["/report.html"]
    assert console == []
    assert f"Decoding cursor_vel in {SESSION}" in page
    assert page.count("</svg>") == 10


def test_page_is_drawn(report, browse, tmp_path):
    picture = tmp_path / "page.png"
    browse(report, f"--screenshot={picture}")
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (1600, 1000)
    for rows in (slice(0, 400), slice(400, 800), slice(800, 1200)):  # header, scores, raster
        assert (pixels[rows].min(-1) < 0.6).mean() > 0.005


def test_prints_to_a_few_sheets(report, browse, tmp_path):
    sheets = tmp_path / "page.pdf"
    browse(report, f"--print-to-pdf={sheets}")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", sheets.read_bytes())) <= 12


def test_decoder_of_each_kind_is_quiet_drawn_and_printed(browse, tmp_path):
    """A page of three targets: a table and three figures each, and the scores of each."""
    fake_decoder(tmp_path / "run", *PARTS, num_bins=600)
    page = write_report(tmp_path / "run")
    asked, console, text = browse(page, "--dump-dom")
    assert asked == ["/report.html"]
    assert console == []
    assert text.count("</svg>") == 3 * 4
    picture, sheets = tmp_path / "page.png", tmp_path / "page.pdf"
    browse(page, f"--screenshot={picture}", "--window-size=1000,8000")
    pixels = matplotlib.image.imread(picture)[..., :3]
    for rows in range(0, 7200, 800):
        assert (pixels[rows : rows + 800].min(-1) < 0.6).mean() > 0.005
    browse(page, f"--print-to-pdf={sheets}")
    assert 6 <= len(re.findall(rb"/Type\s*/Page\b", sheets.read_bytes())) <= 16


def test_the_check_itself_sees_requests_and_console_errors(report, browse, tmp_path):
    """A page that fetches and complains is caught; the report's own policy keeps the same from doing either."""
    added = '<img src="http://elsewhere.test/pixel.png"><script>console.error("loud")</script>'
    loud = tmp_path / "loud.html"
    loud.write_text(f"<!DOCTYPE html><title>loud</title>{added}")
    asked, console, _ = browse(loud, "--dump-dom")
    assert "/pixel.png" in asked
    assert any('"loud"' in line for line in console)

    guarded = tmp_path / "guarded.html"
    guarded.write_text(report.read_text().replace("</main>", f"{added}</main>"))
    asked, console, _ = browse(guarded, "--dump-dom")
    assert asked == ["/guarded.html"]
    assert not any('"loud"' in line for line in console)
