"""What the pages say, before it is laid out: from the rows of a small store that were written by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from service.comparison import Compared, comparison, words_difference
from service.contents import ClassRow, Contents, Word
from service.contexts import PageContexts
from service.exemplars import Maps
from service.pictures import Album
from store.errors import Damaged
from store.reader import Snapshot
from tests.service.world import CLASSES, ERRORS, uri_of, write_world
from tests.service.written_pages import pages_of


def test_class_page_orders_words_and_groups_by_share(written_store: Path, tmp_path: Path) -> None:
    contents = Contents.read(Snapshot.open(written_store), "x")
    row = contents.classes[0]
    assert [word.text for word in row.words] == [
        "star",
        "snow",
        "watermark",
        "red",
        "<b>striped</b>",
    ]  # ring: share 0
    assert [word.value for word in row.words] == pytest.approx([0.4, 0.2, 0.15, 0.1, 0.05])
    assert [(one.group.group_id, one.share) for one in row.groups] == [(0, 0.75), (1, 0.25)]
    assert contents.classes[3].words == ()
    assert contents.accuracy == pytest.approx(5 / 6)


def test_sides_of_a_finding_are_told_apart_by_the_images_own_words(
    written_store: Path, tmp_path: Path
) -> None:
    contexts = PageContexts(
        Contents.read(Snapshot.open(written_store), "x"),
        Album(tmp_path.joinpath, lambda uri: Image.new("RGB", (9, 9))),
    )
    (view, *_) = contexts.findings(1).findings
    named = {shot.image.uri for shot in view.named}
    other = {shot.image.uri for shot in view.other}
    # 'snow' is a word of the even images of the class; the odd ones have 'red' instead.
    assert named == {uri_of(2, at) for at in (0, 2, 4)}
    assert other == {uri_of(2, at) for at in (1, 3, 5)}
    assert [shot.overlay is not None for shot in view.named] == [
        True,
        True,
        False,
    ]  # maps are kept of images 0 to 2
    assert {shot.label for shot in view.other if not shot.image.right} == {CLASSES[2]}


def test_typical_images_are_the_surest_with_the_images_own_groups(
    written_store: Path, tmp_path: Path
) -> None:
    contexts = PageContexts(
        Contents.read(Snapshot.open(written_store), "x"),
        Album(tmp_path.joinpath, lambda uri: Image.new("RGB", (9, 9))),
    )
    page = contexts.of_class(2)
    assert [one.shot.image.uri for one in page.images] == [uri_of(2, 0), uri_of(2, 1), uri_of(2, 2)]
    assert [(shot.group.group_id, shot.contribution) for shot in page.images[0].groups if shot.group] == [
        (0, 3.0),
        (1, 1.0),
    ]
    assert page.previous is not None
    assert page.previous.class_id == 1
    assert page.next is not None
    assert page.next.class_id == 3


def test_channels_stand_by_group_then_separation(written_store: Path, tmp_path: Path) -> None:
    contexts = PageContexts(
        Contents.read(Snapshot.open(written_store), "x"),
        Album(tmp_path.joinpath, lambda uri: Image.new("RGB", (9, 9))),
    )
    page = contexts.channels(1)
    assert [[one.channel for one in part.channels] for part in page.groups] == [[0, 2, 4, 6], [1, 3, 5]]
    assert len(page.groups[0].channels[0].examples) == 4  # positives only


def test_maps_of_another_size_are_damage(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="15 cells, not 4 x 4"):
        Maps(Snapshot.open(write_world(tmp_path, map_size=(4, 4))))


def row_with(**shares: float) -> ClassRow:
    words = tuple(Word(at, text, "object", share) for at, (text, share) in enumerate(shares.items()))
    return ClassRow(0, "x", 1, None, words, (), ())


def test_words_difference_is_total_variation() -> None:
    # .6/.2 -> .75/.25 and .2/.2 -> .5/.5 of a and b: half of (.25 + .25).
    assert words_difference(row_with(a=0.6, b=0.2), row_with(a=0.2, b=0.2)) == pytest.approx(0.25)
    assert words_difference(row_with(a=0.3), row_with(b=0.7)) == 1.0
    assert words_difference(row_with(a=0.3), row_with()) == 1.0
    assert words_difference(row_with(), row_with()) == 0.0


def test_words_that_are_not_everywhere_are_marked(written_store: Path) -> None:
    contents = Contents.read(Snapshot.open(written_store), "one")
    other = Contents.read(Snapshot.open(written_store), "two")
    other.classes[0] = row_with(star=0.5, snow=0.2)
    other.classes[0] = replace(other.classes[0], name="star")
    other.findings = ()
    page = comparison([Compared("", contents), Compared("stores/1", other)])
    assert page.rows[0].name == "star"  # the one that differs comes first
    assert page.rows[0].difference == pytest.approx(words_difference(contents.classes[0], other.classes[0]))
    assert [cell.differing for cell in page.rows[0].cells] == [{"watermark", "red", "<b>striped</b>"}, set()]
    assert page.rows[0].most == pytest.approx(0.5)
    assert [one.difference for one in page.rows[1:]] == [0, 0, 0]
    assert [(one.class_name, one.text) for one in page.findings] == [
        ("Schneepflug & Söhne", "snow"),
        ("star", "watermark"),
        ("<script>alert(1)</script>", "<b>striped</b>"),
    ]
    first, second = page.findings[1].cells
    assert first.row is not None
    assert first.row.finding.verdict == "association"
    assert (second.row, second.share) == (None, None)  # neither a finding nor a word of the class there
    assert page.findings[0].cells[1].share == pytest.approx(0.1)


def test_comparison_names_both_stores_and_links_to_their_classes(written_report: Path) -> None:
    page = pages_of(written_report)["side-by-side.html"]
    assert "clean & calm" in page.text
    assert {"classes/2.html", "stores/1/classes/2.html"} <= set(page.links)
    assert "No findings." in page.text


def test_the_world_is_what_the_tests_say(written_store: Path) -> None:
    snapshot = Snapshot.open(written_store)
    assert not snapshot.has("embeddings")
    assert not snapshot.has("activations")
    assert snapshot.count("errors") == len(ERRORS)
