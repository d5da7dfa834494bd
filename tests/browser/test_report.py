"""The report in a real browser: nothing on the console, nothing fetched, and no script: its own policy forbids them."""

import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib.image
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_run import SESSION, fake_run

from ndt.report import write_report

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--log-level=0", "--window-size=1000,1600", "--no-proxy-server",
]  # fmt: skip


class Recorder(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def browse(tmp_path):
    """Returns a function that opens a page: what it asked for, what the console said, and the page as rendered."""
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next((found for name in names if (found := shutil.which(name))), None)
    if binary is None:
        pytest.skip("no Chromium here; `make test-browser` installs Debian's where it is root and has apt-get")

    def browse(path: Path, *flags: str):
        handler = type("Handler", (Recorder,), {"asked": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(path.parent)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        url, profile = f"http://127.0.0.1:{port}/{path.name}", f"--user-data-dir={tmp_path / 'profile'}"
        rules = f"--host-resolver-rules=MAP elsewhere.test 127.0.0.1:{port}"
        try:
            done = subprocess.run(
                [binary, *FLAGS, profile, rules, *flags, url], capture_output=True, text=True, timeout=90, check=True
            )
        finally:
            server.shutdown()
            server.server_close()
        return handler.asked, re.findall(r".*CONSOLE.*", done.stderr), done.stdout

    return browse


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(fake_run(tmp_path_factory.mktemp("browser") / "demo"))


def test_page_is_quiet_and_self_contained(report, browse):
    asked, console, page = browse(report, "--dump-dom")
    assert asked == ["/report.html"]
    assert console == []
    assert f"Decoding cursor_vel in {SESSION}" in page
    assert page.count("</svg>") == 9


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
