"""What docs/truth.md shows of the results, and what was wanted of them beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.truth.family_tables import FAMILIES, family_tables
from benchmarks.truth.genuine_tables import GENUINE
from benchmarks.truth.page import Rows, Table, number

NOISES = (4.0, 16.0, 32.0, 64.0)
LEAD = "ours less the best other"
BY_NOISE = [
    (f"{asked} {noise:g}", f"{asked}, noise {noise:g}: {told}")
    for asked, told in (("one meaning", "top-1"), ("two meanings", "both in first five"))
    for noise in NOISES
]
WORDS = [
    ("own word first", "own word first"),
    ("shortcut, unbiased", "shortcut in first three, unbiased"),
    ("shortcut, confounded", "shortcut in first three, confounded"),
    ("false shortcut", "false shortcut in first three, confounded"),
    ("image level", "image has the cue, AUPRC"),
]
CHANNELS = [(name, f"channel {name.lower()}") for name in ("Pearson", "AUPRC", "IoU")]
DECIDING = [
    (heading, measure)
    for heading, measure in WORDS
    if heading in ("own word first", "false shortcut", "image level")
]


CHOICES = [
    ("default", "**default**"),
    ("form presence", "names by presence alone"),
    ("form pattern", "names by patterns alone"),
    ("form ridge", "names by ridge alone"),
    ("form names", "directions without regions"),
    ("form both", "directions of whole image and region, texts nearest to both"),
    ("form whole", "of the whole image alone"),
    ("form region", "of the region alone"),
    ("form ridge-cells", "ridge over all cells"),
    ("not centred", "directions not centred"),
    *[(f"shrinkage {one}", f"shrinkage {one} (.1)") for one in (0.02, 0.5, 1.0, "ledoit-wolf")],
    *[(f"M {one}", f"M {one} (100)") for one in (25, 50, 200)],
    ("negatives at random", "negatives at random"),
    ("activation: maximum", "activation: maximum instead of mean"),
    ("weight only", "weights instead of contributions"),
    ("positive contributions", "positive contributions only"),
    ("no contrast", "no contrast with other classes"),
    ("no relative sparsity", "words: no relative sparsity"),
    ("no decorrelation", "words: no decorrelation"),
    ("nearest text", "words: the nearest text"),
    ("matching pursuit", "words: matching pursuit"),
    ("texts not centred", "words: texts not centred"),
    ("one template", "texts in one template"),
    ("calibrated texts", "texts replaced by what images that show them have in common"),
]


@dataclass(frozen=True)
class Goal:
    """What was wanted of a measure; ``most``: at most that."""

    title: str
    amount: float
    most: bool = False


GOALS: Mapping[str, Goal] = {
    "t0 | ours | one meaning, noise 4: top-1": Goal("formulas: one meaning, first text", 0.98),
    "t0 | ours | two meanings, noise 4: both in first five": Goal(
        "formulas: two meanings, both in the first five", 0.9
    ),
    f"t0 | {LEAD} | least": Goal("formulas: lead over the best other, least over all noise", 0.0),
    "t1 | ours | own word first": Goal("own word first, clean classifiers", 0.95),
    "t1 | ours | shortcut in first three, unbiased": Goal("shortcut in first three, unbiased", 0.95),
    "t1 | ours | shortcut in first three, confounded": Goal("shortcut in first three, confounded", 0.9),
    "t1 | ours | false shortcut in first three, confounded": Goal(
        "false shortcut in first three, confounded", 0.1, most=True
    ),
    "t1 | ours | image has the cue, AUPRC": Goal("image level, AUPRC", 0.9),
    "t1 | ours | group map pointing": Goal("maps of groups: pointing", 0.9),
    "t1 | ours | group map energy, things": Goal(
        "maps of groups: energy on artefacts and objects, uniform is 1", 2.0
    ),
    "t1 | ours | group map energy, backgrounds": Goal("the same on backgrounds", 2.0),
    "effects | 320 images, unbiased | over all scenes": Goal(
        "effects, Spearman: over all scenes, 320 images", 0.8
    ),
    "effects | 320 images, unbiased | in the class": Goal("effects, Spearman: in the class, 320 images", 0.8),
    **{
        f"{part} | ours | {measure}": Goal(f"{family}: {title}", amount)
        for part, family in FAMILIES.items()
        for measure, title, amount in (
            ("first word is in the rule", "first word is a cause", 0.95),
            ("Spearman of presence effects", "effects, Spearman", 0.8),
            ("group map pointing, said words", "maps of groups of said words, pointing", 0.9),
        )
    },
}


def tables(rows: Rows) -> dict[str, list[str]]:
    """Lines of Markdown by marker."""
    made = {name: table.lines(rows) for name, table in TABLES.items()}
    return {"goals": _goals(rows), **made, **family_tables(rows)}


def _goals(rows: Rows) -> list[str]:
    made = ["| | wanted | measured | reached |", "|---|---|---|---|"]
    for name, goal in GOALS.items():
        part, entrant, measure = name.split(" | ", 2)
        triple = rows.get(part, {}).get(entrant, {}).get(measure)
        if triple is not None:
            value, low, high = (number(one) for one in triple)
            reached = triple[0] <= goal.amount if goal.most else triple[0] >= goal.amount
            wanted = f"{'at most' if goal.most else 'at least'} {number(goal.amount)}"
            made.append(
                f"| {goal.title} | {wanted} | {value} [{low}, {high}] | {'yes' if reached else 'no'} |"
            )
    return made if len(made) > 2 else []


TABLES = {
    "t0": Table("t0", BY_NOISE, intervals=False),
    "t1": Table("t1", [*WORDS, *CHANNELS]),
    "maps": Table(
        "t1",
        [
            ("pointing, group", "group map pointing"),
            ("whole map", "whole map pointing"),
            ("energy on things, group", "group map energy, things"),
            ("whole map", "whole map energy, things"),
            ("the mask's most", "mask ceiling of energy, things"),
            ("energy on backgrounds, group", "group map energy, backgrounds"),
            ("whole map", "whole map energy, backgrounds"),
            ("the mask's most", "mask ceiling of energy, backgrounds"),
        ],
        [(name, name) for name in ("ours", "TextCAM, the paper's form", "mean difference")],
    ),
    "effects": Table(
        "effects",
        [
            ("over all scenes", "over all scenes"),
            ("in the class", "in the class"),
            ("in the class, from the class alone", "in the class, from the class alone"),
        ],
    ),
    "t2": Table(
        "t2",
        [
            *[(name, name.lower()) for name in ("Pearson", "AUPRC", "IoU")],
            ("first text right", "top-1 naming"),
            ("mean confidence", "mean confidence"),
            ("own word first", "own word first"),
        ],
    ),
    "ablation": Table("ablation", [*DECIDING, CHANNELS[0]], CHOICES),
    "groups": Table(
        "groups",
        [
            ("purity, biased", "purity, biased"),
            ("purity, clean", "purity, clean"),
            ("first word right", "first word right"),
            ("pointing", "group map pointing"),
            ("energy", "group map energy"),
        ],
    ),
    "concepts": Table("concepts", [("deletion", "deletion"), ("insertion", "insertion")]),
    "stability": Table(
        "stability",
        [
            ("channels", "channels"),
            ("channels of confidence .9", "channels of confidence .9"),
            ("images", "images"),
            ("classes", "classes"),
            ("channels, to the bit", "channels, to the bit"),
        ],
    ),
    "calibration": Table(
        "calibration",
        [(one, f"{one}: calibration error") for one in ("channel", "group", "explanation", "class")],
    ),
    "trust": Table("trust", [("share of channels", "share"), ("first text right", "right")], intervals=False),
    **GENUINE,
}
