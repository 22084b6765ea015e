"""What readers take from the configuration that a store remembers: of the right types, as far as it is there.

The whole configuration is validated by those who run with it (``pipelines.config``); a query, a page or an
audit uses but this much of it, also of stores whose other settings nobody knows any more.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval, Len

from store.documents import OPEN
from store.schema import Size

_ABSENT: Any = None  # a section that is not there; one that is there is never null
Share = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True)
class Images:
    """Where images come from."""

    __pydantic_config__ = OPEN
    uri: str = ""
    format: str = "folder"


@dataclass(frozen=True)
class Model:
    """A classifier or an encoder."""

    __pydantic_config__ = OPEN
    model: str = ""
    weights: str | None = None
    layer: str = "auto"
    two_sided: bool | str = False
    options: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] | None = None


@dataclass(frozen=True)
class Texts:
    """The text bank."""

    __pydantic_config__ = OPEN
    templates: list[str] | dict[str, list[str]] | None = None


@dataclass(frozen=True)
class Words:
    """How words are chosen."""

    __pydantic_config__ = OPEN
    form: str = "both"
    centre: bool = False
    contrast: bool = True
    screen: Annotated[int, Interval(ge=1, le=1 << 24)] = 1
    sparsity: Annotated[float, Interval(ge=0)] = 0
    relative_sparsity: Share = 0
    decorrelation: Annotated[float, Interval(ge=0)] = 0


@dataclass(frozen=True)
class Index:
    """How exact searches are."""

    __pydantic_config__ = OPEN
    tier: str = "auto"
    min_recall: Share = 0.8


@dataclass(frozen=True)
class Settings:
    """The sections that readers use. ``map_size``: (h, w) of a stored map."""

    __pydantic_config__ = OPEN
    images: Images = _ABSENT
    added: tuple[Images, ...] = ()
    classifier: Model = _ABSENT
    encoder: Model = _ABSENT
    texts: Texts = _ABSENT
    words: Words = _ABSENT
    index: Index = _ABSENT
    run: dict[str, Any] = _ABSENT
    activations: bool = True
    map_size: Annotated[tuple[Size, ...], Len(2, 2)] = _ABSENT
    view_share: Share = 1
