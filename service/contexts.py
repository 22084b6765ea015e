"""What each page says, made from the store: one dataclass a page. Templates only lay it out.

The exported report and a server use the same contexts and templates; they differ in the links, and in when a
page is made.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from service.contents import ClassRow, Contents, GroupRow, Word, words_of
from service.exemplars import channel_examples, images_by_id, typical_images
from service.pictures import Album, Picture
from service.shots import FindingView, Shots, TypicalImage
from service.wording import VERDICTS, Verdict, number, percent

CHANNELS_A_PAGE = 40
FINDINGS_A_PAGE = 25
ERRORS_SHOWN = 500
FIRST_FINDINGS = 8  # on the overview


@dataclass(frozen=True)
class OverviewPage:
    """What was explained, the first findings, and the classes with their first words."""

    facts: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    classes: tuple[ClassRow, ...]
    findings: tuple[FindingView, ...]
    n_findings: int
    verdicts: tuple[tuple[Verdict, str, int], ...]
    missing: int


@dataclass(frozen=True)
class ClassPage:
    """One class."""

    row: ClassRow
    images: tuple[TypicalImage, ...]
    mistaken: tuple[TypicalImage, ...]
    findings: tuple[FindingView, ...]
    previous: ClassRow | None
    next: ClassRow | None


@dataclass(frozen=True)
class ChannelView:
    """One channel: its words by similarity, how well its examples separate, and where it is strongest."""

    channel: int
    words: tuple[Word, ...]
    separation: float
    active_fraction: float
    examples: tuple[Picture, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """The channels of one group that are on this page."""

    group: GroupRow | None
    channels: tuple[ChannelView, ...]


@dataclass(frozen=True)
class ChannelsPage:
    """A page of the channels' gallery, ordered by group."""

    groups: tuple[ChannelGroup, ...]
    page: int
    pages: int
    total: int


@dataclass(frozen=True)
class FindingsPage:
    """A page of the findings, by rank."""

    findings: tuple[FindingView, ...]
    page: int
    pages: int
    total: int


@dataclass(frozen=True)
class ErrorsPage:
    """Images that could not be used."""

    rows: tuple[dict[str, str], ...]
    by_stage: tuple[tuple[str, int], ...]
    total: int


class PageContexts:
    """Makes the contexts of one store's pages; pictures are made into the album as they are needed."""

    def __init__(self, contents: Contents, album: Album) -> None:
        self.contents, self.album = contents, album
        self.shots = Shots(contents, album)

    @cached_property
    def channel_order(self) -> list[tuple[int, int]]:
        """(group_id, channel), in the order of the gallery: by group, and by falling separation within it."""
        if not self.contents.snapshot.has("channels"):
            return []
        rows = self.contents.snapshot.table("channels", ["channel", "group_id", "separation"]).to_pylist()
        rows.sort(key=lambda row: (row["group_id"], -row["separation"], row["channel"]))
        return [(row["group_id"], row["channel"]) for row in rows]

    @property
    def channel_pages(self) -> int:
        """How many pages the gallery has."""
        return -(-len(self.channel_order) // CHANNELS_A_PAGE)

    @property
    def finding_pages(self) -> int:
        """How many pages the findings have; one that says so if there are none."""
        return max(1, -(-len(self.contents.findings) // FINDINGS_A_PAGE))

    def channel_page_of(self) -> dict[int, int]:
        """On which page of the gallery each group begins."""
        first: dict[int, int] = {}
        for at, (group_id, _) in enumerate(self.channel_order):
            first.setdefault(group_id, at // CHANNELS_A_PAGE + 1)
        return first

    def overview(self) -> OverviewPage:
        """The first page. Made last by a report, so that it can say how many originals were missing."""
        contents = self.contents
        config = contents.snapshot.manifest.config
        counts = Counter(row.finding.verdict for row in contents.findings)
        facts = [("Images", number(contents.counts["images"])), ("Classes", number(len(contents.classes)))]
        if contents.accuracy is not None:
            facts.append(("Accuracy", percent(contents.accuracy)))
        facts += [
            ("Channels", number(contents.counts["channels"])),
            ("Groups", number(len(contents.groups))),
            ("Texts", number(len(contents.texts))),
        ]
        models = [
            (name, str(config[section][key]))
            for name, section, key in (
                ("Classifier", "classifier", "model"),
                ("Layer", "classifier", "layer"),
                ("Encoder", "encoder", "model"),
                ("Images", "images", "uri"),
            )
            if config.get(section, {}).get(key) not in (None, "auto")
        ]
        return OverviewPage(
            facts=tuple(facts),
            models=tuple(models),
            classes=tuple(contents.classes.values()),
            findings=self.shots.findings(contents.findings[:FIRST_FINDINGS]),
            n_findings=len(contents.findings),
            verdicts=tuple((verdict, name, counts[name]) for name, verdict in VERDICTS.items()),
            missing=len(self.album.missing),
        )

    def of_class(self, class_id: int) -> ClassPage:
        """The page of one class."""
        order = list(self.contents.classes)
        at = order.index(class_id)
        row = self.contents.classes[class_id]
        own, mistaken = typical_images(self.shots.maps, self.shots.images, class_id)
        return ClassPage(
            row=row,
            images=tuple(self.shots.typical(image, class_id) for image in own),
            mistaken=tuple(self.shots.typical(image, class_id) for image in mistaken),
            findings=self.shots.findings(row.findings),
            previous=self.contents.classes[order[at - 1]] if at else None,
            next=self.contents.classes[order[at + 1]] if at + 1 < len(order) else None,
        )

    def channels(self, page: int) -> ChannelsPage:
        """A page of the gallery, counted from 1."""
        wanted = self.channel_order[(page - 1) * CHANNELS_A_PAGE : page * CHANNELS_A_PAGE]
        ids = sorted(channel for _, channel in wanted)
        snapshot = self.contents.snapshot
        columns = ["channel", "separation", "active_fraction", "text_ids", "similarities"]
        rows = {row["channel"]: row for row in snapshot.rows("channels", "channel", ids, columns).to_pylist()}
        examples = channel_examples(snapshot, ids)
        wanted_images = (one for found in examples.values() for one in found)
        images = images_by_id(snapshot, wanted_images, explained=False)

        def view(channel: int) -> ChannelView:
            row = rows[channel]
            shown = [images[one] for one in examples[channel] if one in images]
            alt = f"Image {{}} of those in which channel {channel} is strongest"
            return ChannelView(
                channel,
                words_of(self.contents.texts, row["text_ids"], row["similarities"]),
                row["separation"],
                row["active_fraction"],
                tuple(
                    self.album.thumbnail(image.image_id, image.uri, alt.format(at))
                    for at, image in enumerate(shown, start=1)
                ),
                self.contents.confidences["channel"].get(channel),
            )

        groups = list(dict.fromkeys(group_id for group_id, _ in wanted))
        made = tuple(
            ChannelGroup(
                self.contents.groups.get(group_id),
                tuple(view(channel) for of_group, channel in wanted if of_group == group_id),
            )
            for group_id in groups
        )
        return ChannelsPage(made, page, self.channel_pages, len(self.channel_order))

    def findings(self, page: int) -> FindingsPage:
        """A page of the findings, counted from 1."""
        all_of_them = self.contents.findings
        wanted = all_of_them[(page - 1) * FINDINGS_A_PAGE : page * FINDINGS_A_PAGE]
        return FindingsPage(self.shots.findings(wanted), page, self.finding_pages, len(all_of_them))

    def errors(self) -> ErrorsPage:
        """The images that could not be used."""
        by_stage: Counter[str] = Counter()
        shown: list[dict[str, str]] = []
        for batch in self.contents.snapshot.batches("errors", ["uri", "stage", "reason"]):
            by_stage.update(batch.column(1).to_pylist())
            shown.extend(batch.slice(0, ERRORS_SHOWN - len(shown)).to_pylist())
        return ErrorsPage(tuple(shown), tuple(sorted(by_stage.items())), self.contents.counts["errors"])
