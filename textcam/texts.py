"""The text bank: the words that an explanation may use, each with its kind, and their embeddings.

Prompts are part of the bank. A concept is embedded as the mean of several prompts, and the prompts differ by
kind because "a photo of a striped." is no sentence. A text keeps its case but is compared without case and
surplus space, so that one concept cannot enter twice and share its evidence with itself.

The built-in bank uses American spelling ("gray", "tire"), as most captions that CLIP models learn from do.
"""

import codecs
import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store.errors import ConfigError, ModelError
from store.schema import KINDS, stable_id

BUILTIN = Path(__file__).parent / "banks" / "builtin.csv"

# "a(n)" becomes "a" or "an" as the text demands; everything else stands as written.
# The prompts are short, and the first is little more than the text: words that a kind's prompts share pull
# all its texts together, and then the choice between kinds would hang on the prompts.
DEFAULT_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "object": ("a(n) {}", "a photo of a(n) {}.", "a picture of a(n) {}"),
    "part": ("a(n) {}", "a photo of a(n) {}.", "something with a(n) {}"),
    "colour": ("{}", "a photo of something {}.", "a(n) {} object"),
    "texture": ("{}", "a photo of something {}.", "a(n) {} surface"),
    "material": ("{}", "a photo of {}.", "something made of {}"),
    "scene": ("a(n) {}", "a photo of a(n) {}.", "a(n) {} in the background"),
    "artefact": ("a(n) {}", "a photo with a(n) {}.", "a(n) {} on a picture"),
    "other": ("{}", "a photo, {}.", "a picture of {}"),
}

TemplatesSpec = str | Sequence[str] | Mapping[str, str | Sequence[str]]

# Where the first sound is not what the first letter says: "a unicycle", "an hour hand", "an x-ray".
_VOWEL_LETTER_CONSONANT_SOUND = re.compile(r"uni(?![dmn])|u-|us[ae]|ut[ei]|uku|eu|ew|one\b|once\b")
_VOWEL_SOUND = re.compile(r"[aeiou]|hour|heir|hono|x-ray")


@dataclass(frozen=True)
class TextBank:
    """T texts with their kinds, and the prompt templates of each kind.

    ``duplicates`` names what loading dropped, as (dropped text, kept text); it is no part of the fingerprint.
    Raises ConfigError for an empty bank, an unknown kind, a text that is there twice, and for templates
    that are missing for a kind in use or do not hold exactly one ``{}``.
    """

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    templates: Mapping[str, tuple[str, ...]]
    duplicates: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("The text bank is empty.", fix="Give at least one text.")
        if len(self.texts) != len(self.kinds):
            raise ConfigError(f"The text bank has {len(self.texts)} texts but {len(self.kinds)} kinds.")
        for text, kind in zip(self.texts, self.kinds, strict=True):
            if not text.strip():
                raise ConfigError("The text bank holds a text without words.", where=repr(text))
            _check_kind(kind, where=text)
        seen: dict[str, str] = {}
        for text in self.texts:
            key = _comparison_key(text)
            if key in seen:
                raise ConfigError("A text is in the bank twice.", where=f"{seen[key]!r} and {text!r}")
            seen[key] = text
        for kind in sorted({*self.kinds, *self.templates}):
            _check_templates(kind, self.templates.get(kind, ()))

    @property
    def text_ids(self) -> NDArray[np.int64]:
        """Stable ids of the texts (T,), in the bank's order."""
        return np.array([stable_id(text) for text in self.texts], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256, as hex, of what decides the embeddings: texts, kinds and templates, with their order."""
        templates = {kind: list(group) for kind, group in self.templates.items()}
        content = {"texts": self.texts, "kinds": self.kinds, "templates": templates}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_bank(spec: str | Path | Sequence[str | Path], templates: TemplatesSpec | None = None) -> TextBank:
    """A bank from ``"builtin"``, a ``.txt``, a ``.csv``, or several of them merged (the first kind wins).

    A ``.txt`` holds one text a line, kind "other"; empty lines and lines that begin with ``#`` are skipped.
    A ``.csv`` has a header with the column ``text`` and, if wanted, ``kind``; an empty kind means "other" and
    further columns are ignored. Both are UTF-8. ``templates`` is one group for all kinds, or a mapping
    from kind to group; kinds that it leaves out keep DEFAULT_TEMPLATES.

    Raises ConfigError, with file and line, for what cannot be read: a missing or undecodable file, an unknown
    suffix or kind, a missing column, a row of wrong length, a file without texts, a bad template.
    """
    sources = [spec] if isinstance(spec, str | Path) else list(spec)
    if not sources:
        raise ConfigError("The list of text banks is empty.", fix='Name at least one, for example "builtin".')
    kept: dict[str, tuple[str, str]] = {}  # comparison key -> text, kind
    duplicates: list[tuple[str, str]] = []
    for source in sources:
        n_before = len(kept) + len(duplicates)
        for text, kind in _read(source):
            key = _comparison_key(text)
            if key in kept:
                duplicates.append((text, kept[key][0]))
            else:
                kept[key] = (text, kind)
        if len(kept) + len(duplicates) == n_before:
            raise ConfigError("The text bank holds no texts.", where=source, fix="Write one text a line.")
    return TextBank(
        texts=tuple(text for text, _ in kept.values()),
        kinds=tuple(kind for _, kind in kept.values()),
        templates=_templates_by_kind(templates),
        duplicates=tuple(duplicates),
    )


def embed_bank(
    bank: TextBank, encode: Callable[[list[str]], ArrayLike], batch_size: int = 256
) -> NDArray[np.float32]:
    """Text embeddings (T, D), unit rows: the mean of the unit embeddings of a text's prompts, renormalised.

    ``encode`` takes at most ``batch_size`` prompts and gives one row (D,) each, of any length.
    Raises ModelError if it gives another number of rows, another D, or a row that has no direction.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    # Each prompt carries the row that it belongs to, so no order of prompts is assumed on the way back.
    expanded = [(row, prompt) for row in range(len(bank.texts)) for prompt in _prompts(bank, row)]
    sums: NDArray[np.float64] | None = None
    for start in range(0, len(expanded), batch_size):
        rows, prompts = zip(*expanded[start : start + batch_size], strict=True)
        embeddings = np.asarray(encode(list(prompts)), dtype=np.float64)  # (prompts, D)
        if sums is None and embeddings.ndim == 2:
            sums = np.zeros((len(bank.texts), embeddings.shape[1]))  # (T, D)
        if sums is None or embeddings.shape != (len(prompts), sums.shape[1]):
            raise ModelError(
                f"The encoder gave an array of shape {embeddings.shape} for {len(prompts)} prompts.",
                where=repr(prompts[0]),
                fix="It must give one row a prompt, of the same length each time.",
            )
        np.add.at(sums, np.array(rows), _unit_rows(embeddings, names=prompts))
    assert sums is not None  # a bank is never empty
    return _unit_rows(sums, names=bank.texts).astype(np.float32)


def near_duplicates(
    bank: TextBank, text_embeddings: NDArray[np.floating], threshold: float = 0.98, block: int = 1024
) -> list[tuple[str, str, float]]:
    """Pairs of texts whose embeddings have a cosine of at least ``threshold``: (earlier, later, cosine).

    ``text_embeddings`` (T, D) are the unit rows of ``embed_bank``. The most similar pair comes first.
    Memory is ``block`` x T, not T x T.
    """
    n_texts = len(bank.texts)
    if text_embeddings.ndim != 2 or len(text_embeddings) != n_texts:
        raise ValueError(f"{n_texts} texts, but text embeddings of shape {text_embeddings.shape}")
    pairs: list[tuple[float, int, int]] = []
    for start in range(0, n_texts, block):
        similarity = text_embeddings[start : start + block] @ text_embeddings[start:].T  # (block, T - start)
        for first, second in np.argwhere(np.triu(similarity >= threshold, k=1)):
            pairs.append((float(similarity[first, second]), start + int(first), start + int(second)))
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [(bank.texts[first], bank.texts[second], cosine) for cosine, first, second in pairs]


def truncated_texts(bank: TextBank, token_count: Callable[[str], int], context_length: int) -> list[str]:
    """The texts of which at least one prompt has more than ``context_length`` tokens, in the bank's order.

    ``token_count`` counts what the tokenizer makes of a prompt before cutting, start and end marks included.
    """
    return [
        text
        for row, text in enumerate(bank.texts)
        if any(token_count(prompt) > context_length for prompt in _prompts(bank, row))
    ]


def _prompts(bank: TextBank, row: int) -> list[str]:
    text = bank.texts[row]
    return [_fill(template, text) for template in bank.templates[bank.kinds[row]]]


def _fill(template: str, text: str) -> str:
    # Not str.format: texts and templates may hold other braces.
    return template.replace("a(n) {}", f"{_article(text)} {{}}").replace("{}", text)


def _article(text: str) -> str:
    sound = text.casefold()
    return "an" if _VOWEL_SOUND.match(sound) and not _VOWEL_LETTER_CONSONANT_SOUND.match(sound) else "a"


def _unit_rows(rows: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 1e-12)))
    if len(bad):
        raise ModelError("The encoder gave an embedding without a direction.", where=repr(names[bad[0]]))
    units: NDArray[np.float64] = rows / norms
    return units


def _comparison_key(text: str) -> str:
    return _normalised(text).casefold()


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _check_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"Unknown kind {kind!r}.", where=where, fix=f"Use one of: {', '.join(KINDS)}.")


# --- templates ----------------------------------------------------------------------------------------------


def _templates_by_kind(spec: TemplatesSpec | None) -> dict[str, tuple[str, ...]]:
    if spec is None:
        return dict(DEFAULT_TEMPLATES)
    if not isinstance(spec, Mapping):
        return dict.fromkeys(KINDS, _as_group(spec))
    given = {kind: _as_group(group) for kind, group in spec.items()}
    return {**DEFAULT_TEMPLATES, **given}


def _as_group(spec: str | Sequence[str]) -> tuple[str, ...]:
    return (spec,) if isinstance(spec, str) else tuple(spec)


def _check_templates(kind: str, templates: Sequence[str]) -> None:
    _check_kind(kind, where="templates")
    if not templates:
        raise ConfigError(f"There are no templates for kind {kind!r}.", fix="Give at least one.")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"A template must hold {{}} exactly once, this one holds it {template.count('{}')} times.",
                where=repr(template),
                fix='Mark the place of the text, for example "a photo of a {}."',
            )


# --- files --------------------------------------------------------------------------------------------------


def _read(source: str | Path) -> Iterator[tuple[str, str]]:
    """Yields (text, kind) of one file."""
    path = BUILTIN if source == "builtin" else Path(source)
    suffix = path.suffix.casefold()
    if suffix not in (".txt", ".csv"):
        raise ConfigError(
            "A text bank must be a .txt or a .csv file.",
            where=path,
            fix='Give such a file, or "builtin" for the bank that comes along.',
        )
    lines = _decoded(path)
    return _read_csv(path, lines) if suffix == ".csv" else _read_txt(lines)


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ConfigError("The text bank cannot be read.", where=path, fix=error.strerror or "") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "The text bank is not UTF-8.", where=f"{path}, line {line}", fix="Save the file as UTF-8."
        ) from error


def _read_txt(content: str) -> Iterator[tuple[str, str]]:
    for line in content.splitlines():
        text = _normalised(line)
        if text and not text.startswith("#"):
            yield text, "other"


def _read_csv(path: Path, content: str) -> Iterator[tuple[str, str]]:
    rows = _csv_rows(path, content)
    header_line, header = rows[0] if rows else (1, [])
    columns = [name.strip().casefold() for name in header]
    if "text" not in columns:
        raise ConfigError(
            f"The column 'text' is missing; the header has: {', '.join(columns) or 'nothing'}.",
            where=f"{path}, line {header_line}",
            fix='Begin the file with the line "text,kind".',
        )
    for line, cells in rows[1:]:
        where = f"{path}, line {line}"
        if len(cells) != len(columns):
            raise ConfigError(
                f"The row has {len(cells)} cells, the header has {len(columns)}.",
                where=where,
                fix='Put a text that holds a comma in quotes: "red, white and blue",colour',
            )
        row = dict(zip(columns, cells, strict=True))
        text, kind = _normalised(row["text"]), row.get("kind", "").strip().casefold() or "other"
        if not text:
            raise ConfigError("The row has no text.", where=where, fix="Write a text or delete the row.")
        _check_kind(kind, where=where)
        yield text, kind


def _csv_rows(path: Path, content: str) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with its line number."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ConfigError(
            f"The row is not valid CSV: {error}.",
            where=f"{path}, line {reader.line_num}",
            fix="Close each quote; write a quote inside quotes twice.",
        ) from error
