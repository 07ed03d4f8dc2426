"""`python -m benchmarks.view [FILE]`: what viewers in a browser cost, and what a scan notes of 20 of them.

Previews of 4 images of 512 x 512, at 5 a second, from a RunEngine with live4d's publisher, to `live4d view` and to: one
Chromium; 20 websockets that answer as browsers do. Then a simulated scan without and with 20 of these.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import bluesky.plans as bp
import numpy as np
import psutil
from bluesky import RunEngine
from tornado.websocket import websocket_connect

from benchmarks.report import machine
from live4d_ophyd import CenterOfMass, Disk, Live4D, ScanGrid, Simplon, live_preview
from live4d_ophyd.live.publish import Publisher, session_address
from live4d_ophyd.sim import SimulatorProcess

SIDE, IMAGES, PER_S, SECONDS, VIEWERS = 512, 4, 5.0, 12.0, 20


@contextmanager
def viewer():
    """`live4d view` in a process of its own: its address and process."""
    command = [sys.executable, "-u", "-m", "live4d_ophyd", "view", "--port", "0", "--catalog", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = next(line for line in process.stdout if line.startswith("images at")).split()[2]
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def previews(publisher, seconds):
    """A run of previews, as a RunEngine's thread gives them; the calls' times, s."""
    keys = {
        f"d_{n}": {"dtype": "array", "shape": [SIDE, SIDE], "dims": ["scan_y", "scan_x"], "object_name": "d"}
        for n in range(IMAGES)
    }
    fraction = {"d_live_fraction": {"dtype": "number", "shape": [], "object_name": "d"}}
    calls, random = [], np.random.default_rng(1)
    now = time.time()
    publisher("start", {"uid": str(now), "time": now, "num_points": 1})
    publisher(
        "descriptor",
        {"uid": f"p{now}", "run_start": str(now), "name": "d_live", "data_keys": keys | fraction},
    )
    images = [{key: random.poisson(1000, (SIDE, SIDE)).astype(float) for key in keys} for _ in range(4)]
    begin, number = time.perf_counter(), 0
    while number < seconds * PER_S:
        number += 1
        data = {**images[number % 4], "d_live_fraction": 0.5}
        before = time.perf_counter()
        publisher("event", {"descriptor": f"p{now}", "seq_num": number, "time": time.time(), "data": data})
        calls.append(time.perf_counter() - before)
        time.sleep(max(begin + number / PER_S - time.perf_counter(), 0))
    publisher("stop", {"uid": "e", "run_start": str(now), "time": time.time(), "exit_status": "success"})
    return number, calls


@contextmanager
def cpu_of(processes, said, names):
    """Shares of a core that processes take, into ``said``."""

    def used(process):
        total = 0.0
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(each.cpu_times()[:2])
        return total

    before, begin = [used(process) for process in processes], time.monotonic()
    yield
    took = time.monotonic() - begin
    for name, process, then in zip(names, processes, before):
        said[name] = round((used(process) - then) / took, 3)


def one_browser(said):
    """First image, rate, CPU of server and page."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    shown = (
        "(m => m && Bokeh.index.find_one_by_id(m.id).has_finished())"
        "(Bokeh.documents.map(d => d.get_model_by_name('d_0')).find(m => m != null))"
    )
    with viewer() as (address, server), sync_playwright() as playwright:
        publisher = Publisher(session_address())
        until(lambda: publisher.is_watched)
        previews(publisher, 1)
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        pages = [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
        said["first_image_s"] = []
        for trial in range(5):
            page = chromium.new_page(viewport={"width": 1700, "height": 1000})
            begin = time.perf_counter()
            page.goto(address)
            page.wait_for_function(f"() => {{ try {{ return {shown} }} catch {{ return false }} }}")
            said["first_image_s"].append(round(time.perf_counter() - begin, 2))
            if trial < 4:
                page.close()
        page.evaluate(
            "() => { window.count = 0; const beat = Bokeh.documents.map(d => d.get_model_by_name('beat'))"
            ".find(m => m != null); beat.properties.tags.change.connect(() => window.count++) }"
        )
        with cpu_of([server, pages[0]], said, ["server_cores", "page_cores"]):
            sent, calls = previews(publisher, SECONDS)
        said["previews"], said["drawn"] = sent, page.evaluate("() => window.count")
        said["publish_call_ms"] = [round(1e3 * float(np.median(calls)), 3), round(1e3 * max(calls), 3)]
        publisher.close()


def until(condition):
    while not condition():
        time.sleep(0.01)


class Crowd:
    """Websockets that ask for the document and say of each change that they have drawn it."""

    def __init__(self, address, count):
        self.drawn = [0] * count
        self.bytes = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._waiting = count
        self._thread = threading.Thread(target=self._run, args=(address,), daemon=True)
        self._thread.start()
        self._ready.wait(120)

    def _run(self, address):
        asyncio.set_event_loop(self._loop)
        for n in range(len(self.drawn)):
            self._loop.create_task(self._view(address, n))
        self._loop.run_forever()

    async def _view(self, address, n):
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
        token = re.search(r'"token":"([^"]+)"', page)[1]
        link = await websocket_connect(
            address.replace("http", "ws") + "ws", subprotocols=["bokeh", token], max_message_size=1 << 28
        )
        await self._message(link)
        await self._send(link, "PULL-DOC-REQ", {})
        beat = re.search(r'"id":"([^"]+)"(?:(?!"id":).)*?"name":"beat"', await self._message(link))[1]
        await self._say(link, beat, 0)
        self._waiting -= 1
        if not self._waiting:
            self._ready.set()
        while True:
            content = await self._message(link)
            if found := re.search(r'"version",\s*\[(-?\d+)\]', content):
                await self._say(link, beat, int(found[1]))
                self.drawn[n] += 1

    async def _say(self, link, beat, version):
        event = {"kind": "ModelChanged", "model": {"id": beat}, "attr": "tags", "new": [version]}
        await self._send(link, "PATCH-DOC", {"events": [event]})

    async def _message(self, link):
        """The content of a message, whose buffers are left."""
        header = json.loads(await link.read_message())
        await link.read_message()
        content = await link.read_message()
        for _ in range(2 * header.get("num_buffers", 0)):
            self.bytes += len(await link.read_message())
        return content

    @staticmethod
    async def _send(link, kind, content):
        for part in ({"msgid": os.urandom(8).hex(), "msgtype": kind}, {}, content):
            await link.write_message(json.dumps(part))

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)


def many(said):
    """20 viewers of the same previews."""
    with viewer() as (address, server):
        publisher = Publisher(session_address())
        until(lambda: publisher.is_watched)
        previews(publisher, 1)
        crowd = Crowd(address, VIEWERS)
        before = list(crowd.drawn)
        with cpu_of([server], said, ["server_cores"]):
            sent, calls = previews(publisher, SECONDS)
        said["previews"] = sent
        drawn = [after - then for after, then in zip(crowd.drawn, before)]
        said["drawn_each"] = [min(drawn), max(drawn)]
        said["publish_call_ms"] = [round(1e3 * float(np.median(calls)), 3), round(1e3 * max(calls), 3)]
        said["server_mib"] = round(server.memory_info().rss / 2**20)
        crowd.close()
        publisher.close()


def scans(said):
    """Rasters of a simulated scan, 10,000 frames a second, with nobody who looks, and with 20."""
    RE = RunEngine({})
    publisher = Publisher(session_address())
    RE.subscribe(publisher)
    with SimulatorProcess(rows=192, cols=192, rate=10e3) as sim:
        live4d = Live4D(
            sim.stream_endpoint, name="live4d", scan=ScanGrid(192, 192), control=Simplon(sim.rest_url), backend="cpu",
            methods=[Disk("vbf", radius=15), CenterOfMass("com", Disk("all", radius=40))], timeout=60.0,
        )  # fmt: skip
        live4d.wait_for_connection()
        RE.preprocessors.append(live_preview([live4d]))

        def rasters():
            rows = []
            RE(bp.count([live4d], 3), lambda name, doc: rows.append(doc["data"]) if name == "event" else None)
            ends = [row for row in rows if "live4d_frame_rate" in row]
            return {
                "frames_a_second": [round(row["live4d_frame_rate"]) for row in ends],
                "lost": sum(row["live4d_frames_lost"] for row in ends), "previews": len(rows) - len(ends),
            }  # fmt: skip

        rasters()
        said["nobody"] = rasters()
        with viewer() as (address, _):
            until(lambda: publisher.is_watched)
            crowd = Crowd(address, VIEWERS)
            before = sum(crowd.drawn)
            said["viewers"] = rasters() | {"drawn_each": round((sum(crowd.drawn) - before) / VIEWERS, 1)}
            crowd.close()
        live4d.close()
    publisher.close()


def main():
    """Print all as JSON, and write it where the first argument says."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o700)
        os.environ["XDG_RUNTIME_DIR"] = home
        found = {
            "benchmark": "view",
            "machine": machine(),
            "side": SIDE,
            "images": IMAGES,
            "viewers": VIEWERS,
        }
        for name, part in (("one_browser", one_browser), ("many", many), ("scans", scans)):
            part(found.setdefault(name, {}))
    text = json.dumps(found, indent=1)
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text + "\n")


if __name__ == "__main__":
    main()
