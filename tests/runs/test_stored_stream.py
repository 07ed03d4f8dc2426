"""A stream of a stored run: what Tiled's client gives, with few requests."""

import numpy as np
import pytest

from live4d_ophyd import image, images
from live4d_ophyd.runs.stored_stream import StoredStream


@pytest.fixture
def requests(catalog, monkeypatch):
    """The paths that are asked for from now on."""
    asked, client = [], catalog.db.context.http_client
    send = client.send

    def noted(request, **how):
        asked.append(request.url.path)
        return send(request, **how)

    monkeypatch.setattr(client, "send", noted)
    return asked


def test_it_gives_what_the_client_gives(catalog):
    client = catalog.db[catalog.scan]["primary"]
    stream = StoredStream(client)
    assert stream.keys == set(client)
    assert stream.metadata["data_keys"] == client.metadata["data_keys"]
    assert stream.columns(["column_defocus", "seq_num"]) == {
        "column_defocus": [-50, 0, 50],
        "seq_num": [1, 2, 3],
    }
    assert (
        stream.events("live4d_vbf") == stream.events("column_defocus") == 3
    )  # an array, and a column of a table
    np.testing.assert_array_equal(stream.array("live4d_vbf", slice(1, 3)), client["live4d_vbf"].read()[1:3])


def test_what_was_asked_for_is_not_asked_again(catalog, requests):
    stream = StoredStream(catalog.db[catalog.scan]["primary"])
    del requests[:]
    assert {"live4d_vbf", "live4d_adf"} <= stream.keys
    assert len(requests) == 1
    stream.array("live4d_vbf", slice(0, stream.events("live4d_vbf")))
    assert len(requests) == 3  # the array, and what is in it


def test_an_image_takes_few_requests(catalog, requests):
    """Over a network each is a round trip: the names of streams, of two what they hold, and the array."""
    run = catalog.db[catalog.scan]
    del requests[:]
    image(run, "vbf", 1)
    assert len(requests) <= 14, "\n".join(requests)


def test_an_event_that_comes_while_a_run_is_read_is_not_in_it(catalog, monkeypatch):
    """Its arrays are stored before its number."""
    before = images(catalog.db[catalog.scan], "vbf")
    monkeypatch.setattr(StoredStream, "events", lambda stream, key: 4)
    np.testing.assert_array_equal(images(catalog.db[catalog.scan], "vbf"), before)
    with pytest.raises(KeyError, match="no Event 4 in the stream 'primary': there are 3"):
        image(catalog.db[catalog.scan], "vbf", 4)
