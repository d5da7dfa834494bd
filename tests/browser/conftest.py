"""A real browser for tests, and what pages ask it for."""

import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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
