"""Few rows by value: which parts, which row groups, which rows, so that little is read.

Two ways. Ids are hashes, so every shard may hold any id: for a table with one integer key in many parts, all
keys are read once and remembered (16 bytes a row). For any other column, row groups are passed over by their
minimum and maximum; URIs are sorted across shards, so that leaves one group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray


@dataclass(frozen=True)
class Places:
    """Where each key of a table is: ``keys`` (n,) ascending, with the part's and the row's number in it."""

    keys: NDArray[np.int64]
    parts: NDArray[np.int32]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, keys: list[NDArray[np.int64]]) -> "Places":
        """From the keys of each part, in the order of its rows."""
        whole = np.concatenate(keys)
        order = np.argsort(whole, kind="stable")
        parts = np.repeat(np.arange(len(keys), dtype=np.int32), [len(one) for one in keys])
        rows = np.concatenate([np.arange(len(one), dtype=np.int32) for one in keys])
        return cls(whole[order], parts[order], rows[order])

    def find(self, sought: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """For each part's number that has any of the sought keys, the ascending numbers of their rows."""
        at = np.searchsorted(self.keys, sought)
        at = at[(at < len(self.keys))]
        at = at[np.isin(self.keys[at], sought)]
        parts, rows = self.parts[at], self.rows[at].astype(np.int64)
        return {int(part): np.unique(rows[parts == part]) for part in np.unique(parts)}


def rows_at(file: pq.ParquetFile, rows: NDArray[np.int64], columns: list[str]) -> pa.Table:
    """These rows (ascending numbers) of a part; only their row groups are read."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    pieces = []
    for group in np.unique(group_of).tolist():
        inside = rows[group_of == group] - (ends[group] - sizes[group])
        pieces.append(file.read_row_group(group, columns=columns).take(pa.array(inside)))
    return pa.concat_tables(pieces).select(columns)


def rows_with(file: pq.ParquetFile, column: str, sought: pa.Array, columns: list[str]) -> pa.Table | None:
    """The rows of a part whose ``column`` is among the sought values, or None where none can be."""
    pieces = []
    for group in _candidate_groups(file.metadata, column, sought):
        mask = pc.is_in(file.read_row_group(group, columns=[column]).column(0), sought)
        hits = np.flatnonzero(mask.to_numpy())
        if len(hits):
            pieces.append(file.read_row_group(group, columns=columns).take(pa.array(hits)))
    return pa.concat_tables(pieces).select(columns) if pieces else None


def _candidate_groups(metadata: pq.FileMetaData, column: str, sought: pa.Array) -> Iterator[int]:
    """Row groups whose minimum and maximum leave room for one of the sought values."""
    values = sought.to_pylist()
    for group in range(metadata.num_row_groups):
        statistics = _statistics(metadata.row_group(group), column)
        if statistics is None or any(statistics.min <= value <= statistics.max for value in values):
            yield group


def _statistics(group: Any, column: str) -> Any:
    """A column's minimum and maximum in a row group, or None. By name: nested columns shift places."""
    for i in range(group.num_columns):
        chunk = group.column(i)
        if chunk.path_in_schema == column:
            return chunk.statistics if chunk.is_stats_set and chunk.statistics.has_min_max else None
    return None
