"""Slices, marks, associations and doubles, on rows counted by hand."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.errors import ConfigError, Damaged
from store.marks import Mark, add_mark, damaged_marks, marks
from store.prune import prune
from store.schema import stable_id
from store.storage import open_storage
from store.verify import verify
from store.writer import commit
from tests.store.worlds import CLASSES, TEXTS, TinyWorld, tiny_manifest, tiny_store
from textcam.association import SURE, association_q, odds_ratios, split_of
from textcam.audit import Finding
from textcam.marks import with_marks
from textcam.query import Query
from textcam.slices import roles
from textcam.statistics import false_discovery, fisher_exact, rates, two_sides


def finding(class_id: int, text: str, **values: object) -> Finding:
    plain = Finding(
        7, class_id, stable_id(text), 0, "scene", 0.5, None, None, 0, 0, None, None, None, None, None, None,
        None, 0, "association", 1,
    )  # fmt: skip
    return replace(plain, **values)


# --- slices ---------------------------------------------------------------------------------------------


def test_roles_of_every_case():
    # own, with: right, wrong; own, without: wrong, right; other, with: drawn in, right; without; no label
    label = np.array([2, 2, 2, 2, 0, 0, 1, -1])
    present = np.array([True, True, False, False, True, True, False, True])
    called = np.array([2, 1, 0, 2, 2, 0, 2, 2])
    assert roles(2, present, called, label).tolist() == [
        "follows",
        "",
        "fails",
        "breaks",
        "fails",
        "breaks",
        "",
        "",
    ]
    assert roles(2, present, called, None).tolist() == [
        "follows",
        "",
        "",
        "breaks",
        "follows",
        "",
        "breaks",
        "follows",
    ]


def axes_world() -> TinyWorld:
    """Texts are axes, and image i shows the text that ``shown`` names: presence is known by hand."""
    world = TinyWorld(embedding=17)
    world.text_embeddings = np.eye(17, dtype=np.float32)[: len(TEXTS)]
    shown = ["red", "red", "green", "red", "blue", "red", "green", "green", "blue", "red", "green"]
    place = list(TEXTS)
    world.embeddings = np.eye(17, dtype=np.float32)[[place.index(text) for text in shown]]
    world.predictions = np.array([0, 1, 2, 0, 1, 2, 1, 0, 2, 0, 1])  # labels are 0 1 2 0 1 2 0 1 2 0 1
    return world


def axes_store(folder: Path) -> Query:
    tiny_store(folder / "store", axes_world())
    return Query.open(folder / "store")


def test_slices_are_those_counted_by_hand(tmp_path):
    query, world = axes_store(tmp_path), axes_world()
    rows = query.audit.slices([finding(0, "red")])
    found = {row["uri"]: (row["role"], row["has_text"], row["label"]) for row in rows.to_pylist()}
    own = {0: "follows", 3: "follows", 9: "follows", 6: "fails"}  # 6 is green and called square
    other = {1: "breaks", 5: "breaks"}  # red, of other classes, called by their names
    assert found == {
        world.uris[at]: (role, at != 6, CLASSES[world.labels[at]]) for at, role in (own | other).items()
    }
    assert rows["finding_id"].to_pylist() == [7] * 6


def test_slices_agree_with_the_counts_of_a_finding(tmp_path):
    query = axes_store(tmp_path)
    green = query.audit.slices([finding(1, "green"), finding(0, "red", finding_id=8)]).to_pylist()
    assert [row["finding_id"] for row in green] == sorted(row["finding_id"] for row in green)
    mine = [row for row in green if row["finding_id"] == 7]
    assert sorted((row["role"], row["label"], row["prediction"]) for row in mine) == [
        ("breaks", "square", "square"),  # image 1, red
        ("breaks", "square", "square"),  # image 4, blue
        ("breaks", "star", "star"),  # image 2, green
        ("fails", "circle", "square"),  # image 6, green
        ("follows", "square", "square"),  # image 10, green
    ]


def test_label_suspects_need_confidence_words_and_the_encoder(tmp_path):
    world = axes_world()
    texts = list(TEXTS)
    world.embeddings[7] = np.eye(17)[texts.index("a circle")]  # labelled square, called circle
    tiny_store(tmp_path / "store", world)
    query = Query.open(tmp_path / "store")
    wrong = {6, 7}  # labels that the predictions contradict
    named = query.snapshot.table("explanations").to_pylist()
    words = {row["image_id"]: row["text_ids"] for row in named}
    confidence = dict(
        zip(
            *(query.snapshot.table("images")[one].to_pylist() for one in ("image_id", "confidence")),
            strict=True,
        )
    )
    for limit in (0.0, 1.1):
        expected = [
            world.uris[at]
            for at in wrong
            if stable_id(f"a {CLASSES[world.predictions[at]]}") in words[world.image_ids[at]]
            and stable_id(f"a {CLASSES[world.labels[at]]}") not in words[world.image_ids[at]]
            and at == 7
            and confidence[world.image_ids[at]] >= limit
        ]
        assert query.audit.label_suspects(limit)["uri"].to_pylist() == expected


# --- marks ----------------------------------------------------------------------------------------------


def test_marks_survive_snapshots_and_prunes_and_are_verified(tmp_path):
    world, storage = TinyWorld(), open_storage(tmp_path / "store")
    tiny_store(tmp_path / "store", world)
    first = Query.open(tmp_path / "store")
    top = first.findings()[0]
    assert first.audit.mark(top, "spurious", "seen").pair == first.audit.pair(top)
    commit(storage, replace(tiny_manifest(storage, world, 2, None), snapshot=2, parent=1))
    prune(storage)
    later = Query.open(tmp_path / "store")
    assert later.snapshot.manifest.snapshot == 2
    assert later.audit.marks == {first.audit.pair(top): Mark(*first.audit.pair(top), "spurious", "seen")}
    assert verify(tmp_path / "store") == []
    file = tmp_path / "store" / "marks" / "00000001.json"
    file.write_text(file.read_text().replace("seen", "Seen"))
    assert [problem.where for problem in verify(tmp_path / "store")] == ["marks/00000001.json"]
    with pytest.raises(Damaged):
        marks(storage)


def test_the_later_mark_counts_and_core_sinks(tmp_path):
    storage = open_storage(tmp_path)
    add_mark(storage, Mark("star", "snow", "core"))
    add_mark(storage, Mark("star", "snow", "unclear", "not sure"))
    add_mark(storage, Mark("ring", "red", "core"))
    found = marks(storage)
    assert found[("star", "snow")] == Mark("star", "snow", "unclear", "not sure")
    pairs = [("ring", "red"), ("star", "snow"), ("star", "red")]
    ranked = with_marks([finding(0, "red", finding_id=at, rank=at) for at in range(3)], pairs, found)
    assert [(one.finding_id, one.rank) for one in ranked] == [(1, 1), (2, 2), (0, 3)]
    with pytest.raises(ConfigError):
        add_mark(storage, Mark("star", "snow", "maybe"))


def test_nobodys_mark_is_lost_when_many_mark_at_once(tmp_path):
    storage = open_storage(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda at: add_mark(storage, Mark(f"class {at}", "x", "core")), range(24)))
    assert len({*paths}) == 24
    assert len(marks(storage)) == 24
    assert not damaged_marks(storage)


# --- the data alone -------------------------------------------------------------------------------------


def test_an_odds_ratio_by_hand():
    found = odds_ratios(two_sides([3, 0], [4, 0], [1, 2], [6, 5]))
    ratio = (3.5 * 5.5) / (1.5 * 1.5)
    half = 1.959964 * np.sqrt(1 / 3.5 + 1 / 1.5 + 1 / 1.5 + 1 / 5.5)
    assert found.ratio[0] == pytest.approx(ratio)
    assert found.low[0] == pytest.approx(ratio / np.exp(half))
    assert found.high[0] == pytest.approx(ratio * np.exp(half), rel=1e-6)
    assert np.isnan(found.ratio[1])


def test_q_of_pairs_that_go_together_is_that_of_a_test_of_every_pair():
    draw = np.random.default_rng(5)
    n_with, n_without = draw.integers(0, 60, 3000), draw.integers(0, 400, 3000)
    rate = draw.random(3000)
    more = np.where(draw.random(3000) < 0.1, 0.3, 0.0)
    hits_with = draw.binomial(n_with, np.minimum(rate + more, 1))
    sides = two_sides(hits_with, n_with, draw.binomial(n_without, rate), n_without)
    every, found = false_discovery(fisher_exact(sides)), association_q(sides)
    together = rates(*sides[:2]) > rates(*sides[2:])
    listed = together & (every <= SURE)
    assert listed.sum() > 50
    assert found[listed] == pytest.approx(every[listed], rel=1e-12)
    assert not (together & (every > SURE) & (found <= SURE)).any()
    assert (np.isnan(found) == np.isnan(every)).all()


@pytest.mark.parametrize(
    ("uri", "split"),
    [
        ("train/dog/1.jpg", "train"),
        ("a/Validation/x.png", "val"),
        ("test.jpg", ""),
        ("dog/test/1.jpg", "test"),
    ],
)
def test_splits_are_read_off_folders(uri, split):
    assert split_of(uri) == split


def test_associations_count_classes_against_the_rest(tmp_path):
    """Thirty-three images: all circles red, all squares green, stars blue or, five of them, red."""
    world = TinyWorld(embedding=17, images=33)
    world.text_embeddings = np.eye(17, dtype=np.float32)[: len(TEXTS)]
    places = [list(TEXTS).index(one) for one in ("red", "green", "blue")]
    world.embeddings = np.eye(17, dtype=np.float32)[[places[label] for label in world.labels]]
    stars = np.flatnonzero(world.labels == 2)
    world.embeddings[stars[:5]] = np.eye(17)[places[0]]
    tiny_store(tmp_path / "store", world)
    found = Query.open(tmp_path / "store").audit.associations()
    said = {(one.class_id, one.text_id): one for one in found}
    red = said[(0, stable_id("red"))]
    assert (red.rate, red.n, red.n_elsewhere) == (1.0, 11, 22)
    assert red.rate_elsewhere == pytest.approx(5 / 22)
    assert red.lift == pytest.approx(22 / 5)
    assert (2, stable_id("red")) not in said  # rarer than elsewhere
    assert said[(1, stable_id("green"))].lift is None  # nowhere else
    assert [one.odds_low for one in found] == sorted((one.odds_low for one in found), reverse=True)


def test_doubles_by_content_and_by_embedding(tmp_path):
    world = TinyWorld()
    world.embeddings[4] = world.embeddings[0]  # of another class
    tiny_store(tmp_path / "store", world)
    found = Query.open(tmp_path / "store").audit.doubles(0.9999)
    ends = {world.uris[0], world.uris[4]}
    assert [({one.uri, one.other_uri}, one.across_classes, one.across_splits) for one in found] == [
        (ends, True, False)
    ]
    assert found[0].similarity == pytest.approx(1, abs=1e-3)
    assert found[0].image_id < found[0].other_id
    assert Query.open(tmp_path / "store").audit.doubles(None) == []


def test_doubles_of_one_content_across_classes_and_splits(tmp_path):
    """By place: 0 and 3 are one class in two splits, 2 and 4 two classes in one, 5 and 10 two of both, 6 and
    7 two classes in folders that are no splits."""
    world = TinyWorld()
    folders = {0: "train", 2: "train", 3: "val", 4: "train", 5: "test", 10: "Train"}
    world.uris = [f"{folders.get(at, 'more')}/{uri}" for at, uri in enumerate(world.uris)]
    world.image_ids = np.array([stable_id(uri) for uri in world.uris])
    for copy, of in ((3, 0), (4, 2), (10, 5), (7, 6)):
        world.contents[copy] = world.contents[of]
    tiny_store(tmp_path / "store", world)
    found = Query.open(tmp_path / "store").audit.doubles(None)
    place = {uri: at for at, uri in enumerate(world.uris)}
    told = {
        frozenset((place[one.uri], place[one.other_uri])): (one.across_classes, one.across_splits)
        for one in found
    }
    assert told == {
        frozenset((0, 3)): (False, True),
        frozenset((2, 4)): (True, False),
        frozenset((5, 10)): (True, True),
        frozenset((6, 7)): (True, False),
    }
    assert {found[0].uri, found[0].other_uri} == {world.uris[5], world.uris[10]}  # the gravest first
    assert all(one.similarity is None and one.image_id < one.other_id for one in found)


def test_three_of_one_content_are_two_doubles_of_the_first(tmp_path):
    world = TinyWorld()
    for copy in (4, 9):
        world.contents[copy] = world.contents[2]
    world.labels = world.labels.copy()
    world.labels[4] = -1  # of no class: it crosses none
    tiny_store(tmp_path / "store", world)
    found = Query.open(tmp_path / "store").audit.doubles(None)
    first, *others = sorted(world.image_ids[[2, 4, 9]].tolist())
    assert sorted((one.image_id, one.other_id) for one in found) == [(first, one) for one in others]
    unlabelled = world.image_ids[4]
    for one in found:
        assert one.across_classes == (unlabelled not in (one.image_id, one.other_id))
