"""The configuration of a run: what may be set, section by section, and the defaults.

``pipelines.config_file`` reads one.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from textcam.decode import MAX_PIXELS


class Section(BaseModel):
    """A part of the configuration. Unknown keys are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImagesSection(Section):
    """Which images: a folder (or prefix), WebDataset tars, Parquet with bytes or URIs, or a CSV of URIs."""

    uri: str
    format: Literal["folder", "webdataset", "parquet", "csv"] = "folder"
    limit: int | None = Field(default=None, gt=0)
    labels: Literal["auto", "none"] = "auto"
    uri_column: str = "uri"
    bytes_column: str = "image"
    label_column: str = "label"


class ClassifierSection(Section):
    """The classifier to explain, and the layer whose channels get words."""

    model: str
    weights: str | None = None
    layer: str = "auto"
    class_names: str | None = None
    two_sided: bool | Literal["auto"] = "auto"
    options: dict[str, Any] = {}
    preprocess: dict[str, Any] | None = None


class NamedClassifier(ClassifierSection):
    """One of several classifiers of a run. ``name``: what its store is called (default: as its model)."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class EncoderSection(Section):
    """The CLIP model that gives images and texts one space."""

    model: str
    weights: str | None = None
    options: dict[str, Any] = {}
    preprocess: dict[str, Any] | None = None


class TextsSection(Section):
    """The text bank: ``builtin``, a .txt or .csv file, or a list of them, and prompt templates."""

    bank: str | list[str] = "builtin"
    templates: list[str] | dict[str, list[str]] | None = None


class CamSection(Section):
    """How channel weights are made (see textcam.cam_methods). With a GAP + linear head all methods but
    gradcam++, ablationcam and the scorecams equal the head's weights."""

    method: Literal[
        "gradcam-frozen",
        "gradcam",
        "gradcam++",
        "xgradcam",
        "cam",
        "shapleycam",
        "ablationcam",
        "scorecam",
        "scorecam-signed",
    ] = "gradcam-frozen"


class DirectionsSection(Section):
    """How channel directions are fitted (see textcam.lda)."""

    examples: int = Field(default=100, ge=2, description="M, images a side")
    shrinkage: Annotated[float, Field(gt=0, le=1)] | Literal["ledoit-wolf"] = 0.1
    regions: bool = True


class WordsSection(Section):
    """How words are chosen for a direction (see textcam.select)."""

    top: int = Field(default=5, ge=1, le=50)
    screen: int = Field(default=300, ge=1)
    sparsity: float = Field(default=0.05, ge=0)
    relative_sparsity: float = Field(default=0.25, ge=0, lt=1)
    decorrelation: float = Field(default=0.1, ge=0)
    form: Literal["named", "both", "region", "whole"] = "named"
    centre: bool = True
    contrast: bool = True


class GroupsSection(Section):
    """Groups of channels: how they are found, how many at most, and how many an image's explanation keeps.

    ``method``: kmeans or agglomerative, of directions; or names, channels with the same first word (where
    ``words.form`` is named).
    """

    method: Literal["kmeans", "agglomerative", "names"] = "kmeans"
    count: int = Field(default=32, ge=1)
    per_image: int = Field(default=8, ge=1)


class ReportSection(Section):
    """Images a class for which maps are stored, so that pages can show them."""

    exemplars: int = Field(default=6, ge=0)
    findings: int = Field(default=50, ge=0)


class ProofSection(Section):
    """How many of the first findings are put to the proof (0: none), and on how many images a side."""

    findings: int = Field(default=20, ge=0)
    images: int = Field(default=24, ge=8)


class IndexSection(Section):
    """The vector indexes that searches use: how exact those of more than 200,000 vectors are (``auto``: by
    size, see store.vectors), and the least share of the ten nearest that any must find to be committed
    (recall@10, measured when it is built).
    """

    tier: Literal["auto", "flat", "sqfp16", "hnsw", "opq-ivf-pq"] = "auto"
    min_recall: float = Field(default=0.8, ge=0, le=1)


ModelName = Literal["classifier", "encoder"]


class NumberFormats(Section):
    """The number format of each model."""

    classifier: Literal["float32", "bfloat16", "auto"] = "float32"
    encoder: Literal["float32", "bfloat16", "auto"] = "float32"


# What of a run changes its numbers; a store remembers it.
SHAPING = ("batch_size", "number_format", "compile", "max_pixels", "max_bytes")


class RunSection(Section):
    """How the work is spread. Changing any of this changes no result, but for ``batch_size`` (kernels may
    round the last bits in another way), ``number_format``, ``compile``, and the limits ``max_pixels`` and
    ``max_bytes`` of an image: with others, all images are read anew.

    ``number_format``: one for both models or one each; ``auto`` is decided when a run begins, and kept by the
    store (see ``pipelines.formats``). ``compile``: the models' forward passes by torch.compile.
    ``decoders``: further processes, wherever the cluster has ``cpus_per_decoder`` free cores for one, that
    decode for workers whose nodes are short of them. ``feed_threads``: threads that read and decode for one
    worker; by default one a core, and 16 more where images lie in object storage. ``silence``: seconds after
    which a worker that has not been heard of is replaced. ``events``: a file to which everything that happens
    is added, as JSON lines.
    """

    executor: Literal["inline", "ray"] = "ray"
    address: str | None = None
    workers: int | None = Field(default=None, ge=1)
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: float = Field(default=0, ge=0)
    decoders: int = Field(default=0, ge=0)
    cpus_per_decoder: float = Field(default=1, gt=0)
    device: str = "auto"
    shard_size: int = Field(default=4096, ge=1)
    batch_size: int = Field(default=64, ge=1)
    number_format: Literal["float32", "bfloat16", "auto"] | NumberFormats = "float32"
    compile: bool = False
    feed_threads: int | None = Field(default=None, ge=1)
    silence: float = Field(default=1800, gt=0)
    events: str | None = None
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    max_attempts: int = Field(default=3, ge=1)
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)
    max_bytes: int = Field(default=200_000_000, ge=1)

    @field_validator("number_format")
    @classmethod
    def _one_way_to_say_it(cls, value: str | NumberFormats) -> str | NumberFormats:
        if isinstance(value, NumberFormats) and value.classifier == value.encoder:
            return value.classifier
        return value

    @model_validator(mode="after")
    def _decoders_need_ray(self) -> Self:
        if self.decoders and self.executor != "ray":
            raise ValueError("decoders are processes of Ray: they need executor: ray")
        return self

    def format_of(self, model: ModelName) -> str:
        """The number format of one model."""
        both = self.number_format
        return both if isinstance(both, str) else str(getattr(both, model))

    def with_formats(self, formats: Mapping[ModelName, str]) -> Self:
        """The same, with a number format for each model."""
        return type(self).model_validate({**self.model_dump(), "number_format": dict(formats)})

    def shaping(self) -> list[Any]:
        """What changes the numbers of a shard, or which images it has, as plain JSON."""
        plain = self.model_dump(mode="json")
        return [plain[name] for name in SHAPING]


class Config(Section):
    """The whole configuration. ``load_config`` makes one from a file.

    ``activations: false`` leaves the pooled activations of single images out of the store.
    """

    images: ImagesSection
    added: tuple[ImagesSection, ...] = Field(default=(), description="further images; see `textcam add`")
    classifier: ClassifierSection
    encoder: EncoderSection
    texts: TextsSection = TextsSection()
    cam: CamSection = CamSection()
    directions: DirectionsSection = DirectionsSection()
    words: WordsSection = WordsSection()
    groups: GroupsSection = GroupsSection()
    report: ReportSection = ReportSection()
    proof: ProofSection = ProofSection()
    index: IndexSection = IndexSection()
    activations: bool = True
    run: RunSection = RunSection()
    store: str

    def resolved(self) -> dict[str, Any]:
        """What a store remembers of its configuration: all that shapes results, nothing of how it was run."""
        how = set(RunSection.model_fields) - set(SHAPING)
        return self.model_dump(mode="json", exclude={"run": how, "store": True})
