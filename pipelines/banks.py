"""What of a text bank is worth another look, said once at the end of a run.

A text that is there twice was dropped; two that CLIP holds for the same share their evidence; of one that is
too long for the tokenizer its end was not read.
"""

import numpy as np

from pipelines.bench import Bench
from store.manifest import Manifest
from store.reader import as_matrix, read_part
from textcam.texts import load_bank, near_duplicates, truncated_texts


def doubts(bench: Bench, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """``duplicate_texts``, ``near_duplicate_texts`` (most alike first) and ``truncated_texts`` as lines.

    Embeddings come from the snapshot that was just made.
    """
    config, encoder = bench.config.texts, bench.encoder
    bank = load_bank(config.bank, config.templates)
    rows = [read_part(bench.store, part) for part in manifest.of("texts")]
    ids = np.concatenate([table["text_id"].to_numpy() for table in rows])
    embeddings = np.concatenate([as_matrix(table["embedding"].combine_chunks()) for table in rows])
    order = np.argsort(ids)
    in_bank = embeddings[order[np.searchsorted(ids[order], bank.text_ids)]]  # (T, D)
    return {
        "duplicate_texts": tuple(f"{dropped} = {kept}" for dropped, kept in bank.duplicates),
        "near_duplicate_texts": tuple(
            f"{later} ~ {earlier} ({cosine:.3f})" for earlier, later, cosine in near_duplicates(bank, in_bank)
        ),
        "truncated_texts": tuple(truncated_texts(bank, encoder.token_count, encoder.context_length)),
    }
