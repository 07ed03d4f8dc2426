"""Nodes that are found at once are those that Tiled's own walk finds; where there is an access policy, it walks."""

from contextlib import closing

import numpy as np
import pytest

from live4d_ophyd.storage import existing_catalog


@pytest.fixture(scope="module")
def nodes(copy_empty_catalog, tmp_path_factory):
    """A catalog with nodes in nodes: an array and a table."""
    db = existing_catalog(str(copy_empty_catalog(tmp_path_factory.mktemp("nodes"))))
    b = db.create_container("a").create_container("b", metadata={"depth": 2})
    b.write_array(np.arange(6.0).reshape(2, 3), key="array")
    b.write_table({"x": [1, 2], "y": [3.5, 4.5]}, key="table")
    with closing(db.context):
        yield db


@pytest.fixture
def walk(nodes, monkeypatch):
    """Called, it has nodes looked up by Tiled's own walk."""
    # Not at the top: it takes seconds of every process that collects tests.
    from tiled.server import router

    return lambda: monkeypatch.setattr(router, "get_entry", router.get_entry.__wrapped__)


@pytest.fixture
def lookups(nodes, monkeypatch):
    """Parts of paths that are asked for, one list for each query."""
    from tiled.catalog.adapter import CatalogNodeAdapter

    asked = []
    look_up = CatalogNodeAdapter.lookup_adapter

    async def count(self, segments):
        asked.append(segments)
        return await look_up(self, segments)

    monkeypatch.setattr(CatalogNodeAdapter, "lookup_adapter", count)
    return asked


def get(db, path, kind="metadata"):
    answer = db.context.http_client.get(f"/api/v1/{kind}/{path}", headers={"Accept": "application/json"})
    return answer.status_code, answer.json()


PATHS = [
    "a",
    "a/b",
    "a/b/array",
    "a/b/table",
    "a/b/table/x",
    "a//b/",
    "",
    "b",
    "a/none",
    "a/b/array/0",
    "a/b/table/z",
]


@pytest.mark.parametrize("path", PATHS)
def test_answers_are_those_of_the_walk(nodes, path, walk):
    status, content = get(nodes, path)
    walk()
    assert (status, content) == get(nodes, path)
    assert status == (404 if path in ("b", "a/none", "a/b/array/0", "a/b/table/z") else 200)


def test_data_of_another_kind_of_node_is_refused_as_by_the_walk(nodes, walk):
    refused = get(nodes, "a/b/table", "array/full")
    assert refused[0] == 404
    walk()
    assert refused == get(nodes, "a/b/table", "array/full")


def test_a_node_is_found_by_one_query(nodes, lookups, walk):
    get(nodes, "a/b/array")
    assert lookups == [["a", "b", "array"]]
    walk()
    get(nodes, "a/b/array")
    assert lookups[1:] == [["a"], ["b"], ["array"]]


def test_with_an_access_policy_each_part_is_asked_for(nodes, lookups, monkeypatch):
    class Policy:
        async def allowed_scopes(self, *_):
            return {"read:metadata", "read:data"}

        async def filters(self, *_):
            return []

    monkeypatch.setattr(nodes.context.http_client.app.state, "access_policy", Policy(), raising=False)
    assert get(nodes, "a/b/array")[0] == 200
    assert lookups == [["a"], ["b"], ["array"]]
