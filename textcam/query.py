"""Questions to a finished store: explain an image, describe a channel or class, search by words, SQL.

Needs neither torch nor ray unless pixels or a new text come in (see ``models``). Small tables are read once
(see ``catalogue``). Images, embeddings, activations and explanations are read by id, searched by index or
streamed, and never held whole.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from store.errors import QueryError
from store.reader import Snapshot, as_matrix
from store.schema import stable_id
from textcam.answers import ChannelDescription, ClassDescription, Explanation, GroupWords, Match, Word
from textcam.arrays import as_floats
from textcam.audit_query import AuditQuery
from textcam.catalogue import Catalogue, facts
from textcam.explainer import Explainer, positive_shares
from textcam.map_weights import weights_of_map
from textcam.models import StoreModels
from textcam.search import Among, nearest
from textcam.source_images import SourceImages, open_image, view_of
from textcam.two_sided import of_store, rising_and_falling, two_sided

if TYPE_CHECKING:
    from PIL.Image import Image

    from textcam.audit import Finding

_CLASS_GROUPS = """
    WITH mine AS (SELECT group_ids, group_contributions FROM explanations WHERE class_id = {class_id:d})
    SELECT group_id, sum(contribution) / (SELECT count(*) FROM mine) AS contribution
    FROM (SELECT unnest(group_ids) AS group_id, unnest(group_contributions) AS contribution FROM mine)
    GROUP BY group_id ORDER BY contribution DESC, group_id"""
_DEFAULT_WORDS = {"form": "both", "contrast": True}


class Query:
    """Questions to one snapshot; ``Query.open`` makes one.

    ``open_original`` opens an image of the store by its URI where its pixels are needed; by default it is
    read from the folder or bucket that the run took its images from. ``device``: where models run, if any
    must. ``trust_code``: whether code that the store names, a ``python:`` model say, may run; without it such
    a store answers all that needs no model, and the rest is a ModelError that says what would have run.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        open_original: "Callable[[str], Image] | None" = None,
        device: str = "cpu",
        *,
        trust_code: bool = False,
    ) -> None:
        self.snapshot = snapshot
        self.open_original = open_original or SourceImages(self.config)
        settings = {**_DEFAULT_WORDS, **self.config.get("words", {})}
        self._catalogue = Catalogue(snapshot, settings["form"], centre=bool(settings.get("centre", False)))
        self._explainer = Explainer(self._catalogue, settings)
        self._models = StoreModels(snapshot.manifest, device, trust_code=trust_code)

    @classmethod
    def open(cls, uri: str | Path, snapshot: int | None = None, *, trust_code: bool = False) -> "Query":
        """Open the newest snapshot of a store, or the one with this number; ``trust_code`` as for ``Query``.

        Raises StoreNotFound, FormatTooNew, Damaged.
        """
        return cls(Snapshot.open(uri, snapshot), trust_code=trust_code)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the run that made the store, as plain values."""
        return self.snapshot.manifest.config

    # --- explain --------------------------------------------------------------------------------------------

    @property
    def two_sided(self) -> bool:
        """Whether each channel of the network is two in this store, its rising and its falling side."""
        return of_store(self.snapshot.manifest.config)

    def explain_weights(
        self,
        cam_weights: ArrayLike,
        pooled: ArrayLike | None = None,
        top: int = 5,
        class_id: int | str | None = None,
    ) -> Explanation:
        """Words for the channel weights (K,) of any CAM method, in any unit.

        Where the layer takes both signs (see ``two_sided``), weights and activations may be those of the
        network's own channels, (K/2,): what rises and what falls is then told apart by the activation's sign.

        With pooled activations (K,) a channel counts by its contribution, weight times activation (ours);
        without them by its weight alone. With ``class_id`` (number or name) and a linear head, what all
        classes share is taken off, as far as the weights agree with the head's (ours).
        """
        channels = self.snapshot.dims.channels
        if self.two_sided and np.shape(cam_weights) == (channels // 2,):
            cam_weights = two_sided(as_floats("cam_weights", cam_weights, (channels // 2,)))
            if pooled is not None:
                pooled = rising_and_falling(as_floats("pooled", pooled, (channels // 2,)))
        weights = as_floats("cam_weights", cam_weights, (channels,))
        seen = np.ones(channels, np.float32) if pooled is None else as_floats("pooled", pooled, (channels,))
        if class_id is None:
            return self._explainer.explain(weights, seen, None, top, shared=0.0)
        wanted = self.class_id(class_id)
        return self._explainer.explain(
            weights, seen, wanted, top, self._explainer.shared_part(weights, wanted)
        )

    def explain_image(
        self,
        image: "str | Path | int | Image",
        class_id: int | str | None = None,
        top: int = 5,
        *,
        maps: bool | None = None,
    ) -> Explanation:
        """Words for why an image is seen as a class (number or name; the predicted one by default), and
        where.

        ``image`` is a file, a PIL image, or the id of an image of the store. An id is answered from the
        store's own activations without loading a model, unless there are none, the head is not linear or
        ``maps`` are asked for; then the original is opened. Raises QueryError for an id or class that the
        store does not have, ImageError for a file that is no image, and ModelError if the classifier cannot
        be loaded or is not the one that made the store.
        """
        wanted = None if class_id is None else self.class_id(class_id)
        if not isinstance(image, int | np.integer):
            return self._explain_pixels(open_image(image), wanted, top, maps=maps is not False)
        row = self._image(int(image))
        wanted = row["prediction"] if wanted is None else wanted
        classes = self._catalogue.classes
        stored = self.snapshot.has("activations")  # a run may have left them out
        if maps or classes.weights is None or classes.bias is None or not stored:
            found = self._explain_pixels(self.open_original(row["uri"]), wanted, top, maps=bool(maps))
        else:
            rows = self.snapshot.rows("activations", "image_id", [int(image)], ["pooled"])
            pooled = as_matrix(rows["pooled"].combine_chunks())[0]
            found = self._explainer.explain(classes.weights[wanted], pooled, wanted, top)
            found = replace(found, logit=float(classes.weights[wanted] @ pooled + classes.bias[wanted]))
        return replace(found, image_id=int(image), uri=row["uri"])

    def explain_map(
        self,
        saliency_map: ArrayLike,
        image: "str | Path | int | Image",
        class_id: int | str | None = None,
        top: int = 5,
    ) -> Explanation:
        """Words for a map that any other tool drew over an image, given as in ``explain_image``.

        The channels' weights are had back from the image's activations (see ``map_weights``); ``residual`` of
        the answer is the part of the map that they cannot make: near 1, its words mean little. The map is
        (h, w) of the classifier's layer, or finer, over the part of the image that the classifier sees.
        ``class_id`` as in ``explain_weights``. Raises ConfigError for a map of another shape or without
        content, and what ``explain_image`` raises.
        """
        stored = int(image) if isinstance(image, int | np.integer) else None
        row = None if stored is None else self._image(stored)
        opened = self.open_original(row["uri"]) if row else open_image(cast("str | Path | Image", image))
        classifier = self._models.classifier
        pixels = classifier.prepare(opened.convert("RGB"))[None]
        output = classifier.forward(pixels, maps=True)
        assert output.maps is not None
        weights, residual = weights_of_map(np.asarray(saliency_map, np.float32), output.maps[0])
        found = self.explain_weights(weights, output.pooled[0], top, class_id)
        found = self._explainer.with_maps(found, output.maps, weights[None], view_of(pixels[0], opened))
        logit = None if found.class_id is None else float(output.logits[0, found.class_id])
        return replace(
            found, image_id=stored, uri=row["uri"] if row else None, logit=logit, residual=residual
        )

    def _explain_pixels(self, image: "Image", class_id: int | None, top: int, *, maps: bool) -> Explanation:
        classifier = self._models.classifier
        pixels = classifier.prepare(image.convert("RGB"))[None]
        output = classifier.forward(pixels, maps=maps)
        wanted = int(output.logits[0].argmax()) if class_id is None else class_id
        method = self.config.get("cam", {}).get("method", "gradcam")
        cam_weights = classifier.cam_weights(pixels, np.array([wanted]), method)
        head = (
            self._catalogue.classes.weights
        )  # what the precompute explains by, whichever method draws the maps
        found = self._explainer.explain(
            cam_weights[0] if head is None else head[wanted], output.pooled[0], wanted, top
        )
        found = replace(found, logit=float(output.logits[0, wanted]))
        if output.maps is None:
            return found
        return self._explainer.with_maps(found, output.maps, cam_weights, view_of(pixels[0], image))

    # --- describe -------------------------------------------------------------------------------------------

    def describe_channel(self, channel: int) -> ChannelDescription:
        """Words, quality, group and typical images of a channel. Raises QueryError for one that is not
        there.
        """
        rows = self._catalogue.channels.rows
        if not 0 <= channel < len(rows):
            raise QueryError(
                f"There is no channel {channel}.",
                where="channels",
                fix=f"Channels go from 0 to {len(rows) - 1}.",
            )
        row = rows[channel]
        examples = self.snapshot.rows("examples", "channel", [channel]).to_pylist()
        highest = sorted((one["rank"], one["image_id"]) for one in examples if one["side"] == "positive")
        return ChannelDescription(
            channel=channel,
            words=self._catalogue.texts.words(row["text_ids"], similarity=row["similarities"]),
            separation=row["separation"],
            active_fraction=row["active_fraction"],
            group_id=row["group_id"],
            example_ids=tuple(image_id for _, image_id in highest),
            confidence=self._catalogue.confidences["channel"].get(channel),
        )

    def describe_class(self, class_id: int | str) -> ClassDescription:
        """What a class (number or name) is seen by. Raises QueryError, naming the nearest, for one that is
        not there.
        """
        wanted, classes = self.class_id(class_id), self._catalogue.classes
        rows = self._catalogue.class_texts.get(wanted, [])
        return ClassDescription(
            class_id=wanted,
            name=classes.names[wanted],
            words=self._catalogue.texts.words(
                [row["text_id"] for row in rows],
                share=[row["share"] for row in rows],
                coefficient=[row["contribution"] for row in rows],
            ),
            groups=self._class_groups(wanted),
            n_images=classes.n_images[wanted],
            accuracy=classes.accuracy[wanted],
            findings=tuple(finding for finding in self.findings() if finding.class_id == wanted),
            confidence=self._catalogue.confidences["class"].get(wanted),
        )

    def _class_groups(self, class_id: int) -> tuple[GroupWords, ...]:
        """Groups by falling mean contribution over the images explained as this class."""
        sums = self.snapshot.sql(_CLASS_GROUPS.format(class_id=class_id))
        means = sums["contribution"].to_numpy().astype(np.float64)
        texts, groups = self._catalogue.texts, self._catalogue.groups
        sure = self._catalogue.confidences["group"]
        return tuple(
            GroupWords(
                group_id,
                float(mean),
                float(share),
                texts.words(groups[group_id]["text_ids"], similarity=groups[group_id]["similarities"]),
                sure.get(group_id),
            )
            for group_id, mean, share in zip(
                sums["group_id"].to_pylist(), means, positive_shares(means), strict=True
            )
        )

    # --- search ---------------------------------------------------------------------------------------------

    def search(self, text: str, among: Among = "channels", top: int = 10) -> list[Match]:
        """The channels, groups, classes, images or texts nearest to a text, best first.

        A text of the store's bank needs no model; any other is encoded by the encoder that made the store.
        The similarity is a cosine; that of classes is explained in ``search.nearest_classes``. Raises
        QueryError for an unknown ``among`` or no text, EncoderMismatch if the encoder is not the one that
        made the store.
        """
        if among not in get_args(Among):
            raise QueryError(
                f"Nothing is searched in {among!r}.", fix=f"Allowed: {', '.join(get_args(Among))}."
            )
        if not text.strip():
            raise QueryError("There is no text to search for.", where=repr(text))
        row = self._catalogue.texts.row_of(text)
        target = self._models.encode_text(text) if row is None else self._catalogue.texts.embeddings[row]
        return nearest(self.snapshot, self._catalogue, target, among, top)

    # --- the rest -------------------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self._catalogue.classes.names)

    def class_id(self, name: int | str) -> int:
        """The number of a class by its number or name. Raises QueryError that names the nearest."""
        return self._catalogue.classes.find(name)

    def class_name(self, class_id: int) -> str:
        """The name of a class. Raises QueryError for a number that is not there."""
        return self._catalogue.classes.names[self.class_id(class_id)]

    def word(self, text_id: int) -> Word:
        """A text of the bank by its id."""
        return self._catalogue.texts.words([text_id])[0]

    def image_id(self, name: str) -> int:
        """The id of an image of the store by its URI, or by its id as text. Raises QueryError for no such
        image.
        """
        for found in ([int(name)] if name.isdecimal() and int(name) < 1 << 63 else []) + [stable_id(name)]:
            if self.snapshot.rows("images", "image_id", [found], ["image_id"]).num_rows:
                return found
        raise QueryError(
            "No such file, and no image of the store has this URI or id.",
            where=name,
            fix='List them: textcam sql STORE "SELECT image_id, uri FROM images LIMIT 10"',
        )

    def findings(self) -> "list[Finding]":
        """The findings, most suspicious first; those that people marked as core come last."""
        return self.audit.findings()

    @cached_property
    def audit(self) -> AuditQuery:
        """More of the audit: marks, slices, matching, a corrected head, the data alone."""
        return AuditQuery(self.snapshot, self._catalogue)

    def sql(self, query: str) -> pa.Table:
        """One SELECT over the store's tables, read-only. Raises QueryError for anything else."""
        return self.snapshot.sql(query)

    def info(self) -> dict[str, Any]:
        """What the store holds, as plain values."""
        return facts(self.snapshot)

    def _image(self, image_id: int) -> dict[str, Any]:
        rows = self.snapshot.rows("images", "image_id", [image_id], ["uri", "prediction"]).to_pylist()
        if not rows:
            raise QueryError(f"No image of the store has the id {image_id}.", where="images")
        return rows[0]
