"""What an acquisition arms when there is no detector."""

import json


class FakeControl:
    """A detector that obeys and remembers."""

    url = "http://fake"
    software_triggered = False
    trigger_per = "pixel"

    def __init__(self, dropped=0):
        self.heard = []
        self.header = ""
        self._dropped = dropped

    def configure(self, images, triggers, frame_time, appendix):
        self.heard.append(f"configure {images} x {triggers}")
        # With a note of what is to be put back, as the real one writes it.
        self.header = json.dumps({**json.loads(appendix), "put_back": {"header_detail": "basic"}})

    def get(self, subsystem, kind, key):
        assert (subsystem, kind, key) == ("stream", "config", "header_appendix")
        return self.header

    def wait_idle(self, timeout):
        # It is idle by itself after `end`, and waits for pulses where the series fell silent.
        return "idle" if timeout else "acquire"

    def dropped(self):
        return self._dropped

    def arm(self):
        self.heard.append("arm")
        return 1

    def disarm(self):
        self.heard.append("disarm")

    def abort(self):
        self.heard.append("abort")

    def put_back(self):
        self.heard.append("put back")
