"""A catalog's server answers the same with signatures that are read once, and reads few of them for a request."""

import bluesky.plans as bp
import pytest
from fastapi.dependencies import utils
from ophyd.sim import det

from live4d_ophyd.storage import record


@pytest.fixture
def read(monkeypatch):
    """Signatures that FastAPI reads, in order."""
    read = []
    of_call = utils.get_typed_signature
    monkeypatch.setattr(utils, "get_typed_signature", lambda call: read.append(call) or of_call(call))
    return read


def answers(db, uid):
    events = db[uid].primary.read()
    return db[uid].metadata, events["det"].values.tolist(), list(db)


def test_a_request_reads_no_signature_twice_but_that_of_the_application_s_own(RE, db, read, monkeypatch):
    record(RE, db)
    (uid,) = RE(bp.count([det], 3))
    known = answers(db, uid)
    read.clear()
    assert answers(db, uid) == known
    assert {call.__qualname__ for call in read} == {"build_app.<locals>.override_get_settings"}

    few = len(read)
    read.clear()
    monkeypatch.setattr(utils, "get_dependant", utils.get_dependant.__wrapped__)
    assert answers(db, uid) == known
    assert len(read) > 10 * few
