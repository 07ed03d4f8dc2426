"""A catalog's server answers the same with signatures and types that are there already, and makes few for a request."""

import gc

import bluesky.plans as bp
import numpy as np
import pytest
from fastapi.dependencies import utils
from ophyd.sim import det

from live4d_ophyd.storage import made_once, record


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


@pytest.fixture
def _nothing_frozen():
    """What was made before the tests is kept alive by that otherwise."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("_nothing_frozen")
def test_no_type_of_an_answer_is_made_again(RE, db, monkeypatch):
    from pydantic._internal import _generics  # FastAPI's and Tiled's

    record(RE, db)
    (uid,) = RE(bp.count([det], 3))
    array = db.write_array(np.zeros(3), key="array")
    answers(db, uid)
    made = []
    make = _generics.create_generic_submodel
    monkeypatch.setattr(
        _generics, "create_generic_submodel", lambda name, *more: made.append(name) or make(name, *more)
    )
    gc.collect()  # Pydantic forgets those that nobody has
    answers(db, uid)
    array.refresh()
    assert made == []

    made_once._types.clear()
    gc.collect()
    answers(db, uid)
    made_once.keep_types_of_answers()
    assert made
