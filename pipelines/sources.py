"""Sources: where images come from, one or several, and under which URIs a store has them.

``pipelines.listings`` says what each kind of source holds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ImagesSection
from pipelines.listings import LISTINGS, PLAN_SCHEMA, SUFFIXES, with_stamps
from store.errors import SourceError
from store.schema import stable_id
from store.storage import Storage, open_storage
from textcam.source_images import below, lies_in, namings, root_of


def open_source(images: ImagesSection) -> tuple[Storage, str]:
    """The storage that the images' URIs are relative to, and the prefix below which they are listed.

    ``images.uri`` may be a folder or one file (a .csv, .tar or .parquet). Raises SourceError if it is not
    there.
    """
    if images.uri.lower().endswith((".csv", ".tar", ".parquet")):
        folder, _, name = images.uri.rpartition("/")
        storage, prefix = open_storage(folder or "/"), name
    else:
        storage, prefix = open_storage(images.uri), ""
    if "://" not in images.uri and not Path(images.uri).exists():
        raise SourceError("There is no such folder or file.", where=images.uri, fix="Check images.uri.")
    return storage, prefix


def list_sources(sections: Sequence[ImagesSection]) -> pa.Table:
    """The images of all sources, with the number of its ``source``; one that is in several counts for the
    first. URIs are named as ``namings`` says. Raises SourceError for a source without images.
    """
    whole = PLAN_SCHEMA.append(pa.field("source", pa.int32())).empty_table()
    for at, section in enumerate(sections):
        rows = named(list_source(section), at, [one.uri for one in sections])
        known = pc.is_in(rows["uri"], value_set=whole["uri"])
        whole = pa.concat_tables([whole, rows.filter(pc.invert(known))])
    return whole


def list_source(images: ImagesSection, prefix: str | None = None, *, stamps: bool = True) -> pa.Table:
    """The images of one source, sorted; URIs are its own paths. ``prefix``: those in this folder of it.

    Without ``stamps`` the files that a list names are not looked at. Raises SourceError if there is no image.
    """
    storage, whole = open_source(images)
    prefix = whole if prefix is None else prefix
    rows = LISTINGS[images.format](storage, storage.scan(prefix, follow_links=True), images).sort_by("uri")
    if rows.num_rows == 0:
        raise SourceError(
            f"No image was found (format: {images.format}).",
            where=f"{images.uri}/{prefix}".rstrip("/") if prefix != whole else images.uri,
            fix=f"Image files end in {', '.join(SUFFIXES)}; other layouts: images.format.",
        )
    if images.limit is not None and images.limit < rows.num_rows:
        rows = _spread(rows, images.limit)
    if images.labels == "none":
        none = pa.nulls(rows.num_rows, pa.string())
        rows = rows.set_column(rows.schema.get_field_index("label"), "label", none)
    return with_stamps(storage, rows) if stamps else rows


def _spread(rows: pa.Table, limit: int) -> pa.Table:
    """``limit`` rows at equal steps, so that a limited run still meets every folder."""
    keep = np.linspace(0, rows.num_rows - 1, limit).round().astype(np.int64)
    return rows.take(pa.array(keep))


def named(rows: pa.Table, at: int, uris: Sequence[str]) -> pa.Table:
    """Rows of source number ``at`` of ``uris`` under the URIs that their images have in a store.

    Where a source before it lies inside this one, its images keep the names that they have there.
    """
    rows = rows.append_column("source", pa.array(np.full(rows.num_rows, at), pa.int32()))
    roots, names = [root_of(uri) for uri in uris], namings(uris)
    inner = [
        (below(roots[one], roots[at]) + "/", names[one])
        for one in range(at)
        if roots[one] != roots[at] and lies_in(roots[one], roots[at])
    ]
    if not names[at] and not inner:
        return rows
    made = [
        next((name + uri[len(way) :] for way, name in inner if uri.startswith(way)), names[at] + uri)
        for uri in rows["uri"].to_pylist()
    ]
    columns = {"uri": pa.array(made, pa.string()), "image_id": pa.array(map(stable_id, made), pa.int64())}
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows
