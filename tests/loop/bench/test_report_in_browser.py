"""The report as a browser shows it: drawn, legible, and without a request for anything else."""

import json
import shutil
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.pure.bench.results_factory import measurement, results, run_of
from uproxy.bench.page.document import document


def _is_snap(program: str) -> bool:
    """Whether it does not see the files of a test; or is Ubuntu's script that asks for one."""
    path = Path(program).resolve()
    return path.name == "snap" or b"snap" in path.read_bytes()[:4096]


_FOUND = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
BROWSER = next((program for program in _FOUND if not _is_snap(program)), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=2000",  # --dump-dom waits for timers; no real time passes
)
PATHS = ("direct", "uproxy-bind", "uproxy-redirect-python", "kernel-dnat", "haproxy")

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser but of snap to look at the report with (apt-get install chromium)"
)

LISTEN = """<script>
window.refused = [];
addEventListener("securitypolicyviolation", (event) => window.refused.push(event.blockedURI));
</script>"""
LOOK = """<script>
addEventListener("load", () => setTimeout(() => {
const box = (one) => one.getBoundingClientRect().toJSON();
const all = (selector, root) => [...(root ?? document).querySelectorAll(selector)];
all(".legend input")[PRESSED]?.click();
const seen = {
  curves: all("figure .curve").map((one) => ({...box(one), length: one.getTotalLength(),
    path: one.parentNode.dataset.path, stroke: getComputedStyle(one).stroke})),
  bars: all("rect.bar").map(box),
  names: all("figure svg").map((svg) => all(".name", svg).map(box)),
  smallest: Math.min(...all("svg text").map((one) => one.getBoundingClientRect().height)),
  faded: [...new Set(all(".series.hidden").map((one) => one.dataset.path))],
  switches: all(".legend input").filter((one) => one.offsetParent).length,
  wide: document.documentElement.scrollWidth - innerWidth,
  refused: window.refused,
};
parent.document.body.appendChild(document.createElement("pre")).textContent = JSON.stringify(seen);
}, 100));
</script>"""


FRAME = """<!doctype html><link rel="icon" href="data:,">
<iframe src="/report.html" width="{width}" height="900"></iframe>"""
"""A window cannot be made as narrow as a telephone; a frame can."""


@dataclass
class Seen:
    """What the browser made of the page."""

    asked: list[str]
    """Every path that it requested."""
    found: dict


def look(page: str, tmp_path, *, width: int = 1280, pressed: int = -1, dark: bool = False) -> Seen:
    """Open a page in the browser, press one of the legend's switches, and look."""
    head, body = page.replace("</head>", f"{LISTEN}</head>"), LOOK.replace("PRESSED", str(pressed))
    pages = {"/": FRAME.format(width=width), "/report.html": head.replace("</body>", f"{body}</body>")}
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            dom = browse(url, f"--user-data-dir={tmp_path}", "--window-size=1400,1000", *scheme(dark))
        finally:
            server.shutdown()
    return Seen(asked, json.loads(dom.partition("<pre>")[2].partition("</pre>")[0]))


def scheme(dark: bool) -> list[str]:
    return ["--blink-settings=preferredColorScheme=0"] if dark else []


def browse(url: str, *flags: str) -> str:
    """Return the page's DOM after its scripts ran."""
    argv = [BROWSER, *FLAGS, *flags, "--dump-dom", url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as browser:
        try:
            return browser.communicate(timeout=45)[0]
        except subprocess.TimeoutExpired:
            browser.kill()
            raise


@pytest.fixture(scope="module")
def page():
    run = results(paths=PATHS, workloads=("rr-64x64B", "stream-down-8"))
    idle = measurement(workload="idle-1000", rss_bytes_per_connection=400.0, kernel_bytes_per_connection=9e3)
    return document(run_of([*run.measurements, idle], warnings=["no root"]))


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    return look(page, tmp_path_factory.mktemp("browser"))


def test_nothing_but_the_page_is_requested(seen):
    assert seen.asked == ["/", "/report.html"]  # / is the frame
    assert seen.found["refused"] == []


def test_every_path_is_drawn_as_a_line_of_some_size(seen):
    curves = seen.found["curves"]
    assert [curve["path"] for curve in curves] == list(PATHS)
    assert all(curve["width"] > 150 and curve["height"] > 50 for curve in curves)
    assert all(curve["length"] > 200 for curve in curves)


def test_every_line_has_a_colour_of_its_own(seen):
    assert len({curve["stroke"] for curve in seen.found["curves"]}) == len(PATHS)


def test_bars_have_a_size(seen):
    # Throughput of two workloads, five paths each, and CPU in two to three programs, two modes each.
    assert len(seen.found["bars"]) > 10 + 40
    assert all(bar["width"] > 0 and bar["height"] > 5 for bar in seen.found["bars"])


def overlaps(one: dict, other: dict) -> bool:
    apart = 3  # boxes of text have some room above and below the letters
    across = one["left"] < other["right"] and other["left"] < one["right"]
    return across and one["top"] + apart < other["bottom"] and other["top"] + apart < one["bottom"]


@pytest.mark.parametrize("width", [1280, 420])
def test_names_are_legible_on_any_screen(page, tmp_path, width):
    found = look(page, tmp_path, width=width).found
    assert found["wide"] <= 0
    assert found["smallest"] >= 9
    for names in found["names"]:
        assert not [(a, b) for n, a in enumerate(names) for b in names[n + 1 :] if overlaps(a, b)]
        assert all(name["left"] >= 0 and name["right"] <= width for name in names)


def test_a_path_can_be_faded_out_everywhere(page, tmp_path):
    found = look(page, tmp_path, pressed=1).found
    assert found["switches"] == len(PATHS)
    assert found["faded"] == ["uproxy-bind"]


def test_dark_screens_get_colours_of_their_own(page, seen, tmp_path):
    dark = look(page, tmp_path, dark=True).found
    for light_curve, dark_curve in zip(seen.found["curves"], dark["curves"], strict=True):
        assert light_curve["stroke"] != dark_curve["stroke"]


def test_what_would_be_requested_is_noticed(page, tmp_path):
    """The other tests can fail: an image that somebody adds is seen, and refused by the page's own policy."""
    broken = page.replace("</header>", '<img src="/picture.png"/></header>')
    assert look(broken, tmp_path).found["refused"] != []
