"""The CLIP model that gives images and texts one space: numpy arrays in and out, torch and open_clip inside.

Every row that leaves here has length 1. The store remembers the fingerprint of the encoder that made it, and
texts of a query go through the same weights and the same tokenizer, or are refused.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from store.errors import ModelError
from textcam.arrays import Floats
from textcam.clip_models import ClipParts, build_clip
from textcam.compiled import compiled
from textcam.dense import dense_path
from textcam.device import choose_device, is_out_of_memory, number_format
from textcam.structure import Fingerprinted
from textcam.weights import hash_state

TEXT_BATCH = 256
# What the tokenizer makes of these enters the fingerprint, beside its vocabulary where it shows one.
PROBE_TEXTS = ("a photo of a striped orange cat", "watermark", "Rain, at 5 o'clock", "zzyzx")


class ClipEncoder(Fingerprinted):
    """An image tower and a text tower with D = ``dim``.

    ``context_length`` counts the tokens that a text may have with its start and end; ``input_size`` is (H,
    W); ``has_dense`` tells whether ``dense`` works. ``fingerprint`` ("2-" and a SHA-256, hex) covers
    weights, structure, preprocessing and tokenizer. ``number_format`` is that of passes over images (see
    ``device.number_format``), and may be set; texts are always float32, so that queries have the same.
    """

    def __init__(self, name: str, parts: ClipParts, device: str = "cpu") -> None:
        self.name, self.device = name, torch.device(device)
        self._model, self._preprocess, self._tokenizer = parts.model, parts.preprocess, parts.tokenizer
        self.input_size = parts.preprocess.size
        self.context_length = parts.context_length
        ids = np.asarray(self._tokens(PROBE_TEXTS)).tolist()
        described = (
            f"{hash_state(parts.model)} {parts.preprocess.description} {parts.context_length} {ids} "
            f"{_vocabulary(parts.tokenizer)}"
        )
        self.set_fingerprint(described, parts.model)
        self._model.to(self.device).to(memory_format=torch.channels_last)
        self.dim = self._check_towers()
        visual = getattr(parts.model, "visual", None)
        self._dense = dense_path(visual, self.input_size) if isinstance(visual, nn.Module) else None
        self.has_dense = self._dense is not None
        self.number_format = "float32"
        self._compiles = False
        self._image_passes: dict[str, Callable[[torch.Tensor], Any]] = {}

    def compile(self) -> None:
        """Let ``encode_images`` run as compiled kernels (see ``compiled``)."""
        self._compiles = True
        self._image_passes.clear()

    def let_network_go(self) -> None:
        """Give its memory back. ``prepare`` still works, and no pass."""
        self._model, self._dense = nn.Identity(), None
        self._image_passes.clear()

    @property
    def blank(self) -> NDArray[Any]:
        """Pixels (3, H, W) as ``prepare`` gives them, of no image: all zeros."""
        return self._preprocess.blank

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Pixels (3, H, W) of a PIL image: uint8, or float32 where a user's transform cannot be cut."""
        return self._preprocess.prepare(image)

    def encode_images(self, pixels: NDArray[Any]) -> Floats:
        """Unit embeddings (B, D) of pixels (B, 3, H, W) as ``prepare`` gives them."""
        if self.number_format not in self._image_passes:
            self._image_passes[self.number_format] = self._image_pass()
        with torch.inference_mode():
            return _unit_array(self._embedding(self._image_passes[self.number_format](self._inputs(pixels))))

    def _image_pass(self) -> Callable[[torch.Tensor], Any]:
        """From inputs (B, 3, H, W) to what the image tower returns, in the number format that is set.

        bfloat16 has weights of its own where the tower can do with them: casting them as they are used takes
        torch's attention layers three times as long as float32, where this takes a quarter.
        """
        if self.number_format == "bfloat16":
            narrow = deepcopy(self._model).to(torch.bfloat16)
            blank = torch.zeros(1, 3, *self.input_size, device=self.device, dtype=torch.bfloat16)
            try:
                with torch.inference_mode():
                    narrow.encode_image(blank)
            except (RuntimeError, TypeError) as error:  # it has float32 tensors of its own on the way
                if is_out_of_memory(error):
                    raise
            else:
                encode = compiled(narrow.encode_image) if self._compiles else narrow.encode_image
                return lambda inputs: encode(inputs.to(torch.bfloat16))
        encode = compiled(self._model.encode_image) if self._compiles else self._model.encode_image

        def cast(inputs: torch.Tensor) -> Any:
            with number_format(self.number_format, self.device):
                return encode(inputs)

        return cast

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Unit embeddings (T, D). Texts longer than ``context_length`` tokens are cut by the tokenizer."""
        rows = [np.zeros((0, self.dim), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(texts), TEXT_BATCH):
                tokens = self._tokens(texts[start : start + TEXT_BATCH]).to(self.device)
                rows.append(_unit_array(self._embedding(self._model.encode_text(tokens))))
        return np.concatenate(rows)

    def dense(self, pixels: NDArray[Any]) -> Floats:
        """Dense features (B, D, h, w) of pixels (B, 3, H, W), of unit length along D (see ``textcam.dense``).

        Raises ModelError where the architecture gives none.
        """
        if self._dense is None:
            raise ModelError(
                "this encoder has no dense features",
                where=self.name,
                fix="use an open_clip ViT, ResNet or timm tower, or embed crops of the image instead",
            )
        with torch.inference_mode(), number_format(self.number_format, self.device):
            return _unit_array(self._dense(self._inputs(pixels)))

    def token_count(self, text: str) -> int:
        """Tokens of a text with its start and end, before any cut: above ``context_length`` its end is lost.

        For a tokenizer that cannot be asked, the tokens that differ from an empty text's padding.
        """
        if hasattr(self._tokenizer, "encode"):
            return len(self._tokenizer.encode(text)) + 2
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            clean = getattr(self._tokenizer, "clean_fn", str)
            return len(inner(clean(text)).input_ids)
        tokens, empty = (np.asarray(self._tokens([each]))[0] for each in (text, ""))
        return int((tokens != empty[-1]).sum())

    def _tokens(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self._tokenizer(list(texts))
        return tokens if isinstance(tokens, torch.Tensor) else torch.as_tensor(np.asarray(tokens))

    def _embedding(self, result: Any) -> torch.Tensor:
        embedding = result[0] if isinstance(result, tuple) else result
        if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
            raise ModelError(
                f"the encoder returns {type(embedding).__name__}, not embeddings (B, D)",
                where=self.name,
                fix="encode_image and encode_text return one row an input",
            )
        return embedding

    def _check_towers(self) -> int:
        pixels = np.zeros((1, 3, *self.input_size), dtype=np.uint8)
        with torch.inference_mode():
            image = self._embedding(self._model.encode_image(self._inputs(pixels)))
            text = self._embedding(self._model.encode_text(self._tokens(PROBE_TEXTS[:1]).to(self.device)))
        if image.shape[1] != text.shape[1]:
            raise ModelError(
                f"images are embedded in {image.shape[1]} dimensions and texts in {text.shape[1]}",
                where=self.name,
                fix="use two towers that were trained together",
            )
        return int(image.shape[1])

    def _inputs(self, pixels: NDArray[Any]) -> torch.Tensor:
        return self._preprocess.inputs(pixels, self.device, self.name)


def load_encoder(
    model: str,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> ClipEncoder:
    """Load a CLIP model.

    ``model``: an open_clip name (then ``weights`` is a pretrained tag, a file or "random");
    ``local-dir:PATH``, a folder with open_clip_config.json and a weights file; ``hf-hub:ORG/NAME``; or
    ``python:package.module:function``, which returns (model, transform, tokenizer). ``options`` go to
    open_clip or the function; ``preprocess`` overrides size, mean, std, interpolation and crop. Raises
    ModelError with what, where and how to fix it.
    """
    device = choose_device(device)
    parts = build_clip(model, weights=weights, options=options, preprocess=preprocess, seed=seed)
    return ClipEncoder(model, parts, device)


def _vocabulary(tokenizer: Any) -> str:
    """Hash of what an open_clip or Hugging Face tokenizer knows; empty for one that does not show it."""
    inner = getattr(tokenizer, "tokenizer", None)
    if hasattr(tokenizer, "bpe_ranks"):
        known = [*tokenizer.bpe_ranks, *tokenizer.encoder]
    elif inner is not None and hasattr(inner, "get_vocab"):
        known = sorted(inner.get_vocab().items())
    else:
        return ""
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _unit_array(embedding: torch.Tensor) -> Floats:
    """Unit length along axis 1, as a float32 array."""
    unit = nn.functional.normalize(embedding.to(torch.float32), dim=1)
    return np.ascontiguousarray(unit.cpu().numpy())
