"""What docs/truth.md shows of the families of worlds."""

from collections.abc import Sequence

from benchmarks.truth.page import Rows, Table, number

FAMILIES = {"rules": "rules over objects", "parts": "creatures of parts", "labels": "other labels"}
WORDS = [
    ("first word", "first word is in the rule"),
    ("rule in first three", "words of the rule in the first three"),
    ("said and in the rule", "said words that are in the rule"),
    ("order of all words", "rule AUPRC"),
    ("Spearman", "Spearman with effect"),
    ("Pearson", "channel pearson"),
    ("AUPRC", "channel auprc"),
    ("groups, ARI", "groups ARI"),
]
OVERVIEW = [
    ("the classifier is right", "world", "classifier accuracy"),
    ("attributes of rules that flip it", "world", "rule attributes that flip the class"),
    ("effects on logits, Spearman", "ours", "Spearman of presence effects"),
    ("purity of 32 groups, above chance", "ours", "groups purity above chance"),
    ("pointing: map of the word's group", "ours", "group map pointing"),
    ("whole map", "ours", "whole map pointing"),
    ("pointing, words that are said: group", "ours", "group map pointing, said words"),
    ("whole map", "ours", "whole map pointing, said words"),
    ("energy, words that are said: group", "ours", "group map energy, said words"),
    ("whole map", "ours", "whole map energy, said words"),
]
ENCODERS = [
    ("rules", "the rules' own encoder"),
    ("blind", "the same, never told of a texture"),
    ("labels", "the demo's, never told of a size"),
]
ATTRIBUTES = ("shape", "colour", "texture", "size")


def family_tables(rows: Rows) -> dict[str, list[str]]:
    """Lines of Markdown by marker."""
    made = {name: Table(name, WORDS).lines(rows) for name in FAMILIES}
    return made | {"families": _overview(rows), "gate": _gate(rows)}


def _overview(rows: Rows) -> list[str]:
    """Families across, measures of ours down."""
    body = [
        [title, *(_cell(rows, name, entrant, measure) for name in FAMILIES)]
        for title, entrant, measure in OVERVIEW
    ]
    return _table(["", *FAMILIES.values()], body)


def _gate(rows: Rows) -> list[str]:
    """Zero-shot accuracy of encoders by attribute, and how sure names are of what is seen and what is not."""
    told = "confidence of channels about what is "
    body = []
    for name, title in ENCODERS:
        entrant = "world" if name == "blind" else "ours"
        seen = [_cell(rows, name, "world", f"encoder, {one}") for one in ATTRIBUTES]
        sure = [_cell(rows, name, entrant, told + sort) for sort in ("seen", "not seen")]
        body.append([title, *seen, *sure])
    return _table(["", *ATTRIBUTES, "confidence, seen", "confidence, not seen"], body)


def _cell(rows: Rows, part: str, entrant: str, measure: str) -> str:
    triple = rows.get(part, {}).get(entrant, {}).get(measure)
    if triple is None:
        return ""
    value, low, high = (number(one) for one in triple)
    return value if low == high else f"{value} [{low}, {high}]"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Empty where there is nothing but titles."""
    full = [row for row in body if any(row[1:])]
    lines = [head, ["---"] * len(head), *full]
    return ["| " + " | ".join(one) + " |" for one in lines] if full else []
