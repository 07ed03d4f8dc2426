"""`live4d view` as an operator has it: a real Chromium, a session that publishes, recorded runs of a catalog."""

import asyncio
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

import bluesky.plans as bp
import h5py
import hdf5plugin  # noqa: F401
import httpx
import numpy as np
import pytest
from chromium import Page, browser
from fake_device import FakeLive4D, run_engine
from served_view import served_view
from test_recording import SCAN, arguments, in_new_process

from live4d_ophyd import live_preview
from live4d_ophyd.live.publish import Publisher
from live4d_ophyd.recording.frame_sets import FRAMES
from live4d_ophyd.sim import SimulatorProcess

INLINE = pytest.importorskip("bokeh.resources").INLINE
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture
def runtime(tmp_path):
    """A runtime folder of its own: sessions and viewers of other tests are not met."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder


def test_a_colleague_watches_a_scan(chromium, runtime):
    """Images grow, the last one is the Event's; a browser that comes after the run sees it, too."""
    device = FakeLive4D(name="live4d", shape=(24, 36), detectors=("vbf", "adf"))
    with run_engine() as RE, served_view("--catalog", "none", XDG_RUNTIME_DIR=str(runtime)) as address:
        publisher = Publisher(f"ipc://{runtime / 'live4d-ophyd' / 'documents'}")
        RE.subscribe(publisher)
        RE.preprocessors.append(live_preview([device]))
        page = Page(chromium)
        page.open(address)
        page.wait("model('head').text.includes('waiting')")
        plan = threading.Thread(target=RE, args=(bp.count([device]),), daemon=True)
        plan.start()
        page.wait("model('head').text.includes('running')")
        assert device.triggered.wait(30)
        device.advance(9)
        middle = Page(chromium)
        middle.open(address)
        for seen in (page, middle):
            seen.wait("model('live4d_vbf') && model('live4d_vbf').title.text.includes('37.5 % seen')")
            grown = np.array(seen.image("live4d_vbf"), dtype=float).reshape(24, 36)
            np.testing.assert_array_equal(grown[:9], device.complete[0][:9].astype(np.float32))
            assert np.isnan(grown[9:]).all()
        device.advance(15)
        plan.join(30)
        page.wait("model('head').text.includes('success')")
        middle.wait("model('head').text.includes('success')", timeout=10)
        late = Page(chromium)
        late.open(address)
        late.wait("model('live4d_adf')")
        for seen in (page, middle, late):
            for key, expected in zip(("live4d_vbf", "live4d_adf"), device.complete):
                np.testing.assert_array_equal(seen.image(key), expected.astype(np.float32).ravel())
        assert late.get("model('live4d_vbf').x_range.end") == pytest.approx((36 - 0.5) * 0.25)
        assert late.get("model('live4d_vbf').y_range.start") > late.get("model('live4d_vbf').y_range.end"), (
            "row 0 on top"
        )
        assert page.errors == middle.errors == late.errors == []
        publisher.close()


def test_positions_without_a_length(chromium, runtime):
    """A scan whose step nobody gave is shown in px."""
    key = {"dtype": "array", "shape": [4, 5], "dims": ["scan_y", "scan_x"], "object_name": "d", "source": ""}
    image = np.arange(20.0).reshape(4, 5)
    with served_view("--catalog", "none", XDG_RUNTIME_DIR=str(runtime)) as address:
        publisher = Publisher(f"ipc://{runtime / 'live4d-ophyd' / 'documents'}")
        publisher("start", {"uid": "a", "time": 1.0})
        descriptor = {"uid": "p", "run_start": "a", "name": "primary", "data_keys": {"d_vbf": key}}
        publisher("descriptor", descriptor)
        publisher("event", {"descriptor": "p", "seq_num": 1, "time": 2.0, "data": {"d_vbf": image}})
        page = Page(chromium)
        page.open(address)
        page.wait("model('d_vbf')")
        assert page.get("model('d_vbf').below[0].axis_label") == "scan_x [px]"
        np.testing.assert_array_equal(page.image("d_vbf"), image.ravel())
        assert page.errors == []
        publisher.close()


PLAN = """
    from ophyd.sim import motor
    (uid,) = RE(bp.scan([live4d], motor, -1, 1, 3), sample="MoS2"); print(json.dumps(uid))
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of three Events with recorded frames: catalog, uid, and the frames (event, scan_y, scan_x, q_y, q_x)."""
    home = tmp_path_factory.mktemp("home")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", cache)  # compiled kernels
        patch.setenv("HOME", str(home))
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "TILED_PROFILES"):
            patch.delenv(name, raising=False)
        with SimulatorProcess(rows=10, cols=12, rate=5e3) as sim:
            told = arguments(sim, home, home / "raw" / "{scan_id}.h5")
            uid = in_new_process(SCAN.replace("    PLAN", PLAN), *told)
        frames = []
        for path in sorted((home / "raw").glob("*.h5")):
            with h5py.File(path) as file:
                frames.append(file[FRAMES][:].reshape(10, 12, *file[FRAMES].shape[1:]))
        yield SimpleNamespace(catalog=home / "catalog", uid=uid, frames=np.array(frames))


def test_an_operator_looks_at_an_old_run(chromium, recorded, runtime):
    """Choose it, choose an Event, click a position, draw a detector, get its image."""
    frames = recorded.frames
    with served_view("--catalog", recorded.catalog, XDG_RUNTIME_DIR=str(runtime)) as address:
        page = Page(chromium, (1320, 1200))
        page.open(f"{address}runs")
        page.wait("model('runs').data.uid.length == 1")
        assert page.get("model('runs').data.uid[0]") == recorded.uid
        assert page.get("model('runs').data.sample[0]") == "MoS2"
        page.page.get_by_text("MoS2").first.click()
        page.wait("model('vbf') && model('pattern') && model('run head').text.includes('Event 3 of 3')")
        assert "motor 1" in page.get("model('run head').text")

        page.page.get_by_role("slider").first.press("ArrowLeft")
        page.wait("model('run head').text.includes('Event 2 of 3')")
        assert "motor 0" in page.get("model('run head').text")

        row, col, step = 4, 7, 0.25
        page.click("vbf", col * step, row * step)
        page.wait(f"model('pattern').title.text == 'pattern at row {row}, col {col}'")
        np.testing.assert_array_equal(page.image("pattern"), frames[1, row, col].ravel())

        before = page.get("[model('row').value, model('col').value, model('radius').value]")
        page.drag("pattern", (before[1], before[0]), (before[1] + 8, before[0] - 5))
        page.wait(
            f"Math.hypot(model('row').value - {before[0] - 5}, model('col').value - {before[1] + 8}) < 1.5"
            f" && Math.abs(model('radius').value - {before[2]}) < 0.1"  # all sides of the box have arrived
        )
        center_row, center_col, radius = page.get(
            "[model('row').value, model('col').value, model('radius').value]"
        )
        assert radius == pytest.approx(before[2], abs=0.1)
        page.page.get_by_role("button", name="make its image").click()
        page.wait("model('drawn')")
        y, x = np.mgrid[: frames.shape[3], : frames.shape[4]]
        under = (y - center_row) ** 2 + (x - center_col) ** 2 <= radius**2
        expected = (frames[1].astype(float) * under).sum(axis=(-2, -1))
        np.testing.assert_array_equal(page.image("drawn"), expected.astype(np.float32).ravel())
        assert page.errors == []


def test_show_in_jupyter(chromium, recorded):
    """A kernel, the page of a notebook with what a cell has displayed, and its Event, chosen by the slider."""
    from jupyter_client.manager import start_new_kernel

    displayed = []
    notebook = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(displayed))
    threading.Thread(target=notebook.serve_forever, daemon=True).start()
    port = notebook.server_port
    manager, client = start_new_kernel()
    try:
        where = f"catalog={str(recorded.catalog)!r}, notebook_url='127.0.0.1:{port}'"
        code = f"import live4d_ophyd; live4d_ophyd.show(-1, {where})"
        reply = client.execute_interactive(
            code, timeout=100, output_hook=lambda message: take(message, displayed)
        )
        assert reply["content"]["status"] == "ok", displayed
        page = Page(chromium)
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("model('vbf') && model('run head').text.includes('Event 3 of 3')")
        shown = page.image("vbf")
        assert len(shown) == 120
        page.page.get_by_role("slider").first.press("ArrowLeft")
        page.wait("model('run head').text.includes('Event 2 of 3')")
        assert page.image("vbf") != shown
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        notebook.shutdown()
        notebook.server_close()


def take(message, displayed):
    """What a cell displays."""
    content = message["content"]
    displayed.append(content.get("data", {}).get("text/html") or "\n".join(content.get("traceback", ())))


def handler_of(displayed):
    """Serves the displayed HTML as one page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            resources = INLINE.render() if self.path == "/" else ""
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(
                f"<html><head>{resources}</head><body>{''.join(displayed)}</body></html>".encode()
            )

        def log_message(self, *_):
            pass

    return Handler


def test_without_the_token_there_is_nothing(chromium, runtime):
    """Neither page nor websocket; with it both, and then without it in the address."""
    options = ("--catalog", "none", "--token")
    token = "0123456789abcdefXYZ"
    with served_view(*options, XDG_RUNTIME_DIR=str(runtime), LIVE4D_VIEW_TOKEN=token) as address:
        place = urlsplit(address)
        assert place.query == f"token={token}"
        base = f"http://{place.netloc}"
        for path in (
            "/",
            "/?token=",
            "/?token=wrong",
            f"/?token={token}x",
            "/ws",
            "/autoload.js?bokeh-autoload-element=1",
        ):
            answer = httpx.get(base + path, follow_redirects=True)
            assert answer.status_code == 401 or path == "/ws", path
            assert "bokeh" not in answer.text.lower(), path
        page = Page(chromium)
        page.open(address)
        page.wait("model('head')")
        page.open(f"{base}/")  # a link: the cookie goes along
        page.wait("model('head')")
        session = re.search(r'"token":"([^"]+)"', page.page.content())[1]
        assert refused(base, session, origin=base), "a session's name is no token"
        cookie = {"Cookie": "; ".join(f"{c['name']}={c['value']}" for c in page.page.context.cookies())}
        assert refused(base, session, origin="http://evil.example", headers=cookie), "of another page"
        assert refused(base, session[:-6] + "AAAAAA", origin=base, headers=cookie), (
            "a session that nobody signed"
        )
        assert not refused(base, session, origin=base, headers=cookie)


def refused(base, session, *, origin, headers=None):
    """Whether a websocket brings nothing. In a thread: the main one has Playwright's event loop."""
    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.websocket import websocket_connect

    async def ask():
        request = HTTPRequest(
            base.replace("http", "ws") + "/ws", headers={"Origin": origin, **(headers or {})}
        )
        try:
            link = await websocket_connect(request, subprotocols=["bokeh", session])
        except HTTPClientError:
            return True
        first = await asyncio.wait_for(link.read_message(), 20)
        link.close()
        return first is None

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, ask()).result()
