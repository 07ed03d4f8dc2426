"""Keys are made for nobody else to read, and a file that is missing, swapped or open to others is named."""

import shutil
import stat

import pytest
import zmq
from zmq.auth import load_certificate

from live4d_ophyd.engine.process.keys import BadKeys, add_session, make_keys, use_as_engine, use_as_session


@pytest.fixture
def socket():
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        yield dealer


@pytest.fixture
def keys(tmp_path):
    return make_keys(tmp_path / "keys")


def test_made_keys_are_taken_by_both_sides_and_readable_by_nobody_else(keys, socket, tmp_path):
    engine, session = keys
    admitted = use_as_engine(socket, engine)
    use_as_session(socket, session)
    assert admitted.callback("*", load_certificate(session / "client.key")[0])
    for path in (tmp_path / "keys").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_secret_keys_stay_on_their_side(keys):
    engine, session = keys
    assert sorted(path.name for path in engine.rglob("*.key_secret")) == ["server.key_secret"]
    assert sorted(path.name for path in session.rglob("*.key_secret")) == ["client.key_secret"]


@pytest.mark.parametrize("place", ["clients/session.key", "clients", "."])
def test_a_session_s_key_that_others_can_change_is_not_admitted(keys, socket, place):
    engine, session = keys
    admitted = use_as_engine(socket, engine)
    public = load_certificate(session / "client.key")[0]
    (engine / place).chmod(0o777 if (engine / place).is_dir() else 0o666)
    if place != ".":
        assert not admitted.callback("*", public)
    with pytest.raises(BadKeys, match="can be written by others"):
        use_as_engine(socket, engine)


@pytest.mark.parametrize("place", ["server.key", "."])
def test_an_engine_s_key_that_others_can_change_is_not_believed(keys, socket, place):
    _, session = keys
    (session / place).chmod(0o777 if place == "." else 0o666)
    with pytest.raises(BadKeys, match="can be written by others"):
        use_as_session(socket, session)


def test_keys_are_never_overwritten(keys, tmp_path):
    before = (keys[0] / "server.key_secret").read_bytes()
    with pytest.raises(BadKeys, match="never overwritten"):
        make_keys(tmp_path / "keys")
    add_session(tmp_path / "keys", "desk")
    with pytest.raises(BadKeys, match="never overwritten"):
        add_session(tmp_path / "keys", "desk")
    assert (keys[0] / "server.key_secret").read_bytes() == before


def test_a_session_that_is_added_later_is_admitted_and_one_whose_key_is_removed_is_not(
    keys, socket, tmp_path
):
    engine, _ = keys
    admitted = use_as_engine(socket, engine)
    added = load_certificate(add_session(tmp_path / "keys", "desk") / "client.key")[0]
    assert admitted.callback("*", added)
    (engine / "clients" / "desk.key").unlink()
    assert not admitted.callback("*", added)


def swap_secret(engine, session):
    shutil.copy(engine / "server.key", engine / "server.key_secret")
    (engine / "server.key_secret").chmod(0o600)


def mix_keys(engine, session):
    public = load_certificate(session / "client.key")[0].decode()
    text = (engine / "server.key_secret").read_text().splitlines()
    text = [f'    public-key = "{public}"' if "public-key" in line else line for line in text]
    (engine / "server.key_secret").write_text("\n".join(text))


SPOILT = {
    "read by others": (lambda e, s: (e / "server.key_secret").chmod(0o640), "mode is 0640.*chmod go= "),
    "written by others": (
        lambda e, s: (e / "clients").chmod(0o777),
        "clients can be written by others.*chmod go-w",
    ),
    "secret missing": (lambda e, s: (e / "server.key_secret").unlink(), "server.key_secret is missing"),
    "no folder of clients": (lambda e, s: shutil.rmtree(e / "clients"), "clients is no folder"),
    "public as secret": (
        swap_secret,
        "holds no secret key, only a public one: was it swapped with server.key",
    ),
    "keys of two pairs": (mix_keys, "not of its secret one"),
    "no key": (lambda e, s: (e / "server.key_secret").write_text("x"), "server.key_secret is no key file"),
    "short key": (
        lambda e, s: (e / "clients" / "x.key").write_text('curve\n public-key = "abc"\n'),
        "x.key is no key file: a key of 3 characters",
    ),
    "its own key as client": (
        lambda e, s: shutil.copy(e / "server.key", e / "clients"),
        "server.key is the engine's own key",
    ),
    "a client's secret": (
        lambda e, s: shutil.copy(s / "client.key_secret", e / "clients" / "x.key"),
        "x.key holds a secret key",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_an_engines_folder_that_cannot_be_used_is_refused(keys, socket, spoil, words):
    spoil(*keys)
    with pytest.raises(BadKeys, match=words):
        use_as_engine(socket, keys[0])


SPOILT_SESSION = {
    "read by others": (lambda e, s: (s / "client.key_secret").chmod(0o604), "mode is 0604"),
    "missing": (lambda e, s: (s / "client.key_secret").unlink(), "client.key_secret is missing"),
    "server's missing": (lambda e, s: (s / "server.key").unlink(), "server.key is missing: copy it there"),
    "swapped": (lambda e, s: shutil.copy(s / "client.key", s / "server.key"), "holds this session's own key"),
    "engine's secret": (
        lambda e, s: shutil.copy(e / "server.key_secret", s / "server.key"),
        "holds a secret key",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT_SESSION.values(), ids=SPOILT_SESSION)
def test_a_sessions_folder_that_cannot_be_used_is_refused(keys, socket, spoil, words):
    spoil(*keys)
    with pytest.raises(BadKeys, match=words):
        use_as_session(socket, keys[1])


def test_folders_of_the_other_side_are_told(keys, socket):
    with pytest.raises(BadKeys, match="swap the folders"):
        use_as_engine(socket, keys[1])
    with pytest.raises(BadKeys, match="swap the folders"):
        use_as_session(socket, keys[0])


def test_no_session_is_admitted_while_others_can_add_keys(keys, socket, caplog):
    engine, session = keys
    admitted = use_as_engine(socket, engine)
    (engine / "clients").chmod(0o777)
    assert not admitted.callback("*", load_certificate(session / "client.key")[0])
    assert "can be written by others" in caplog.text
