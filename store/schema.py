"""The tables: Arrow schemas, keys, sort order and the format version. The floor: imports nothing of ours.

Shape letters: K channels, D embedding size, h*w map cells. Lists whose length is fixed by the models are
FixedSizeList (bulk ones float16, small precious ones float32); lists whose length varies are List.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
from annotated_types import Interval

FORMAT_VERSION = 3
SINCE = {"channel_texts": 2, "class_effects": 2, "confidences": 3}  # the format that brought a table

KINDS = ("object", "part", "colour", "texture", "material", "scene", "artefact", "other")
SIDES = ("positive", "negative")
VERDICTS = ("used", "association", "unproven")
SUBJECTS = ("channel", "class", "group", "image")  # whose first word a confidence is about
WHOLE_MAP = -1  # group_id of a map that belongs to no group but to the whole explanation


def stable_id(text: str) -> int:
    """The 63-bit id of a data-set-relative URI or of a text: independent of order, sharding and neighbours.

    BLAKE2b of the UTF-8 bytes, first 8 bytes big-endian, sign bit cleared, so that it fits an int64.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


Size = Annotated[int, Interval(ge=1, le=1 << 24)]


@dataclass(frozen=True)
class Dims:
    """Sizes that the models fix: K channels, D embedding size, ``cells`` = h*w of a stored map."""

    channels: Size
    embedding: Size
    cells: Size


@dataclass(frozen=True)
class Table:
    """One table: its name, its key (also its sort order) and its Arrow schema."""

    name: str
    key: tuple[str, ...]
    schema: pa.Schema


def _vector(value_type: pa.DataType, size: int) -> pa.DataType:
    return pa.list_(pa.field("item", value_type, nullable=False), size)


def _list(value_type: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", value_type, nullable=False))


def tables(dims: Dims) -> dict[str, Table]:
    """All tables of a store with these sizes, by name, in the order in which a run writes them."""
    i64, i32, f32, f64 = pa.int64(), pa.int32(), pa.float32(), pa.float64()
    text = pa.string()
    channels, embedding = dims.channels, dims.embedding

    def table(
        name: str, key: tuple[str, ...], nullable: tuple[str, ...] = (), /, **columns: pa.DataType
    ) -> Table:
        fields = [pa.field(column, kind, nullable=column in nullable) for column, kind in columns.items()]
        return Table(name, key, pa.schema(fields))

    made = [
        table(
            "images",
            ("image_id",),
            ("label",),
            image_id=i64,
            uri=text,
            content_hash=text,
            width=i32,
            height=i32,
            label=i32,
            prediction=i32,
            confidence=f32,
            shard=i32,
        ),
        table("errors", ("uri",), uri=text, stage=text, reason=text),
        table("embeddings", ("image_id",), image_id=i64, embedding=_vector(pa.float16(), embedding)),
        table("activations", ("image_id",), image_id=i64, pooled=_vector(pa.float16(), channels)),
        table(
            "examples",
            ("channel", "side", "rank"),
            channel=i32,
            side=text,
            rank=i32,
            image_id=i64,
            activation=f32,
        ),
        table(
            "channels",
            ("channel",),
            channel=i32,
            direction=_vector(f32, embedding),
            region_direction=_vector(f32, embedding),
            separation=f32,
            active_fraction=f32,
            group_id=i32,
            text_ids=_list(i64),
            similarities=_list(f32),
        ),
        table("channel_texts", ("channel", "text_id"), channel=i32, text_id=i64, coefficient=f32),
        table(
            "groups",
            ("group_id",),
            group_id=i32,
            direction=_vector(f32, embedding),
            channels=_list(i32),
            text_ids=_list(i64),
            similarities=_list(f32),
        ),
        table("texts", ("text_id",), text_id=i64, text=text, kind=text, embedding=_vector(f32, embedding)),
        table(
            "classes",
            ("class_id",),
            ("weights", "bias", "accuracy"),
            class_id=i32,
            name=text,
            weights=_vector(f32, channels),
            bias=f32,
            n_images=i64,
            accuracy=f32,
        ),
        table(
            "class_texts",
            ("class_id", "text_id"),
            class_id=i32,
            text_id=i64,
            share=f32,
            contribution=f32,
            n=i64,
        ),
        table("class_effects", ("class_id", "text_id"), class_id=i32, text_id=i64, effect=f32),
        table(
            "explanations",
            ("image_id",),
            image_id=i64,
            class_id=i32,
            text_ids=_list(i64),
            coefficients=_list(f32),
            group_ids=_list(i32),
            group_contributions=_list(f32),
        ),
        table("confidences", ("subject", "id"), subject=text, id=i64, confidence=f32),
        table(
            "findings",
            ("finding_id",),
            (
                *("accuracy_with", "accuracy_without", "effect", "effect_low", "effect_high", "q_value"),
                *("flip_rate", "proof_drop", "proof_control"),
            ),
            finding_id=i64,
            class_id=i32,
            text_id=i64,
            group_id=i32,
            kind=text,
            share=f32,
            accuracy_with=f32,
            accuracy_without=f32,
            n_with=i64,
            n_without=i64,
            effect=f32,
            effect_low=f32,
            effect_high=f32,
            q_value=f64,
            flip_rate=f32,
            proof_drop=f32,
            proof_control=f32,
            proof_n=i32,
            verdict=text,
            rank=i32,
        ),
        table(
            "maps",
            ("image_id", "class_id", "group_id"),
            image_id=i64,
            class_id=i32,
            group_id=i32,
            map=_vector(pa.uint8(), dims.cells),
            scale=f32,
        ),
    ]
    return {one.name: one for one in made}


TABLE_NAMES = tuple(tables(Dims(1, 1, 1)))
