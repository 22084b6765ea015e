"""SQL over all tables: it reads the snapshot and can do nothing else."""

import weakref

import pytest

from store.errors import Damaged, LimitReached, QueryError
from store.reader import Snapshot
from store.schema import TABLE_NAMES
from tests.store.worlds import TinyWorld, tiny_store

WORLD = TinyWorld()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    path = tmp_path_factory.mktemp("sql") / "s"
    tiny_store(path, WORLD)
    return Snapshot.open(path)


def test_every_table_is_there(snapshot):
    names = [row["name"] for row in snapshot.sql("SHOW TABLES").to_pylist()]
    assert names == sorted(TABLE_NAMES)
    for name in TABLE_NAMES:
        assert snapshot.sql(f"SELECT count(*) AS n FROM {name}").to_pylist() == [{"n": snapshot.count(name)}]


def test_joins_filters_and_order(snapshot):
    found = snapshot.sql("""
        SELECT c.name, count(*) AS n, avg(CAST(i.label = i.prediction AS DOUBLE)) AS accuracy
        FROM images i JOIN classes c ON c.class_id = i.label GROUP BY c.class_id, c.name ORDER BY c.class_id
    """).to_pylist()
    right = WORLD.labels == WORLD.predictions
    assert found == [
        {"name": name, "n": int((WORLD.labels == c).sum()), "accuracy": right[WORLD.labels == c].mean()}
        for c, name in enumerate(("circle", "square", "star"))
    ]


def test_vectors_are_arrays_and_half_floats_are_widened(snapshot):
    rows = snapshot.sql("""
        SELECT image_id, pooled, array_inner_product(pooled, pooled) AS square
        FROM activations ORDER BY image_id
    """).to_pylist()
    for row in rows:
        pooled = WORLD.pooled[WORLD.image_ids.tolist().index(row["image_id"])]
        assert row["pooled"] == pooled.tolist()
        assert row["square"] == pytest.approx(float(pooled @ pooled), rel=1e-5)


def test_lists_unnest(snapshot):
    found = snapshot.sql("""
        SELECT t.text FROM (SELECT unnest(text_ids) AS text_id FROM channels WHERE channel = 2)
        JOIN texts t USING (text_id)
    """)
    ids, _ = WORLD.nearest_texts(WORLD.directions[2])
    names = dict(zip(WORLD.text_ids.tolist(), WORLD.texts, strict=True))
    assert sorted(found.column(0).to_pylist()) == sorted(names[one] for one in ids)


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE images",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM images",
        "explain -- a comment\n analyze /* another */ FROM texts",
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT 1",
        "EXPLAIN PIVOT images ON label USING count(*)",
        "SUMMARIZE classes",
        "FROM texts LIMIT 1",
        "VALUES (1)",
        "PIVOT images ON prediction USING count(*) GROUP BY label",
        "PIVOT images ON prediction IN (0, 1) USING count(*) GROUP BY label;",
        "PIVOT_WIDER images ON prediction USING count(*) GROUP BY label",
        "FROM (PIVOT images ON prediction USING count(*) GROUP BY label)",
        "WITH p AS (PIVOT images ON label USING count(*)) SELECT * FROM p -- all",
        "UNPIVOT (SELECT class_id, n_images FROM classes) ON class_id, n_images",
    ],
)
def test_other_statements_that_read(snapshot, query):
    assert snapshot.sql(query).num_rows > 0


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO images SELECT * FROM images",
        "DROP VIEW images",
        "COPY images TO '{out}'",
        "COPY (SELECT 1) TO '{part}' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPORT DATABASE '{out}'",
        "ATTACH '{out}' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '1GB'",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "SELECT * FROM '{part}'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('http://localhost/x')",
        "SELECT * FROM read_blob('{part}')",
        "SELECT * FROM read_ndjson('{part}')",
        "SELECT * FROM sniff_csv('{part}')",
        "SELECT * FROM parquet_metadata('{part}')",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "IMPORT DATABASE '{out}'",
        "CREATE SECRET s (TYPE s3)",
        "CREATE MACRO f() AS 1",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE OR REPLACE VIEW classes AS SELECT 1",
        "UPDATE classes SET name = 'x'",
        "DELETE FROM classes",
        "ALTER VIEW classes RENAME TO c",
        "RESET enable_external_access",
        "SET GLOBAL threads = 1",
        "PRAGMA enable_profiling",
        "SET VARIABLE x = 1",
        "SET search_path = 'other'",
        "USE other",
        "BEGIN TRANSACTION",
        "CHECKPOINT",
        "PREPARE p AS SELECT 1",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO images SELECT * FROM images",
        "EXPLAIN /* ANALYZE */ DROP VIEW images",
        "EXPLAIN (ANALYZE) CREATE VIEW v AS SELECT 1",
        "EXPLAIN ANALYZE",
        "CREATE TABLE t AS PIVOT images ON label USING count(*)",
        "COPY (PIVOT images ON label USING count(*)) TO '{out}'",
        "CREATE TYPE e AS ENUM (SELECT name FROM classes)",
        "PIVOT images ON label USING count(*); DROP VIEW images",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{out}'' ')",
        "SELECT * FROM query_table('{part}')",
        "SELECT * FROM WORLD",
        "SELECT * FROM nonsense",
        "SELECT nonsense FROM images",
        "SELECT FROM WHERE",
        "",
        "-- nothing",
    ],
)
def test_anything_else_is_refused_and_changes_nothing(snapshot, tmp_path, query):
    part = snapshot.storage.root / snapshot.parts("classes")[0].path
    before = part.read_bytes()
    with pytest.raises(QueryError):
        snapshot.sql(query.format(out=tmp_path / "out", part=part))
    assert part.read_bytes() == before
    assert list(tmp_path.iterdir()) == []
    assert snapshot.sql("SELECT count(*) AS n FROM classes").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{part}' (FORMAT parquet, USE_TMP_FILE false)",
        "SELECT * FROM '{part}'",
        "SET lock_configuration = false",
        "SET python_enable_replacements = true",
        "ATTACH '{out}'",
        "LOAD httpfs",
    ],
)
def test_a_session_in_hand_is_locked_too(snapshot, tmp_path, query):
    part = snapshot.storage.root / snapshot.parts("classes")[0].path
    before = part.read_bytes()
    with snapshot.connect() as session:
        assert session.execute("SELECT count(*) FROM images").fetchall() == [(11,)]
        with pytest.raises(Exception, match=r"(?i)disabled|locked|permission"):
            session.execute(query.format(out=tmp_path / "out", part=part))
    assert part.read_bytes() == before


def test_a_table_that_is_not_there_is_empty(snapshot):
    from dataclasses import replace

    kept = tuple(part for part in snapshot.manifest.parts if part.table != "maps")
    bare = Snapshot(snapshot.storage, replace(snapshot.manifest, parts=kept))
    assert bare.sql("SELECT count(*) AS n FROM maps").to_pylist() == [{"n": 0}]
    assert not bare.has("maps")
    assert bare.table("maps").num_rows == 0


# --- names ------------------------------------------------------------------------------------------------


def test_two_columns_of_one_name_keep_their_values(snapshot):
    found = snapshot.sql(
        "SELECT a.class_id, b.class_id, a.name, b.name FROM classes a JOIN classes b "
        "ON b.class_id = a.class_id + 1 ORDER BY a.class_id"
    )
    assert found.to_pylist() == [
        {"class_id": 0, "class_id_1": 1, "name": "circle", "name_1": "square"},
        {"class_id": 1, "class_id_1": 2, "name": "square", "name_1": "star"},
    ]


def test_a_name_that_is_there_is_not_given_again(snapshot):
    assert snapshot.sql("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a").to_pylist() == [
        {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}
    ]


def test_a_subquery_names_them_likewise(snapshot):
    twice = "SELECT a.class_id, b.class_id FROM classes a, classes b"
    assert snapshot.sql(twice).column_names == snapshot.sql(f"SELECT * FROM ({twice})").column_names


def test_pivot_answers(snapshot):
    found = snapshot.sql(
        "PIVOT images ON prediction USING count(*) GROUP BY label ORDER BY label"
    ).to_pylist()
    pairs = list(zip(WORLD.labels.tolist(), WORLD.predictions.tolist(), strict=True))
    assert found == [
        {"label": label, **{str(seen): pairs.count((label, seen)) for seen in sorted(set(WORLD.predictions))}}
        for label in sorted(set(WORLD.labels.tolist()))
    ]


# --- bounds -----------------------------------------------------------------------------------------------

ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE (a.range + b.range) % 7 = 3"


def counted(snapshot, query, **limits):
    """Rows, columns, and the most batches that were held at a time."""
    held, rows, most = [], 0, 0
    with snapshot._sql().stream(query, **limits) as answer:
        for batch in answer.batches:
            assert batch.num_rows <= 8192
            held = [one for one in held if one() is not None] + [weakref.ref(batch)]
            rows, most = rows + batch.num_rows, max(most, len(held))
    return rows, answer.schema.names, most


def test_batches_are_made_as_they_are_asked_for(snapshot):
    rows, names, most = counted(snapshot, "SELECT range AS a, 'text ' || range AS b FROM range(1000000)")
    assert (rows, names) == (1_000_000, ["a", "b"])
    assert most <= 2


@pytest.mark.parametrize("query", [ENDLESS, "FROM range(1000000000000)"], ids=["one row", "many batches"])
def test_a_query_that_takes_too_long_is_stopped(snapshot, query):
    with pytest.raises(LimitReached, match=r"longer than 0\.2 seconds"):
        counted(snapshot, query, seconds=0.2)
    assert counted(snapshot, "FROM classes", seconds=60)[0] == 3


def test_a_query_that_needs_too_much_memory_is_refused(snapshot):
    sorting = "SELECT range AS a, md5(range::VARCHAR) AS b FROM range(5000000) ORDER BY b"
    with pytest.raises(LimitReached, match="more memory than it may have"):
        counted(snapshot, sorting, memory="32 MiB")
    assert counted(snapshot, "FROM range(5000000)", memory="32 MiB")[0] == 5_000_000


def test_damage_that_is_met_on_the_way_is_named(tmp_path):
    tiny_store(tmp_path / "s", WORLD)
    opened = Snapshot.open(tmp_path / "s")
    part = opened.parts("activations")[0]
    opened._sql()  # its footers are read
    data = bytearray((tmp_path / "s" / part.path).read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "s" / part.path).write_bytes(bytes(data))
    with pytest.raises(Damaged, match="damaged") as caught:
        counted(opened, "SELECT * FROM activations")
    assert part.path in caught.value.where
