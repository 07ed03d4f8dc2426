"""A control unit for tests: scripted answers, and settings that obey unless a test says how they do not."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FRAME_TIME = {
    "value": 1e-3,
    "value_type": "float",
    "unit": "s",
    "min": 1e-6,
    "max": 10.0,
    "access_mode": "rw",
}


class FakeDcu:
    """``answers``: path -> (status, body) or a list of them, one a request; a body may be a callable.

    What they do not name is answered from ``settings``: ``stream/config/mode`` -> value. A PUT sets it, or what
    ``obey`` of the key and the value returns.
    """

    def __init__(self):
        self.answers = {"/detector/api/version": (200, {"value": "1.8.0"})}
        self.settings = {}
        self.obey = lambda key, value: value
        self.named = lambda key: [key]  #: what a PUT answers
        self.headers = {}  #: of answers
        self.requests = []
        self.logins = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(None)

            def do_PUT(self):
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(json.loads(raw) if raw else None)

            def _answer(self, body):
                fake.requests.append((self.command, self.path, body))
                fake.logins.add(self.headers.get("Authorization", ""))
                answer = fake.answers.get(self.path) or fake._from_settings(self.command, self.path, body)
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status, content = answer
                if callable(content):
                    content = content()
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                for name, value in fake.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _from_settings(self, method, path, body):
        found = re.fullmatch(r"/(\w+)/api/[\d.]+/(config|status)/(.+)", path)
        key = f"{found[1]}/{found[2]}/{found[3]}" if found else ""
        if key not in self.settings:
            return 404, "no such key"
        if method == "GET":
            return 200, {"value": self.settings[key]}
        self.settings[key] = self.obey(key, body["value"])
        return 200, self.named(found[3])

    def scannable(self):
        """As an idle detector that has all that a scan needs."""
        self.settings |= {
            "detector/status/state": "idle",
            "detector/config/trigger_mode": "ints",
            "detector/config/nimages": 7,
            "detector/config/ntrigger": 3,
            "detector/config/count_time": 1e-3,
            "detector/config/frame_time": 1e-3,
            "stream/config/mode": "enabled",
            "stream/config/format": "cbor",
            "stream/config/header_detail": "all",
            "stream/config/header_appendix": "",
            "stream/status/dropped": 0,
            "filewriter/config/mode": "enabled",
        }
        return self

    def asked(self, path):
        return [request for request in self.requests if request[1] == path]

    def put(self):
        """(key, value) of what was set, in turn."""
        return [
            (re.sub(r"api/[\d.]+/", "", path).strip("/"), body["value"])
            for method, path, body in self.requests
            if method == "PUT" and body
        ]

    def login(self):
        """The one that came with every request, "" without."""
        (login,) = self.logins
        return base64.b64decode(login.removeprefix("Basic ")).decode()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
