"""Images as pages show them: alone, with maps over them, and on both sides of a finding."""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

from service.contents import Contents, GroupRow, Word, words_of
from service.exemplars import ImageRow, Map, Maps, Sides, finding_sides, images_by_id
from service.pictures import Album, Picture
from service.wording import VERDICTS, FindingRow, Verdict
from store.schema import WHOLE_MAP

GROUP_MAPS = 3  # an image's strongest groups
LEAST_PART = 0.05  # of what the strongest group adds: weaker ones are not shown
IMAGE_WORDS = 3  # words of an image's own explanation
FINDINGS_WITH_IMAGES = 200


@dataclass(frozen=True)
class Shot:
    """An image. ``overlay``: what the classifier saw of it with the map, where a map is stored."""

    original: Picture
    overlay: Picture | None
    image: ImageRow
    predicted: str
    label: str | None
    words: tuple[Word, ...]


@dataclass(frozen=True)
class GroupShot:
    """A group's map over an image, and what the group adds to the logit."""

    group: GroupRow | None
    contribution: float
    picture: Picture


@dataclass(frozen=True)
class TypicalImage:
    """An image of a class page: alone, with the whole map, and with the maps of its strongest groups."""

    shot: Shot
    groups: tuple[GroupShot, ...]


@dataclass(frozen=True)
class FindingView:
    """A finding, what its verdict means, and images for both sides."""

    row: FindingRow
    verdict: Verdict
    named: tuple[Shot, ...]
    other: tuple[Shot, ...]


class Shots:
    """Makes them for one store; pictures are made into the album as they are needed."""

    def __init__(self, contents: Contents, album: Album) -> None:
        self.contents, self.album = contents, album

    @cached_property
    def maps(self) -> Maps:
        """The stored maps that may be shown."""
        return Maps(self.contents.snapshot)

    @cached_property
    def images(self) -> dict[int, ImageRow]:
        """All images with maps, a few per class, read at once: their ids are spread over the whole table."""
        return images_by_id(
            self.contents.snapshot, (image_id for ids in self.maps.images.values() for image_id in ids)
        )

    @cached_property
    def sides(self) -> Sides:
        """Images for both sides of the first findings."""
        return finding_sides(self.contents.snapshot, self.contents.findings[:FINDINGS_WITH_IMAGES], self.maps)

    def shot(self, image: ImageRow, class_id: int, group_id: int) -> Shot:
        """The image with the group's map for the class, or the whole map where the group's is not stored."""
        found = self.maps.best(image.image_id, class_id, group_id)
        overlay = None
        if found is not None:
            of_group, one = found
            what = f"'{self._class(class_id)}'" if of_group == WHOLE_MAP else self._group(of_group)
            alt = f"{image.uri}: where {what} is seen"
            overlay = self._overlay(image, alt, class_id, of_group, one)
        words = image.text_ids[:IMAGE_WORDS]
        return Shot(
            original=self.album.thumbnail(image.image_id, image.uri, f"{image.uri}: the image alone"),
            overlay=overlay,
            image=image,
            predicted=self._class(image.prediction),
            label=None if image.label is None else self._class(image.label),
            words=words_of(self.contents.texts, words, [0.0] * len(words)),
        )

    def typical(self, image: ImageRow, class_id: int) -> TypicalImage:
        """The image with its whole map and the maps of its own strongest groups."""
        stored = self.maps.of(image.image_id, class_id)
        least = LEAST_PART * max((contribution for _, contribution in image.groups), default=0.0)
        shots: list[GroupShot] = []
        for group_id, contribution in image.groups:
            if group_id in stored and contribution > least and len(shots) < GROUP_MAPS:
                alt = f"{image.uri}: where {self._group(group_id)} is seen"
                picture = self._overlay(image, alt, class_id, group_id, stored[group_id])
                shots.append(GroupShot(self.contents.groups.get(group_id), contribution, picture))
        return TypicalImage(self.shot(image, class_id, WHOLE_MAP), tuple(shots))

    def findings(self, rows: tuple[FindingRow, ...]) -> tuple[FindingView, ...]:
        """Findings with images; those beyond the first ``FINDINGS_WITH_IMAGES`` have none."""

        def side(row: FindingRow, which: int) -> tuple[Shot, ...]:
            images = self.sides.get(row.finding.finding_id, ([], []))[which]
            return tuple(self.shot(image, row.finding.class_id, row.finding.group_id) for image in images)

        return tuple(
            FindingView(row, VERDICTS[row.finding.verdict], side(row, 0), side(row, 1)) for row in rows
        )

    def _overlay(self, image: ImageRow, alt: str, class_id: int, group_id: int, one: Map) -> Picture:
        # One scale for all maps of an image, rooted: a weak group looks weak, and can still be seen.
        strongest = max(other.scale for other in self.maps.of(image.image_id, class_id).values())
        return self.album.overlay(
            image.image_id,
            image.uri,
            alt,
            class_id=class_id,
            group_id=group_id,
            values=one.cells,
            strength=sqrt(one.scale / strongest) if strongest > 0 else 0.0,
        )

    def _class(self, class_id: int) -> str:
        row = self.contents.classes.get(class_id)
        return f"class {class_id}" if row is None else row.name

    def _group(self, group_id: int) -> str:
        group = self.contents.groups.get(group_id)
        return f"'{group.words[0].text}'" if group and group.words else f"group {group_id}"
