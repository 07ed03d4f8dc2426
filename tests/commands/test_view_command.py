"""`live4d view`: what it refuses, in words."""

import socket

import pytest
from click.testing import CliRunner

pytest.importorskip("bokeh")

from live4d_ophyd.commands.main import live4d
from live4d_ophyd.live import publish
from live4d_ophyd.view.documents import Documents


@pytest.fixture(autouse=True)
def _runtime(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "FOLDERS", type("F", (), {"user_runtime_path": tmp_path / "run"}))


def refusal(*options, **environment):
    result = CliRunner().invoke(live4d, ["view", *options], env=environment)
    assert result.exit_code != 0
    return result.output


def test_a_second_viewer_of_the_same_sessions():
    first = Documents(lambda name, doc: None, publish.session_address(), bind=True)
    assert "another `live4d view` of this user" in refusal("--catalog", "none")
    first.close()


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1, port {port}" in refusal("--catalog", "none", "--port", port)


def test_a_token_that_is_too_short():
    assert "16 or more letters and digits" in refusal("--token", LIVE4D_VIEW_TOKEN="short")
    assert "16 or more letters and digits" in refusal("--host", "0.0.0.0", LIVE4D_VIEW_TOKEN="x" * 15 + "%")


def test_an_address_of_documents_that_is_none():
    assert "expected HOST:PORT" in refusal("--from", "nowhere", "--catalog", "none")


def test_a_catalog_that_is_not_there(tmp_path):
    assert "the catalog cannot be opened" in refusal("--catalog", str(tmp_path / "nothing"))
