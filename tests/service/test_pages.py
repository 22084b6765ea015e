"""The report: complete, linked, escaped, the same bytes twice; and what it does when something is missing."""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from service.contexts import PageContexts
from service.pages import write_report
from service.report_folder import LIST
from store.errors import ConfigError, StoreNotFound
from tests.service.world import CLASSES, IMAGES_A_CLASS, finding, uri_of, write_world
from tests.service.written_pages import pages_of
from textcam.query import Query


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_every_page_is_written(written_report: Path) -> None:
    inside = [
        "channels/1.html",
        *(f"classes/{class_id}.html" for class_id in range(4)),
        "findings/1.html",
        "index.html",
    ]
    expected = [*inside, "errors.html", "side-by-side.html", *(f"stores/1/{name}" for name in inside)]
    assert sorted(pages_of(written_report)) == sorted(expected)


def test_every_link_and_picture_leads_somewhere(written_report: Path) -> None:
    pages = pages_of(written_report)
    seen = 0
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            assert not parts.scheme, f"{name} reaches outside: {link}"
            assert not parts.netloc, f"{name} reaches outside: {link}"
            target = (
                ((written_report / name).parent / unquote(parts.path)).resolve()
                if parts.path
                else written_report / name
            )
            assert target.is_file(), f"{name}: {link}"
            if parts.fragment:
                assert parts.fragment in pages[target.relative_to(written_report).as_posix()].ids, (
                    f"{name}: {link}"
                )
            seen += 1
    assert seen > 200


def test_pages_are_well_formed_and_readable_without_eyes(written_report: Path) -> None:
    for name, page in pages_of(written_report).items():
        assert page.headings[0] == 1, name
        assert page.headings.count(1) == 1, name
        steps = np.diff(page.headings)
        assert steps.max(initial=0) <= 1, f"{name} skips a heading level: {page.headings}"
        assert len(page.ids) == len(set(page.ids)), f"{name} has an id twice"
        assert all("alt" in image for image in page.images), name


def test_user_text_is_escaped(written_report: Path) -> None:
    for path in written_report.rglob("*.html"):
        source = path.read_text(encoding="utf-8")
        assert "<script>alert" not in source, path
        assert "<b>striped" not in source, path
        assert "broken & <cut>" not in source, path
    pages = pages_of(written_report)
    assert all(page.scripts and None not in page.scripts for page in pages.values())
    assert "<script>alert(1)</script>" in pages["classes/1.html"].text
    assert "broken & <cut>.jpg" in pages["errors.html"].text


def test_same_store_same_bytes(written_store: Path, tmp_path: Path) -> None:
    write_report(written_store, tmp_path / "first")
    write_report(written_store, tmp_path / "second")
    first = digests(tmp_path / "first")
    assert len(first) > 40
    assert first == digests(tmp_path / "second")


def test_nothing_of_a_larger_earlier_report_stays(written_store: Path, tmp_path: Path) -> None:
    """Over an earlier report of more stores and pages comes the same as in an empty folder."""
    many = [finding(rank, rank % 4, 1, "used") for rank in range(60)]
    other = write_world(tmp_path / "other", findings=many)
    write_report(other, tmp_path / "report", label="x", compare_with=[("y", written_store)])
    earlier = set(digests(tmp_path / "report"))
    write_report(written_store, tmp_path / "report", label="x")
    write_report(written_store, tmp_path / "fresh", label="x")
    assert {"side-by-side.html", "stores/1/index.html", "findings/2.html"} <= earlier - set(
        digests(tmp_path / "fresh")
    )
    assert digests(tmp_path / "report") == digests(tmp_path / "fresh")
    assert not (tmp_path / "report" / "stores").exists()


def test_files_that_are_not_the_reports_stay(written_store: Path, tmp_path: Path) -> None:
    report, other = tmp_path / "report", tmp_path / "other"
    write_report(written_store, report, compare_with=[("y", written_store)])
    other.mkdir()
    ours = (report / "notes.txt", report / "stores" / "1" / "mine.txt", other / "index.html")
    for path in ours:
        path.write_text("mine")
    # A folder of the report that now lies elsewhere, and a list that somebody else wrote.
    shutil.rmtree(report / "channels")
    (report / "channels").symlink_to(other)
    with (report / LIST).open("a") as file:
        file.write(f"channels/index.html\n../other/index.html\n{other / 'index.html'}\nassets\n")
    write_report(written_store, report)
    assert [path.read_text() for path in ours] == ["mine", "mine", "mine"]
    assert (report / "assets" / "style.css").is_file()
    assert [path.name for path in (report / "stores" / "1").iterdir()] == ["mine.txt"]


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(written_store: Path, tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "mine.html").write_text("mine")
    before = digests(tmp_path)
    with pytest.raises(ConfigError, match="not an earlier report's") as error:
        write_report(written_store, tmp_path)
    assert error.value.where == str(tmp_path)
    assert digests(tmp_path) == before


def test_a_report_that_broke_off_is_known_as_one(
    written_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PageContexts, "overview", breaks)
        with pytest.raises(KeyboardInterrupt):
            write_report(written_store, tmp_path / "report", compare_with=[("y", written_store)])
    assert (tmp_path / "report" / "classes" / "0.html").exists()
    small = write_world(tmp_path / "small", findings=(), errors=())
    write_report(small, tmp_path / "report", label="x")
    write_report(small, tmp_path / "fresh", label="x")
    assert digests(tmp_path / "report") == digests(tmp_path / "fresh")


def test_overview_says_what_was_explained(written_report: Path) -> None:
    page = pages_of(written_report)["index.html"]
    text = " ".join(page.text.split())
    assert "Images 24" in text
    assert "Classes 4" in text
    assert "Accuracy 83 %" in text  # five of six images in each class
    assert "Classifier python:world:model" in text
    assert "2 images could not be used" in text
    assert 'snow" (scene). With it 94 % right (n=812), without 41 % (n=97), effect 53 points [41, 64]' in text
    assert [link for link in page.links if link.startswith("classes/") and "#" not in link] == [
        f"classes/{class_id}.html" for class_id in range(len(CLASSES))
    ]


def test_findings_come_in_rank_order_with_their_verdicts(written_report: Path) -> None:
    text = " ".join(pages_of(written_report)["findings/1.html"].text.split())
    places = [
        text.index(words)
        for words in (
            "Söhne is seen by snow scene used",
            "by watermark artefact association",
            "striped</b> texture unproven",
        )
    ]
    assert places == sorted(places)


def test_marks_are_shown_and_core_comes_last(tmp_path: Path) -> None:
    store = write_world(tmp_path / "store")
    audit = Query.open(store).audit
    first, second = audit.findings()[:2]
    audit.mark(first, "core", "it <i>lives</i> there")
    audit.mark(second, "spurious")
    pages = pages_of(write_report(store, tmp_path / "out").parent)
    text = " ".join(pages["findings/1.html"].text.split())
    assert "Marked core: it <i>lives</i> there" in text
    assert text.index("Marked spurious.") < text.index("Marked core")
    assert text.index("striped</b> texture") < text.index("Söhne is seen by snow")


def test_more_findings_than_a_page_holds(tmp_path: Path) -> None:
    many = tuple(finding(at, at % 4, at % 6, "unproven") for at in range(60))
    folder = write_report(write_world(tmp_path, findings=many), tmp_path / "out").parent
    pages = pages_of(folder)
    assert [name for name in pages if name.startswith("findings/")] == [
        f"findings/{at}.html" for at in (1, 2, 3)
    ]
    assert "page 2 of 3" in pages["findings/2.html"].text
    assert {"1.html", "3.html"} <= set(pages["findings/2.html"].links)
    assert sum(name.startswith("finding-") for page in pages.values() for name in page.ids) == 2 * len(many)


# --- what may be missing ---


def test_missing_and_damaged_originals_become_placeholders(tmp_path: Path) -> None:
    store = write_world(tmp_path)
    (tmp_path / "images" / uri_of(0, 0)).unlink()
    (tmp_path / "images" / uri_of(0, 1)).write_bytes(b"no image")
    folder = write_report(store, tmp_path / "out").parent
    pages = pages_of(folder)
    assert "2 original images could not be opened" in " ".join(pages["index.html"].text.split())
    gone = [image for image in pages["classes/0.html"].images if "missing.svg" in (image["src"] or "")]
    assert {uri_of(0, at) for at in (0, 1)} == {(image["alt"] or "").split(":")[0] for image in gone}
    assert all("the original is missing" in (image["alt"] or "") for image in gone)
    assert "missing.svg" not in (folder / "classes" / "3.html").read_text(encoding="utf-8")


def test_all_originals_gone(tmp_path: Path) -> None:
    store = write_world(tmp_path)
    shutil.rmtree(tmp_path / "images")
    folder = write_report(store, tmp_path / "out").parent
    assert not (folder / "pictures").exists()
    text = " ".join(pages_of(folder)["index.html"].text.split())
    assert (
        f"{len(CLASSES) * IMAGES_A_CLASS} original images" not in text
    )  # only those that pages wanted are counted
    assert "original images could not be opened" in text


def test_without_findings_and_errors(tmp_path: Path) -> None:
    folder = write_report(write_world(tmp_path, findings=(), errors=()), tmp_path / "out").parent
    pages = pages_of(folder)
    assert "errors.html" not in pages
    assert "No findings" in pages["index.html"].text
    assert "No findings" in pages["findings/1.html"].text


def test_without_the_tables_that_later_stages_write(tmp_path: Path) -> None:
    """A store of images, texts and classes alone still has its pages."""
    left_out = ("errors", "examples", "channels", "groups", "class_texts", "explanations", "findings", "maps")
    folder = write_report(write_world(tmp_path, without=left_out), tmp_path / "out").parent
    pages = pages_of(folder)
    assert "channels/1.html" not in pages
    assert "no words fit" in pages["index.html"].text
    assert "holds no maps" in pages["classes/0.html"].text


def test_no_store_and_equal_labels_are_refused(written_store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        write_report(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="same label"):
        write_report(written_store, tmp_path / "out", compare_with=[("a", written_store)], label="a")
    assert not (tmp_path / "out").exists()
