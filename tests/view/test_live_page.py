"""The page of the run that goes on, without a browser: what it sends, and when."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("bokeh")

from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent
from bokeh.protocol import Protocol

from live4d_ophyd.view import live_page
from live4d_ophyd.view.live_page import LivePage
from live4d_ophyd.view.live_run import LiveRuns

KEYS = {
    f"d_{name}": {"dtype": "array", "shape": [6, 8], "dims": ["scan_y", "scan_x"], "object_name": "d"}
    for name in ("vbf", "adf")
}
SETTINGS = {"d_detector_y_pixels": 64, "d_detector_x_pixels": 64, "d_vbf_kind": "disk", "d_vbf_radius": 5.0}


class FakeBrowser:
    """Reads what a document sends, and says that it has drawn it."""

    def __init__(self, document, clock):
        self._clock = clock
        self._protocol = Protocol()
        self.known, self.unknown, self.messages = set(), [], 0
        self._document = document
        self._read(json.loads(self._protocol.create("PULL-DOC-REPLY", "1", document).content_json))
        document.on_change(self._on_change)

    def _on_change(self, event):
        if isinstance(event, DocumentPatchedEvent):
            self.messages += 1
            self._read(json.loads(self._protocol.create("PATCH-DOC", [event]).content_json))

    def _read(self, node, key=""):
        if isinstance(node, dict):
            if "id" in node and key != "data":  # else of an array's bytes, which come beside
                if node.get("type") == "object":
                    self.known.add(node["id"])
                elif node["id"] not in self.known:
                    self.unknown.append(node["id"])
            for name, value in node.items():
                self._read(value, name)
        elif isinstance(node, list):
            for value in node:
                self._read(value, key)

    def model(self, name):
        return self._document.get_model_by_name(name)

    def has_drawn(self):
        beat = self.model("beat")
        beat.tags = list(beat.data["version"])

    def follow(self, seconds=1.0):
        """What the server's clock does, so much later."""
        self._clock.now += seconds
        for callback in self._document.session_callbacks:
            callback.callback()


def run_documents(uid):
    yield "start", {"uid": uid, "time": 1.0, "num_points": 1}
    keys = {**KEYS, "d_live_fraction": {"dtype": "number"}}
    settings = {"d": {"data": SETTINGS}}
    descriptor = {
        "uid": f"p{uid}",
        "run_start": uid,
        "name": "d_live",
        "data_keys": keys,
        "configuration": settings,
    }
    yield "descriptor", descriptor
    for n in range(3):
        data = {key: np.full((6, 8), n + 1.0) for key in KEYS} | {"d_live_fraction": 0.3 * n}
        yield "event", {"descriptor": f"p{uid}", "seq_num": n + 1, "time": 2.0 + n, "data": data}


@pytest.fixture
def page(monkeypatch):
    runs, document = LiveRuns(), Document()
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(live_page, "time", SimpleNamespace(monotonic=lambda: clock.now))
    LivePage(document, runs, has_catalog=False)
    return runs, FakeBrowser(document, clock)


def test_changes_name_only_what_the_browser_has(page):
    runs, browser = page
    for uid in ("a", "b"):
        for document in run_documents(uid):
            runs.take(*document)
            browser.has_drawn()
            browser.follow()
    assert browser.model("d_vbf") is not None
    assert browser.unknown == []


def test_a_browser_that_has_not_drawn_is_sent_nothing(page):
    runs, browser = page
    browser.has_drawn()
    for document in run_documents("a"):
        runs.take(*document)
        browser.follow()
    assert browser.model("d_vbf") is None
    browser.has_drawn()
    browser.follow()
    assert browser.model("d_vbf") is not None


def test_a_new_run_does_not_pass_off_the_images_before_as_its_own(page):
    runs, browser = page
    for document in run_documents("a"):
        runs.take(*document)
    browser.has_drawn()
    browser.follow()
    assert browser.model("d_vbf").title.text == "vbf"
    for document in list(run_documents("b"))[:2]:
        runs.take(*document)
    browser.has_drawn()
    browser.follow()
    assert browser.model("d_vbf").title.text == "vbf   (the run before)"


def test_images_are_chosen_and_what_a_page_invents_is_ignored(page):
    runs, browser = page
    for document in run_documents("a"):
        runs.take(*document)
    browser.has_drawn()
    browser.follow()
    browser.model("images").value = ["d_adf", "no such image"]
    assert browser.model("d_vbf") is None
    assert browser.model("d_adf") is not None
    assert browser.unknown == []


def test_one_that_draws_late_is_sent_the_next_at_once_and_none_more_than_five_a_second(page):
    runs, browser = page
    start, descriptor, *events = run_documents("a")
    for document in (start, descriptor, events[0]):
        runs.take(*document)
    browser.has_drawn()
    browser.follow()
    assert browser.model("beat").data["version"] == [runs.run.version]
    runs.take(*events[1])
    browser.has_drawn()
    browser.follow(0.1)
    assert browser.model("beat").data["version"] != [runs.run.version], "too soon"
    browser.follow(0.1)
    assert browser.model("beat").data["version"] == [runs.run.version]
    runs.take(*events[2])
    browser.follow(0.22)
    assert browser.model("beat").data["version"] != [runs.run.version], "has not drawn"
    browser.has_drawn()
    browser.follow(0.04)
    assert browser.model("beat").data["version"] == [runs.run.version]
