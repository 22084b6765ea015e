"""What docs/truth.md shows of genuine vectors, for each half of the worlds."""

from benchmarks.truth.genuine import HALVES
from benchmarks.truth.page import Table

NAMES = [
    ("first text", "base: first text"),
    ("in first three", "base: in first three"),
    ("noise .7", "noise .7: first text"),
    ("150 images", "150 images: first text"),
    ("300 images", "300 images: first text"),
    ("one of two meanings", "two meanings: first text"),
    ("both in first five", "two meanings: both in first five"),
    ("biased: own first", "biased: first text"),
    ("biased: partner first", "biased: false: partner first"),
    ("biased: own before partner", "biased: own before partner"),
]
CLASSES = [
    ("effects, Spearman", "effects, weighed channels"),
    ("own word first", "class: own word first"),
    ("planted said", "class: planted said"),
    ("planted first beside its own", "class: planted first beside its own"),
    ("not planted, other attribute said", "class: false other attribute"),
    ("words beside its own", "class: false words beside its own"),
]
PRESENCE = [
    (f"{title}, {measure}", f"{variant}: {name}")
    for title, variant in (("all images", "base"), ("150", "150 images"), ("300", "300 images"))
    for measure, name in (("F1", "presence F1"), ("of the best", "presence F1, of the best threshold's"))
] + [("AUC", "base: presence AUC")]
SURE = [
    (f"{title}, {measure}", f"{variant}: {name}")
    for title, variant in (("all images", "base"), ("noise .7", "noise .7"), ("150", "150 images"))
    for measure, name in (
        ("sure", "sure"),
        ("right where sure", "right where sure"),
        ("calibration error", "calibration error"),
    )
] + [("where it is not, sure", "where it is not: false: sure of a word")]

GENUINE = {
    f"genuine {half} {name}": Table(f"genuine {half}", columns)
    for half in HALVES
    for name, columns in (("names", NAMES), ("presence", PRESENCE), ("sure", SURE), ("classes", CLASSES))
}
