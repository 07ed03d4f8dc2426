"""`make viewpictures`: the screenshots of docs/how-to/view.md: simulated scans, `live4d view`, a Chromium."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import bluesky.plans as bp
from bluesky import RunEngine
from playwright.sync_api import sync_playwright

from live4d_ophyd import (
    ABF,
    ADF,
    BF,
    DPC,
    CenterOfMass,
    Disk,
    Live4D,
    MeanPattern,
    ScanGrid,
    Simplon,
    live_preview,
    open_catalog,
    record,
)  # fmt: skip
from live4d_ophyd.live.publish import publish
from live4d_ophyd.plans import calibrate_bright_field
from live4d_ophyd.sim import SimulatorProcess

ROWS, COLS, STEP_NM = 128, 128, 0.1
LIVE_SIZE, RUN_SIZE = {"width": 1400, "height": 890}, {"width": 930, "height": 1140}
MODEL = "Bokeh.documents.map(d => d.get_model_by_name(%r)).find(m => m != null)"


def wait(page, expression):
    """``name`` of `MODEL` in braces."""
    for name in ("head", "run head", "pattern", "bf", "drawn", "runs"):
        expression = expression.replace(f"{{{name}}}", f"({MODEL % name})")
    test = f"window.Bokeh && Bokeh.documents.length && ({expression})"
    page.wait_for_function(f"() => {{ try {{ return {test} }} catch {{ return false }} }}", timeout=60_000)
    page.wait_for_timeout(1500)  # axes and legends are drawn


def at(page, name, x, y):
    """Where (x, y) of a figure is on the page."""
    return page.evaluate(
        f"() => {{ const view = Bokeh.index.find_one_by_id(({MODEL % name}).id);"
        f" const box = view.canvas.el.getBoundingClientRect(), frame = view.frame;"
        f" return [box.left + frame.x_scale.compute({x}), box.top + frame.y_scale.compute({y})] }}"
    )


def live(page, RE, live4d, address, path):
    """In the middle of a second raster: the pattern is that of the first."""
    page.goto(address)
    scan = threading.Thread(target=RE, args=(bp.count([live4d], 3),), kwargs={"sample": "Au on carbon"})
    scan.start()
    wait(page, "{head} && {head}.text.includes('1 of 3') && /[6-9][0-9] %/.test({head}.text)")
    page.screenshot(path=path)
    scan.join()


def old(page, address, path):
    """A position that was clicked, an annulus that was drawn."""
    page.set_viewport_size(RUN_SIZE)
    page.goto(f"{address}runs?run=-1")
    wait(page, "{bf} && {pattern} && {run head}.text.includes('Event')")
    page.mouse.click(*at(page, "bf", 4.4, 6.1))
    wait(page, "{pattern}.title.text.startsWith('pattern at')")
    page.locator("select").filter(has_text="annulus").select_option("annulus")
    begin, end = at(page, "pattern", 47.5, 47.5), at(page, "pattern", 49, 46.8)
    page.mouse.move(*begin)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="make its image").click()
    wait(page, "{drawn}")
    page.screenshot(path=path)


def main(folder):
    """Write view-live.png and view-run.png."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    home = Path(tempfile.mkdtemp(prefix="live4d-view-"))
    home.chmod(0o700)
    os.environ |= {"XDG_RUNTIME_DIR": str(home), "TILED_PROFILES": str(home / "profiles")}
    RE = RunEngine({}, context_managers=[])
    record(RE, open_catalog(home / "catalog", name="view-pictures"))
    publish(RE)
    options = ["--port", "0", "--catalog", home / "catalog"]
    command = [sys.executable, "-u", "-m", "live4d_ophyd", "view", *options]
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = next(line for line in viewer.stdout if line.startswith("images at")).split()[2]
        with sync_playwright() as playwright, SimulatorProcess(
            rows=ROWS, cols=COLS, step=STEP_NM, beam_current=200.0, seed=5, rate=1500, drop="every:1000"
        ) as simulator:  # fmt: skip
            live4d = Live4D(
                simulator.stream_endpoint, name="live4d", scan=ScanGrid(ROWS, COLS, step=STEP_NM, unit="nm"),
                methods=[
                    BF("bf"), ABF("abf"), ADF("adf"), CenterOfMass("com", Disk("all", radius=3, unit="bf")), DPC("dpc"),
                    MeanPattern("pattern"),
                ],
                control=Simplon(simulator.rest_url), timeout=60.0, backend="cpu", record=str(home / "{uid}.h5"),
            )  # fmt: skip
            live4d.wait_for_connection()
            RE.subscribe(live4d.note_run)
            RE(calibrate_bright_field(live4d, "bf", semiangle=10.0))
            RE.preprocessors.append(live_preview([live4d]))
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_page(viewport=LIVE_SIZE)
            live(page, RE, live4d, address, folder / "view-live.png")
            RE(bp.count([live4d]), sample="Au on carbon")
            old(page, address, folder / "view-run.png")
            live4d.close()
    finally:
        viewer.terminate()
        viewer.wait()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images"))
