"""Pages of inspected recordings in a real browser: nothing on the console, nothing fetched, and they print."""

import re
import sys
from pathlib import Path

import matplotlib.image
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ndt.config import IngestConfig, SimulateConfig
from ndt.data.inspect import inspect
from ndt.data.simulate.recordings import simulate

pytestmark = pytest.mark.browser

SESSION = "sub-simA_ses-01"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Folder of the pages of a simulated recording and of a file that is none."""
    folder = tmp_path_factory.mktemp("recordings")
    config = SimulateConfig(
        num_subjects=1, num_sessions=1, num_units=24, num_electrodes=32, seconds=120.0, awkward=("gaps", "empty_units")
    )
    simulate(folder, config)
    (folder / "broken.nwb").write_text("no")
    inspect(f"{folder}/*.nwb", IngestConfig(workers=1), folder / "pages")

    return folder / "pages"


def test_pages_are_quiet_and_self_contained(pages, browse):
    for name, words, figures in ((f"{SESSION}.html", SESSION, 6), ("index.html", "broken.nwb", 0)):
        asked, console, page = browse(pages / name, "--dump-dom")
        assert asked == [f"/{name}"]
        assert console == []
        assert words in page
        assert page.count("</svg>") == figures


def test_page_is_drawn(pages, browse, tmp_path):
    picture = tmp_path / "page.png"
    browse(pages / f"{SESSION}.html", f"--screenshot={picture}", "--window-size=1000,2400")
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (2400, 1000)
    for rows in range(0, 2400, 400):  # header, findings, time line, tables, raster
        assert (pixels[rows : rows + 400].min(-1) < 0.6).mean() > 0.005


def test_prints_to_a_few_sheets(pages, browse, tmp_path):
    sheets = tmp_path / "page.pdf"
    browse(pages / f"{SESSION}.html", f"--print-to-pdf={sheets}")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", sheets.read_bytes())) <= 12
