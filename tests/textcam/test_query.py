"""Questions to a store whose answers can be worked out by hand, and to one that a real run made.

In the world made by hand texts and channel directions are unit vectors along the axes: channel j means text
j and nothing else, so an explanation's direction is its channels' contributions, one after the other.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.run import precompute
from store.errors import (
    ConfigError,
    Damaged,
    EncoderMismatch,
    ImageError,
    ModelError,
    QueryError,
    StoreNotFound,
)
from store.reader import Snapshot
from store.schema import stable_id
from store.storage import open_storage
from store.writer import commit
from tests.pipelines import worlds as runs
from tests.store.worlds import TEXTS, tiny_manifest
from tests.textcam.worlds import WORDS, hand_store, hand_world
from textcam.answers import Match, Word
from textcam.confidence import EXPLANATION
from textcam.query import Query
from textcam.select import select_texts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_store(tmp_path_factory.mktemp("hand") / "store")


@pytest.fixture(scope="module")
def contrasting(tmp_path_factory: pytest.TempPathFactory) -> Query:
    return Query.open(hand_store(tmp_path_factory.mktemp("contrast") / "store", {"contrast": True}))


@pytest.fixture(scope="module")
def query(store: Path) -> Query:
    return Query.open(store)


def chosen(direction: list[float], top: int = 5) -> list[tuple[str, Any, Any]]:
    """(text, coefficient, similarity) of the words for a direction along the first axes, by rule."""
    texts = sorted(TEXTS, key=stable_id)  # as the store keeps them
    embeddings = np.eye(17, dtype=np.float32)[[list(TEXTS).index(text) for text in texts]]
    target = np.array([direction + [0.0] * (17 - len(direction))], np.float32)
    found = select_texts(target, embeddings, top=top, sparsity=0.1, decorrelation=0.0)
    return [
        (texts[text], pytest.approx(coefficient, rel=1e-5), pytest.approx(similarity, rel=1e-5))
        for text, coefficient, similarity in zip(
            found.text_index[0], found.coefficients[0], found.similarities[0], strict=True
        )
        if text >= 0
    ]


def said(words: tuple[Word, ...]) -> list[tuple[str, float | None, float | None]]:
    return [(word.text, word.coefficient, word.similarity) for word in words]


# --- explain ----------------------------------------------------------------------------------------------


def test_an_image_of_the_store_is_explained_by_its_contributions(query: Query) -> None:
    world = hand_world()
    found = query.explain_image(int(world.image_ids[0]))
    # Contributions: 3 x 2 of channel 0, 1 x 1 of channel 3; their length is the root of 37.
    assert (found.class_id, found.class_name, found.logit) == (0, "circle", 7.5)
    assert (found.image_id, found.uri) == (world.image_ids[0], world.uris[0])
    assert said(found.words) == chosen([6, 0, 0, 1])
    assert [(word.text, word.kind) for word in found.words] == [("a circle", "object"), ("a point", "part")]
    assert [word.similarity for word in found.words] == pytest.approx([6 / 37**0.5, 1 / 37**0.5])
    assert found.words[0].text_id == stable_id("a circle")
    assert [(group.group_id, group.contribution, round(group.share, 5)) for group in found.groups] == [
        (0, 6.0, round(6 / 7, 5)),
        (1, 1.0, round(1 / 7, 5)),
    ]
    assert said(found.groups[0].words) == chosen([6])
    assert said(found.groups[1].words) == chosen([0, 0, 0, 1])
    assert found.saliency_map is None
    assert found.group_maps is None
    assert found.view is None


def test_a_group_that_speaks_against_the_class_is_named_by_what_it_saw(query: Query) -> None:
    found = query.explain_image(int(hand_world().image_ids[0]), class_id="star")
    # Contributions: 1 of channel 3, -2 of channel 5, both in group 1.
    assert found.logit == -0.75
    assert said(found.words) == chosen([0, 0, 0, 1, 0, -2])
    assert [(group.group_id, group.contribution, group.share) for group in found.groups] == [
        (0, 0.0, 0.0),
        (1, -1.0, 0.0),
    ]
    assert found.groups[0].words == ()
    assert said(found.groups[1].words) == chosen([0, 0, 0, -1, 0, 2])
    assert found.groups[1].words[0].text == "red"


def test_top_cuts_the_words_and_changes_no_coefficient(query: Query) -> None:
    image_id = int(hand_world().image_ids[0])
    assert query.explain_image(image_id, top=1).words == query.explain_image(image_id, top=13).words[:1]


def test_weights_alone_give_the_class_level_form(query: Query) -> None:
    found = query.explain_weights([2, 0, 0, 1, 0, 0, 0])
    assert said(found.words) == chosen([2, 0, 0, 1])
    assert [word.text for word in found.words] == ["a circle", "a point"]
    assert (found.class_id, found.class_name, found.logit) == (None, "", None)
    with_pooled = query.explain_weights([2, 0, 0, 1, 0, 0, 0], [3, 1, 0, 1, 0, 2, 0])
    assert with_pooled.words == query.explain_image(int(hand_world().image_ids[0])).words


def test_contrast_takes_off_what_the_average_class_says(contrasting: Query) -> None:
    # Weights minus their mean over classes, times activations.
    expected = chosen([4, -2 / 3, 0, 1 / 3, 0, 2 / 3])
    assert [text for text, _, _ in expected] == ["a circle", "red", "a point"]
    found = contrasting.explain_image(int(hand_world().image_ids[0]))
    assert said(found.words) == expected
    assert [group.contribution for group in found.groups] == [6.0, 1.0]  # the evidence itself stays whole
    given = contrasting.explain_weights([2, 0, 0, 1, 0, 0, 0], [3, 1, 0, 1, 0, 2, 0], class_id="circle")
    assert said(given.words) == expected


def test_contrast_follows_the_scale_of_foreign_weights(contrasting: Query) -> None:
    whole = contrasting.explain_weights(np.array([2, 0, 0, 1, 0, 0, 0]), class_id=0)
    expected = chosen([4 / 3, -2 / 3, -1 / 3, 1 / 3, -2 / 3, 1 / 3, 0])
    own = {word.text: word.coefficient for word in whole.words}
    assert own == {text: coefficient for text, coefficient, _ in expected}
    scaled = contrasting.explain_weights(np.array([2, 0, 0, 1, 0, 0, 0]) / 49, class_id=0)
    assert {word.text: 49 * (word.coefficient or 0) for word in scaled.words} == pytest.approx(own, rel=1e-3)


def test_without_a_class_nothing_is_contrasted(contrasting: Query, query: Query) -> None:
    assert contrasting.explain_weights([2, 0, 0, 1, 0, 0, 0]) == query.explain_weights([2, 0, 0, 1, 0, 0, 0])


def test_the_form_of_the_store_says_which_directions_are_used(tmp_path: Path) -> None:
    region = Query.open(hand_store(tmp_path / "region", {"form": "region"}))
    assert [word.text for word in region.explain_weights([2, 0, 0, 1, 0, 0, 0]).words] == [
        "a square",
        "an edge",
    ]
    both = Query.open(hand_store(tmp_path / "both", {"form": "both"}))
    # Channel 0 points halfway between texts 0 and 1, channel 3 between 3 and 4; each counts half its square.
    assert {word.text for word in both.explain_weights([2, 0, 0, 1, 0, 0, 0]).words} == {
        "a circle",
        "a square",
        "a point",
        "an edge",
    }


def test_a_wrong_number_of_weights_is_refused(query: Query) -> None:
    with pytest.raises(Exception, match=r"cam_weights has shape \(3,\), expected \(7\)"):
        query.explain_weights([1, 2, 3])


# --- names and ids ----------------------------------------------------------------------------------------


def test_a_class_is_found_by_number_name_and_case(query: Query) -> None:
    assert [query.class_id(one) for one in (1, "1", "square", "SQUARE")] == [1, 1, 1, 1]
    with pytest.raises(QueryError) as refused:
        query.class_id("sqare")
    assert (refused.value.what, refused.value.fix) == (
        "There is no class 'sqare'.",
        "Did you mean square or star?",
    )
    with pytest.raises(QueryError, match="Classes go from 0 to 2"):
        query.class_id(3)
    with pytest.raises(QueryError, match="Classes go from 0 to 2"):
        query.class_id(-1)


def test_an_image_is_found_by_uri_and_by_id(query: Query) -> None:
    world = hand_world()
    assert query.image_id(world.uris[4]) == world.image_ids[4]
    assert query.image_id(str(world.image_ids[4])) == world.image_ids[4]
    for unknown in ("nowhere.png", "12", str(1 << 63)):
        with pytest.raises(QueryError, match="no image of the store"):
            query.image_id(unknown)
    with pytest.raises(QueryError, match="has the id 12"):
        query.explain_image(12)


# --- describe ---------------------------------------------------------------------------------------------


def test_a_channel_is_described_by_its_row_and_its_best_images(query: Query) -> None:
    world = hand_world()
    found = query.describe_channel(3)
    best = sorted(range(11), key=lambda i: -world.pooled[i, 3])[:2]
    assert found.example_ids == tuple(world.image_ids[i] for i in best)
    assert (found.channel, found.group_id) == (3, 1)
    assert found.separation == pytest.approx(0.7)
    assert found.active_fraction == pytest.approx(sum(world.pooled[:, 3] > 1) / 11)
    assert [(word.text, word.similarity) for word in found.words] == [
        ("a point", 1.0),
        ("a circle", 0.0),
        ("a square", 0.0),
    ]
    for unknown in (-1, 7):
        with pytest.raises(QueryError, match="Channels go from 0 to 6"):
            query.describe_channel(unknown)


def test_a_class_is_described_over_its_images(query: Query) -> None:
    world = hand_world()
    found = query.describe_class("star")
    assert (found.class_id, found.name, found.n_images) == (2, "star", 3)
    rows = query.sql("SELECT * FROM class_texts WHERE class_id = 2 ORDER BY share DESC, text_id").to_pylist()
    assert [(word.text_id, word.share, word.coefficient) for word in found.words] == [
        (row["text_id"], row["share"], row["contribution"]) for row in rows
    ]
    mine = [i for i in range(11) if world.predictions[i] == 2]
    means = dict.fromkeys((0, 1), 0.0)
    for i in mine:
        for channel in range(7):
            means[channel % 2] += world.contributions[i, channel] / len(mine)
    assert len(mine) > 1
    assert {group.group_id: group.contribution for group in found.groups} == pytest.approx(means)
    assert [group.contribution for group in found.groups] == sorted(means.values(), reverse=True)
    positive = {group: max(mean, 0) for group, mean in means.items()}
    shares = {group: value / sum(positive.values()) for group, value in positive.items()}
    assert {group.group_id: group.share for group in found.groups} == pytest.approx(shares)
    assert [finding.finding_id for finding in found.findings] == [0]


def test_a_class_that_explains_no_image_has_no_groups(tmp_path: Path) -> None:
    world, storage = hand_world(), open_storage(tmp_path / "store")
    world.predictions[:] = 0
    world.contributions = world.weights[world.predictions] * world.pooled
    commit(storage, replace(tiny_manifest(storage, world, 2, None), config={"words": WORDS}))
    found = Query.open(tmp_path / "store").describe_class("star")
    assert found.groups == ()


# --- search -----------------------------------------------------------------------------------------------


def test_search_finds_channels_groups_and_texts(query: Query) -> None:
    first, *rest = query.search("a star", "channels")
    assert first == Match(2, "a star, a circle, a square", 1.0)
    assert [(match.id, match.similarity) for match in rest] == [(one, 0.0) for one in (0, 1, 3, 4, 5, 6)]
    assert query.search("a star", top=1) == [first]
    assert [(match.id, match.similarity) for match in query.search("a star", "groups")] == [
        (0, 0.5),  # its direction is the sum of four axes
        (1, 0.0),
    ]
    first = query.search("  A  Star ", "texts", top=1)  # the bank's text, whatever its case and spaces
    assert first == [Match(stable_id("a star"), "a star", 1.0)]


def test_search_finds_images_by_their_embeddings(query: Query) -> None:
    world = hand_world()
    similarity = [float(world.embeddings[i][2]) for i in range(11)]
    best = sorted(range(11), key=lambda i: -similarity[i])[:3]
    found = query.search("a star", "images", top=3)
    assert [(match.id, match.label) for match in found] == [(world.image_ids[i], world.uris[i]) for i in best]
    assert [match.similarity for match in found] == pytest.approx([similarity[i] for i in best], abs=2e-3)


def test_search_finds_classes_by_what_they_are_seen_by(query: Query) -> None:
    expected = []
    for class_id, name in enumerate(("circle", "square", "star")):
        rows = query.sql(f"SELECT * FROM class_texts WHERE class_id = {class_id}").to_pylist()
        total = sum(row["share"] for row in rows)
        mine = sum(row["share"] for row in rows if row["text_id"] == stable_id("an edge"))
        # The text itself counts 1; the others, at right angles to it, are below the mean and count 0.
        expected.append((class_id, name, mine / total))
    expected.sort(key=lambda one: (-one[2], one[0]))
    found = query.search("an edge", "classes")
    assert [(match.id, match.label) for match in found] == [(one[0], one[1]) for one in expected]
    assert [match.similarity for match in found] == pytest.approx([one[2] for one in expected], abs=1e-6)
    assert found[0].similarity > 0.1


def test_search_refuses_nonsense(query: Query) -> None:
    with pytest.raises(QueryError, match="channels, groups, classes, images, texts"):
        query.search("a star", "colours")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="no text"):
        query.search("  ")


# --- the rest ---------------------------------------------------------------------------------------------


def test_findings_come_by_rank(query: Query) -> None:
    assert [(one.rank, one.class_id, one.verdict) for one in query.findings()] == [
        (0, 2, "used"),
        (1, 0, "unproven"),
    ]


def test_sql_answers_in_arrow_and_writes_nothing(query: Query) -> None:
    answer = query.sql("SELECT name, n_images FROM classes ORDER BY class_id")
    assert answer.to_pylist() == [
        {"name": "circle", "n_images": 4},
        {"name": "square", "n_images": 4},
        {"name": "star", "n_images": 3},
    ]
    with pytest.raises(QueryError):
        query.sql("CREATE TABLE mine AS SELECT 1")


def test_how_sure_first_words_are(query: Query) -> None:
    """The store has 0, 1/22, 2/22, ... for channels, classes, groups and images in this order."""
    assert query.describe_channel(3).confidence == pytest.approx(3 / 22)
    described = query.describe_class("square")
    assert described.confidence == pytest.approx(8 / 22)
    assert {one.group_id: one.confidence for one in described.groups} == {
        0: pytest.approx(10 / 22),
        1: pytest.approx(11 / 22),
    }
    world = hand_world()
    told = query.explain_image(int(world.image_ids[0]))
    known = world.contributions[0] @ np.arange(7) / 22 / world.contributions[0].sum()
    first, second = (word.coefficient or 0 for word in told.words[:2])
    signs = np.array([[known, 1 - second / first]])
    assert told.confidence == pytest.approx(float(EXPLANATION(signs)[0]), abs=1e-4)
    assert query.explain_image(int(world.image_ids[0]), top=1).confidence == told.confidence


def test_a_store_of_an_earlier_format_does_not_know_how_sure_it_is(tmp_path: Path) -> None:
    query = Query.open(hand_store(tmp_path / "store"))
    manifest = query.snapshot.manifest
    parts = tuple(part for part in manifest.parts if part.table != "confidences")
    older = Query(Snapshot(query.snapshot.storage, replace(manifest, parts=parts, format_version=2)))
    assert older.describe_channel(0).confidence is None
    assert older.describe_class(0).confidence is None
    told = older.explain_image(int(hand_world().image_ids[0]))
    assert told.confidence is None
    assert [group.confidence for group in told.groups] == [None, None]
    assert told.words == query.explain_image(int(hand_world().image_ids[0])).words


def test_info_tells_what_the_store_holds(query: Query, store: Path) -> None:
    told = query.info()
    assert (told["store"], told["snapshot"], told["parent"]) == (str(store), 1, None)
    assert told["dims"] == {"channels": 7, "embedding": 17, "cells": 6}
    assert {name: table["rows"] for name, table in told["tables"].items()} == {
        "images": 11,
        "errors": 1,
        "embeddings": 11,
        "activations": 11,
        "examples": 28,
        "channels": 7,
        "channel_texts": 7,
        "groups": 2,
        "texts": 13,
        "classes": 3,
        "class_effects": 3,
        "class_texts": 12,
        "explanations": 11,
        "confidences": 23,
        "findings": 2,
        "maps": 9,
    }
    assert told["config"]["encoder"]["model"] == "ViT-B-32"


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        Query.open(tmp_path)


def test_a_text_that_the_store_lacks_is_damage_not_another_text(query: Query) -> None:
    with pytest.raises(Damaged, match="no text with the id 7"):
        query.word(7)


# --- what is loaded ---------------------------------------------------------------------------------------

HEAVY = ("torch", "torchvision", "timm", "open_clip", "ray", "store.writer", "pipelines")


def loaded_after(code: str) -> list[str]:
    """The heavy modules that a fresh process has loaded after running ``code``."""
    probe = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return list(eval(done.stdout.splitlines()[-1]))


def test_importing_query_loads_nothing_heavy() -> None:
    assert loaded_after("import textcam.query") == []
    assert loaded_after("import torch") == ["torch"]  # the probe itself works


def test_questions_without_pixels_or_new_texts_load_nothing_heavy(store: Path) -> None:
    code = f"""
from textcam.query import Query
from textcam.select import select_texts
query = Query.open({str(store)!r})
query.explain_image({hand_world().image_ids[0]})
query.explain_weights([1] * 7, class_id="star")
for among in ("channels", "groups", "classes", "images", "texts"):
    query.search("a star", among)
query.describe_channel(0), query.describe_class(0), query.findings(), query.sql("SELECT 1"), query.info()
"""
    assert loaded_after(code) == []


# --- a store that a real run made -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    runs.write_images(folder / "images")
    precompute(runs.config(folder, groups={"count": 3, "per_image": 3}))
    squashed = {"model": "python:tests.pipelines.models:squashed_classifier"}
    precompute(runs.config(folder, "squashed", classifier=squashed, groups={"count": 3, "per_image": 3}))
    return folder


def stored_explanations(query: Query) -> list[dict[str, Any]]:
    return query.sql(
        "SELECT image_id, uri, class_id, text_ids, coefficients, group_ids, group_contributions "
        "FROM explanations JOIN images USING (image_id) ORDER BY image_id"
    ).to_pylist()


@pytest.mark.parametrize("maps", [False, True])
def test_a_query_says_the_words_that_the_precompute_stored(run: Path, maps: bool) -> None:
    query = Query.open(run / "store", trust_code=True)
    rows = query.sql("SELECT id, confidence FROM confidences WHERE subject = 'image'").to_pylist()
    sure = {row["id"]: row["confidence"] for row in rows}
    assert len(sure) == len(stored_explanations(query))
    for row in stored_explanations(query)[:5]:
        found = query.explain_image(row["image_id"], maps=maps)
        assert found.class_id == row["class_id"]
        assert found.confidence == pytest.approx(sure[row["image_id"]], abs=5e-3 if maps else 1e-5)
        assert [word.text_id for word in found.words] == row["text_ids"]
        tolerance = {"rel": 5e-3, "abs": 5e-3} if maps else {"rel": 1e-5}  # stored activations are halves
        assert [word.coefficient for word in found.words] == pytest.approx(row["coefficients"], **tolerance)
        stored = dict(zip(row["group_ids"], row["group_contributions"], strict=True))
        assert {one.group_id: one.contribution for one in found.groups} == pytest.approx(
            stored, rel=5e-3, abs=5e-3
        )


def test_without_a_linear_head_the_original_is_classified_again(run: Path) -> None:
    query = Query.open(run / "squashed", trust_code=True)
    assert query.sql("SELECT count(weights) AS n FROM classes").to_pylist() == [{"n": 0}]
    for row in stored_explanations(query)[:3]:
        found = query.explain_image(row["image_id"])
        assert (found.class_id, found.uri) == (row["class_id"], row["uri"])
        assert [word.text_id for word in found.words] == row["text_ids"]
        assert found.saliency_map is None


def test_group_maps_add_up_to_the_map_and_maps_to_contributions(run: Path) -> None:
    query = Query.open(run / "store", trust_code=True)
    found = query.explain_image(stored_explanations(query)[0]["image_id"], maps=True)
    assert found.saliency_map is not None
    assert found.group_maps is not None
    assert found.view is not None
    assert found.group_maps.shape == (3, 4, 4)
    np.testing.assert_allclose(found.group_maps.sum(axis=0), found.saliency_map, atol=1e-5)
    means = found.group_maps.mean(axis=(1, 2))  # global average pooling: a map's mean is its contribution
    np.testing.assert_allclose(means, [group.contribution for group in found.groups], atol=1e-3)
    bias = query.sql(f"SELECT bias FROM classes WHERE class_id = {found.class_id}").to_pylist()[0]["bias"]
    assert found.logit == pytest.approx(found.saliency_map.mean() + bias, abs=1e-3)
    assert found.view.shape == (16, 16, 3)
    assert found.view.dtype == np.uint8


def test_a_map_from_elsewhere_is_explained_by_the_weights_behind_it(run: Path) -> None:
    query = Query.open(run / "store", trust_code=True)
    row = stored_explanations(query)[0]
    path = run / "images" / row["uri"]
    classifier = query._models.classifier
    seen = classifier.forward(classifier.prepare(Image.open(path).convert("RGB"))[None], maps=True)
    alive = seen.pooled[0] > 0  # nothing can be known of the weight of a channel that does not fire
    assert alive.sum() > 2
    planted = np.array([0, 2, 0, 1, 0, 0.5, 3], np.float32) * alive
    given = np.tensordot(planted, seen.maps[0], 1)  # (4, 4); seven channels, so the weights are unique
    found = query.explain_map(given, path, row["class_id"])
    expected = query.explain_weights(planted, seen.pooled[0], class_id=row["class_id"])
    assert found.residual == pytest.approx(0, abs=1e-4)
    assert [word.text for word in found.words] == [word.text for word in expected.words]
    assert [word.coefficient for word in found.words] == pytest.approx(
        [word.coefficient for word in expected.words], rel=1e-2, abs=1e-4
    )
    np.testing.assert_allclose(found.saliency_map, given, atol=1e-3)
    assert (found.class_id, found.logit) == (row["class_id"], pytest.approx(seen.logits[0].max()))
    own = query.explain_map(given, row["image_id"])
    assert (own.class_id, own.logit, own.image_id, own.uri) == (None, None, row["image_id"], row["uri"])
    np.testing.assert_allclose(own.saliency_map, found.saliency_map, atol=1e-5)
    noise = np.random.default_rng(0).random((4, 4)) < 0.3
    assert query.explain_map(noise, path).residual > 0.2
    with pytest.raises(ConfigError, match=r"shape \(3, 4\), and the layer's maps are 4 x 4"):
        query.explain_map(given[:3], path)


def test_a_file_an_image_and_the_stores_own_agree(run: Path) -> None:
    query = Query.open(run / "store", trust_code=True)
    row = stored_explanations(query)[0]
    path = run / "images" / row["uri"]
    by_path, by_image = query.explain_image(path), query.explain_image(Image.open(path))
    own = query.explain_image(row["image_id"], maps=True)
    assert by_path.words == by_image.words == own.words
    assert (by_path.image_id, by_path.uri, own.uri) == (None, None, row["uri"])
    np.testing.assert_array_equal(by_path.saliency_map, own.saliency_map)
    centre = np.asarray(Image.open(path).resize((19, 16), Image.Resampling.BILINEAR))[:, 2:18]
    assert np.abs(own.view.astype(int) - centre).mean() < 2  # the middle of the picture, upright


def test_a_bank_text_and_any_other_text_are_searched_alike(run: Path) -> None:
    query = Query.open(run / "store", trust_code=True)
    by_bank = query.search("grass", "texts", top=1)
    assert by_bank[0].label == "grass"
    assert by_bank[0].similarity == pytest.approx(1, abs=1e-5)
    found = query.search("grassy", "texts", top=10)  # encoded now
    embedding = query._models.encode_text("grassy")
    texts = query.sql("SELECT text, embedding FROM texts").to_pylist()
    cosines = [sum(a * b for a, b in zip(row["embedding"], embedding, strict=True)) for row in texts]
    expected = sorted(zip(cosines, (row["text"] for row in texts), strict=True), reverse=True)
    assert [match.label for match in found] == [text for _, text in expected]
    assert [match.similarity for match in found] == pytest.approx([one for one, _ in expected], abs=1e-5)


def changed(store: Path, section: str, **values: Any) -> Query:
    """The store, if its run had been configured otherwise."""
    snapshot = Snapshot.open(store)
    config = {**snapshot.manifest.config, section: {**snapshot.manifest.config[section], **values}}
    return Query(Snapshot(snapshot.storage, replace(snapshot.manifest, config=config)), trust_code=True)


def test_another_encoder_is_refused(run: Path) -> None:
    query = changed(run / "store", "encoder", model="python:tests.pipelines.models:other_clip")
    assert query.search("grass", "texts", top=1)[0].label == "grass"  # the bank's texts need no encoder
    with pytest.raises(EncoderMismatch, match="not the one that made the store"):
        query.search("grassy")


def test_another_classifier_is_refused(run: Path) -> None:
    query = changed(run / "store", "classifier", layer="features.0")
    row = stored_explanations(query)[0]
    assert query.explain_image(row["image_id"]).class_id == row["class_id"]  # from the store alone
    with pytest.raises(ModelError, match="not the one that made the store"):
        query.explain_image(row["image_id"], maps=True)


def test_originals_that_cannot_be_had_are_named(run: Path, tmp_path: Path) -> None:
    row = stored_explanations(Query.open(run / "store", trust_code=True))[0]
    gone = changed(run / "store", "images", uri=str(tmp_path))
    with pytest.raises(ImageError, match="no longer where the run found it"):
        gone.explain_image(row["image_id"], maps=True)
    packed = changed(run / "store", "images", format="webdataset")
    with pytest.raises(QueryError, match="archives"):
        packed.explain_image(row["image_id"], maps=True)


@pytest.mark.parametrize("content", [b"", b"This is no image.", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_refused(run: Path, tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(content)
    query = Query.open(run / "store", trust_code=True)
    with pytest.raises(ImageError, match="cannot be decoded") as refused:
        query.explain_image(bad)
    assert refused.value.where == str(bad)
    with pytest.raises(ImageError, match="cannot be read"):
        query.explain_image(tmp_path / "missing.jpg")
