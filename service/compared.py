"""What two classifiers have in common, as lines that a person reads."""

from collections.abc import Iterator

from service.wording import number, percent
from textcam.compare import Comparison


def comparison_lines(found: Comparison, top: int) -> list[str]:
    """All sections, ``top`` rows of each."""
    return [*_channels(found, top), *_concepts(found, top), *_classes(found, top), *_images(found)]


def _channels(found: Comparison, top: int) -> Iterator[str]:
    yield f"A         {found.store_a}: {number(found.channels_a)} channels"
    yield f"B         {found.store_b}: {number(found.channels_b)} channels"
    yield (
        f"channels  {number(len(found.twins))} have a twin; the nearest in B of a channel of A has cosine "
        f"{found.alike:.2f} on the mean, {found.by_chance:.2f} by chance"
    )
    for twins in found.twins[:top]:
        yield (
            f"  {twins.channel_a} ~ {twins.channel_b}  {twins.similarity:.2f}  "
            f"{', '.join(twins.words_a) or '-'} | {', '.join(twins.words_b) or '-'}"
        )


def _concepts(found: Comparison, top: int) -> Iterator[str]:
    for name, texts in (("A", found.only_a), ("B", found.only_b)):
        more = f" and {number(len(texts) - top)} more" if len(texts) > top else ""
        yield f"only {name}    {', '.join(texts[:top]) or 'nothing'}{more}"


def _classes(found: Comparison, top: int) -> Iterator[str]:
    if not found.classes:
        yield "classes   none that both have"
        return
    mean = sum(one.agreement for one in found.classes) / len(found.classes)
    yield (
        f"classes   {number(len(found.classes))} in both; {percent(mean)} of the evidence goes to the same "
        "words; the least alike:"
    )
    for one in found.classes[:top]:
        words = f"{', '.join(one.words_a) or '-'} | {', '.join(one.words_b) or '-'}"
        yield f"  {one.name}: {percent(one.agreement)}  {words}"


def _images(found: Comparison) -> Iterator[str]:
    if found.same_prediction is None:
        yield "images    none that both have"
        return
    line = (
        f"images    {number(found.images)} in both; {percent(found.same_prediction)} seen as the same class"
    )
    if found.same_first_word is not None:
        line += f", of these {percent(found.same_first_word)} with the same first word"
    yield line
