"""The report: every page of a store as files that open from disk. A server renders the same templates.

The same store gives the same bytes, also over an earlier report: what that had more is taken away. Other
files are left alone (``report_folder``).
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.comparison import Compared, comparison
from service.contents import Contents
from service.contexts import PageContexts
from service.originals import Originals
from service.output import new_file, os_errors
from service.pictures import Album, colour_scale
from service.report_folder import ReportFolder
from service.wording import VERDICTS, number, percent, signed
from store.errors import ConfigError
from store.reader import Snapshot
from textcam.confidence import UNSURE

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = ("style.css", "pages.js", "mark.svg", "missing.svg")
MAIN = ""  # the key of the report's own store; others lie in a folder named by their key

UrlFor = Callable[..., str]


@dataclass(frozen=True)
class StoreLink:
    """A store of this site: the key that links carry, and what it is called."""

    key: str
    label: str


@dataclass(frozen=True)
class Site:
    """What the frame of each page shows."""

    key: str
    label: str
    stores: tuple[StoreLink, ...]
    has_channels: bool
    n_errors: int


def environment() -> Environment:
    """The templates, with everything that comes from a store escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(percent=percent, number=number, signed=signed)
    legend = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colour_scale()[4::8].tolist()]
    made.globals.update(verdicts=VERDICTS, legend=legend, unsure=UNSURE)
    return made


def render(
    templates: Environment, name: str, site: Site, page: object, url_for: UrlFor, group_pages: dict[int, int]
) -> str:
    """One page as HTML. ``name``: template and endpoint; ``group_pages``: where a group's channels are."""

    def group_url(group_id: int) -> str:
        return f"{url_for('channels', page=group_pages.get(group_id, 1))}#group-{group_id}"

    return templates.get_template(f"{name}.html").render(
        site=site, page=page, here=name, url_for=url_for, group_url=group_url
    )


def static_path(endpoint: str, store: str, **values: Any) -> PurePosixPath:
    """Where a page, picture or asset lies in the report."""
    if endpoint == "asset":
        return PurePosixPath("assets", values["name"])
    if endpoint == "comparison":
        return PurePosixPath("side-by-side.html")
    inside = {
        "overview": "index.html",
        "errors": "errors.html",
        "class": "classes/{class_id}.html",
        "channels": "channels/{page}.html",
        "findings": "findings/{page}.html",
        "picture": "pictures/{name}",
    }[endpoint]
    return PurePosixPath(store, inside.format(**values))


def static_url(
    here: PurePosixPath, current_store: str, endpoint: str, *, store: str | None = None, **values: Any
) -> str:
    """A relative link from the page ``here`` to another place of the report."""
    target = static_path(endpoint, current_store if store is None else store, **values)
    return quote(relpath(str(target), str(here.parent)))


def write_report(
    store: str | Path | Snapshot,
    out: Path,
    *,
    compare_with: Sequence[tuple[str, str | Path | Snapshot]] = (),
    label: str | None = None,
) -> Path:
    """Write the report of a store, and of the stores beside it, into a folder; returns its ``index.html``.

    A store is an open snapshot, or an address, of which the newest is taken. ``compare_with``: (label, store)
    of others, which get pages of their own and one that puts all side by
    side; ``label`` names the first (default: its folder). Raises ConfigError for two equal labels and for a
    folder that holds anything but an earlier report,
    StoreNotFound, Damaged, and StorageUnavailable or StorageFull if the folder cannot be written.
    """
    opened = _opened(store)
    others = [(name, _opened(other)) for name, other in compare_with]
    named = [(label or default_label(opened.storage.uri), opened), *others]
    if len({name for name, _ in named}) < len(named):
        labels = ", ".join(name for name, _ in named)
        raise ConfigError("Two stores of a report have the same label.", where=labels, fix="Name each.")
    contents = [Contents.read(snapshot, name) for name, snapshot in named]
    stores = tuple(StoreLink(f"stores/{at}" if at else MAIN, name) for at, (name, _) in enumerate(named))
    with os_errors("The report cannot be written", out), ReportFolder(out) as folder:
        writer = _Writer(folder, stores)
        for link, one in zip(stores, contents, strict=True):
            writer.write_store(link, one)
        if len(stores) > 1:
            compared = [Compared(link.key, one) for link, one in zip(stores, contents, strict=True)]
            writer.write_comparison(compared)
    return out / "index.html"


def _opened(store: str | Path | Snapshot) -> Snapshot:
    return store if isinstance(store, Snapshot) else Snapshot.open(store)


def default_label(store_uri: str | Path) -> str:
    """What a store is called when nobody named it: the last part of its place."""
    return str(store_uri).rstrip("/").rpartition("/")[2] or "store"


class _Writer:
    """Renders pages into the folder of a report."""

    def __init__(self, folder: ReportFolder, stores: tuple[StoreLink, ...]) -> None:
        self.folder, self.stores, self.templates = folder, stores, environment()
        for name in ASSETS:
            shutil.copyfile(TEMPLATES / name, folder.place(static_path("asset", MAIN, name=name)))

    def write_store(self, link: StoreLink, contents: Contents) -> None:
        """All pages of one store. The overview comes last: by then the missing originals are known."""
        config = contents.snapshot.manifest.config
        place = partial(self._picture_place, link.key)
        album = Album(place, Originals(config), config.get("view_share", 1.0))
        pages = PageContexts(contents, album)
        site = self._site(link, contents)
        write = partial(self._write, site=site, group_pages=pages.channel_page_of())
        for class_id in contents.classes:
            write("class", pages.of_class(class_id), class_id=class_id)
        for page in range(1, pages.channel_pages + 1):
            write("channels", pages.channels(page), page=page)
        for page in range(1, pages.finding_pages + 1):
            write("findings", pages.findings(page), page=page)
        if site.n_errors:
            write("errors", pages.errors())
        write("overview", pages.overview())

    def write_comparison(self, compared: Sequence[Compared]) -> None:
        """The page that puts the stores side by side."""
        site = self._site(self.stores[0], compared[0].contents)
        self._write("comparison", comparison(compared), site=site, group_pages={})

    def _picture_place(self, store: str, name: str) -> Path:
        return self.folder.place(static_path("picture", store, name=name))

    def _site(self, link: StoreLink, contents: Contents) -> Site:
        counts = contents.counts
        return Site(link.key, link.label, self.stores, bool(counts["channels"]), counts["errors"])

    def _write(
        self, endpoint: str, context: object, /, *, site: Site, group_pages: dict[int, int], **values: Any
    ) -> None:
        here = static_path(endpoint, site.key, **values)
        url_for = partial(static_url, here, site.key)
        html = render(self.templates, endpoint, site, context, url_for, group_pages)
        with new_file(self.folder.place(here), "The report cannot be written") as file:
            file.write(html.encode())
