"""The examples of docs/how-to, run as they stand there."""

import re
import socketserver
import sys
import threading
from contextlib import closing
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from test_scan_generator import GRID, assert_is, device

from live4d_ophyd import Disk, Live4D, ScanGenerator, ScanGrid, Simplon, live_preview
from live4d_ophyd.sim import SimScanGenerator, SimulatorProcess

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def examples(page):
    """What the code blocks of a page define; those marked ``notest`` are parts of something."""
    names = {"__name__": page}
    for code in re.findall(r"^```python\n(.*?)^```", (HOW_TO / page).read_text(), re.M | re.S):
        exec(code, names)
    return names


class Instrument(socketserver.StreamRequestHandler):
    """The simulated microscope's scan generator behind lines of text."""

    def handle(self):
        scan = {"step_nm": [1, 1]}
        for line in self.rfile:
            word, *numbers = line.decode().split()
            self.server.heard.append(word)
            answer = "OK"
            if word == "SIZE":
                scan["rows"], scan["cols"] = map(int, numbers)
            elif word == "STEP":
                scan["step_nm"] = [float(number) for number in numbers]
            elif word == "FLYBACK":
                scan["flyback"] = int(numbers[0])
            elif word == "ARM":
                put = self.server.generator.client.put
                put("/microscope/scan/prepare", json=scan | {"rasters": int(numbers[0])}).raise_for_status()
            elif word in ("START", "STOP"):
                getattr(self.server.generator, word.lower())()
            else:
                answer = f"what is {word}?"
            self.wfile.write(f"{answer}\n".encode())


@pytest.fixture
def instrument():
    """(simulator, server that speaks the example's language)"""
    with (
        SimulatorProcess(rows=8, cols=8) as simulator,
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Instrument) as server,
    ):
        server.daemon_threads = True
        server.generator, server.heard = SimScanGenerator(simulator.rest_url), []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield simulator, server
        server.shutdown()
        thread.join()
        server.generator.destroy()


def test_scan_generator(instrument):
    simulator, server = instrument
    generator = examples("scan-generator.md")["TextScanGenerator"](*server.server_address)
    assert isinstance(generator, ScanGenerator)
    RE = RunEngine({}, call_returns_result=False)
    with closing(device(simulator, scan_generator=generator)) as live4d:
        RE(bps.mv(live4d.scan_flyback, 2, live4d.scan_step_x, 0.4))
        RE(bp.count([live4d]))
        assert server.heard == ["SIZE", "STEP", "FLYBACK", "ARM", "START"]
        assert_is(live4d.vbf.get(), simulator, live4d.grid())
        RE(bps.mv(live4d.movie_rasters, 2))
        RE(bp.fly([live4d]))
        assert_is(live4d.vbf.get(), simulator, live4d.grid())
        RE(bps.mv(live4d.scan_serpentine, True))
        with pytest.raises(FailedStatus) as caught:
            RE(bp.count([live4d]))
        assert "this generator scans all lines forwards" in str(caught.value.__cause__)
    assert live4d.grid().rows == GRID.rows
    generator.close()


@pytest.fixture
def my_methods(tmp_path, monkeypatch):
    """A file of that name with the code of write-a-method.md, where this process and its engines find it."""
    page = (HOW_TO / "write-a-method.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "my_methods.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_methods", None)


def in_a_session(words, **names):
    """What the block of write-a-method.md that has these words defines, in a session with these names."""
    page = (HOW_TO / "write-a-method.md").read_text()
    blocks = re.findall(r"^```python notest\n(.*?)^```", page, re.M | re.S)
    (code,) = (code for code in blocks if words in code)
    names |= {"Disk": Disk, "Live4D": Live4D, "ScanGrid": ScanGrid, "Simplon": Simplon, "bp": bp, "bps": bps}
    exec(code, names)
    return names


@pytest.mark.own_engine  # which finds the file
def test_write_a_method_in_a_simulated_session(my_methods):
    with (
        SimulatorProcess(rows=4, cols=5) as simulator,
        closing(device(simulator, grid=ScanGrid(4, 5))) as live4d,
    ):
        generator = SimScanGenerator(simulator.rest_url)
        session = {"simulator": simulator, "live4d": live4d, "scan_generator": generator, "count": bp.count}
        session["live_preview"] = live_preview
        RE = RunEngine({}, call_returns_result=False)
        with closing(in_a_session("mine = Live4D(", RE=RE, **session)["mine"]) as mine:
            assert np.isfinite(mine.bar.get()).all()
            assert mine.bar.get().shape == (4, 5)
            assert mine.bar_mean.get() == np.mean(mine.bar.get()) > 0
        generator.destroy()


def test_write_a_method_for_a_detector(my_methods):
    """There is none: the messages of its plans are looked at, and those that move a parameter are followed."""
    plans = []
    live4d = in_a_session('"tcp://dcu:31001"', RE=lambda plan: plans.append(list(plan)))["live4d"]
    with closing(live4d):
        assert live4d.bar.get().shape == (256, 256)
        count, move = plans
        assert [message.obj for message in count if message.command == "trigger"] == [live4d]
        RunEngine({}, call_returns_result=False)(move)
        assert live4d.bar_top.get() == 12
