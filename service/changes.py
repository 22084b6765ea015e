"""What changed between two stores, as lines that a person reads."""

from collections.abc import Iterator, Sequence
from typing import Any

from service.printing import finding_line
from service.wording import VERDICTS, FindingRow, number, percent
from textcam.answers import Word
from textcam.diff import Change, ClassChange, FindingChange, ImageChanges, Side, StoreDiff

ARROW = "->"


def diff_lines(found: StoreDiff, top: int) -> list[str]:
    """All sections that have something to say; ``top`` classes, and findings of each kind."""
    lines = [f"before    {_side(found.before)}", f"after     {_side(found.after)}"]
    if found.is_empty:
        return [*lines, "nothing changed"]
    models = [one.name for one in found.fingerprints if one.name not in ("configuration", "plan")]
    if models:
        lines.append(f"other     {', '.join(models)}")
    lines += [f"setting   {_setting(one)}" for one in found.settings]
    lines += [f"images    {said}" for said in _images(found.images)]
    lines += _classes(found.classes, top)
    lines += _findings("findings that came", found.findings_came, top)
    lines += _findings("findings that went", found.findings_went, top)
    lines += _findings("verdicts that changed", found.verdicts_changed, top)
    return lines


def _side(side: Side) -> str:
    counted = (
        f"{number(side.images)} images, {number(side.errors)} not used, {number(side.findings)} findings"
    )
    return f"{side.store}, snapshot {side.snapshot}: {counted}"


def _setting(change: Change) -> str:
    return f"{change.name}: {_value(change.before)} {ARROW} {_value(change.after)}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("uri", value))  # a source of images
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    return "none" if value is None else str(value)


def _images(images: ImageChanges) -> Iterator[str]:
    for count, names, what in (
        (images.added, images.added_names, "added"),
        (images.removed, images.removed_names, "removed"),
        (images.changed, images.changed_names, "changed"),
        (images.repredicted, images.repredicted_names, "the same but seen as another class"),
    ):
        if count:
            more = ", ..." if count > len(names) else ""
            yield f"{number(count)} {what}: {', '.join(names)}{more}"


def _classes(classes: Sequence[ClassChange], top: int) -> Iterator[str]:
    if not classes:
        return
    yield f"classes that changed: {number(len(classes))}"
    width = max(len(one.name) for one in classes[:top])
    for one in classes[:top]:
        yield f"  {one.name:<{width}}  {', '.join(_class(one))}"
        if one.moved:
            yield f"  {'':<{width}}    before: {_words(one.words_before)}"
            yield f"  {'':<{width}}    after:  {_words(one.words_after)}"
    if len(classes) > top:
        yield f"  ... {number(len(classes) - top)} more (--top)"


def _class(one: ClassChange) -> Iterator[str]:
    if one.n_before is None or one.n_after is None:
        yield "new" if one.n_before is None else "gone"
        return
    if one.moved is not None:
        yield f"{percent(one.moved)} of the evidence moved"
    if one.accuracy_before != one.accuracy_after:
        yield f"accuracy {percent(one.accuracy_before)} {ARROW} {percent(one.accuracy_after)}"
    if one.n_before != one.n_after:
        yield f"images {number(one.n_before)} {ARROW} {number(one.n_after)}"


def _words(words: Sequence[Word]) -> str:
    return ", ".join(f"{word.text} {percent(word.share)}" for word in words) or "(no words)"


def _findings(title: str, changes: Sequence[FindingChange], top: int) -> Iterator[str]:
    if not changes:
        return
    yield f"{title}: {number(len(changes))}"
    for change in changes[:top]:
        finding = change.after or change.before
        if finding is None:
            continue
        verdicts = ""
        if change.before and change.after:
            before, after = (VERDICTS[one.verdict].label for one in (change.before, change.after))
            verdicts = f" [{before} {ARROW} {after}]"
        yield finding_line(FindingRow(finding, change.class_name, change.text)) + verdicts
    if len(changes) > top:
        yield f"  ... {number(len(changes) - top)} more (--top)"
