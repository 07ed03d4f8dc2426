"""A real Chromium, and what its page has of Bokeh's models; tests skip where there is none."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

#: by name, one of them
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_MODEL = "Bokeh.documents.flatMap(d => [d.get_model_by_name(%r)]).find(m => m != null)"


@contextmanager
def browser():
    """A browser without a window."""
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: {', '.join(_NAMES)} are not installed")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


class Page:
    """One page, and the errors that its scripts had."""

    def __init__(self, browser, size=(1320, 1000)):
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, address):
        self.page.goto(address)

    def wait(self, expression, timeout=30.0):
        """Wait until a JavaScript expression is true; ``model("name")`` in it is a model of the page."""
        js = f"() => {{ const model = name => {_MODEL.replace('%r', 'name')}; return {expression} }}"
        # A document that is just being made raises.
        js = f"() => {{ try {{ return window.Bokeh && Bokeh.documents.length && ({js})() }} catch {{ return false }} }}"
        self.page.wait_for_function(js, timeout=1000 * timeout)

    def get(self, expression):
        """The value of a JavaScript expression, as in `wait`."""
        js = f"() => {{ const model = name => {_MODEL.replace('%r', 'name')}; return {expression} }}"
        return self.page.evaluate(js)

    def image(self, name):
        """Values that the panel ``name`` shows, row by row; None where there are none."""
        found = self.get(
            f"(m => m && (a => a && Array.from(a, v => Number.isFinite(v) ? v : null))"
            f"(m.renderers[0].data_source.data.image[0]))(model({name!r}))"
        )
        return found

    def place(self, name, x, y):
        """Where (x, y) of the figure ``name`` is on the page, px, once the page draws and moves nothing more."""
        self.wait(
            f"(view => view != null && view.has_finished())(Bokeh.index.find_one_by_id(model({name!r}).id))"
        )
        before = None
        while (found := self._place(name, x, y)) != before:
            before = found
            self.page.evaluate(
                "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
        return found

    def _place(self, name, x, y):
        return self.get(
            f"(view => {{ const box = view.canvas.el.getBoundingClientRect(); const frame = view.frame;"
            f" return [box.left + frame.x_scale.compute({x}), box.top + frame.y_scale.compute({y})] }})"
            f"(Bokeh.index.find_one_by_id(model({name!r}).id))"
        )

    def click(self, name, x, y):
        self.page.mouse.click(*self.place(name, x, y))

    def drag(self, name, begin, end):
        """With the mouse, in the figure's coordinates."""
        mouse = self.page.mouse
        mouse.move(*self.place(name, *begin))
        mouse.down()
        mouse.move(*self.place(name, *((a + b) / 2 for a, b in zip(begin, end))))
        mouse.move(*self.place(name, *end))
        mouse.up()
