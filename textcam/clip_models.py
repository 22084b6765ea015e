"""Building a CLIP model from a model string, with its weights, its preprocessing and its tokenizer."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import nn

from store.errors import ModelError, first_line
from textcam.model_strings import FOLDER, HUB, PREFIX, RANDOM
from textcam.preprocess import Preprocess, build_transform, check_overrides, split
from textcam.user_code import call_user_function
from textcam.weights import check_finite, load_into, mismatch, read_state, unknown_tag

MERGES = "bpe_merges.txt.gz"
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class ClipParts:
    """A model with ``encode_image`` and ``encode_text`` on the CPU, and what goes in front of each."""

    model: Any
    preprocess: Preprocess
    tokenizer: Any
    context_length: int


def build_clip(
    model: str,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ClipParts:
    """The CLIP of a model string (see ``encoder.load_encoder``). Raises ModelError."""
    overrides = check_overrides(preprocess)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.startswith(PREFIX):
            return _from_function(model, weights, dict(options or {}), overrides)
        built = _from_open_clip(model, weights, dict(options or {}))
    return _with_parts(model, built, overrides)


def _from_open_clip(model: str, weights: str | None, options: dict[str, Any]) -> nn.Module:
    if model.startswith(FOLDER):
        folder = Path(model.removeprefix(FOLDER))
        _check_folder(folder, model)
        built = _construct(model, None, options)
        if weights != RANDOM:
            _fill(built, Path(weights) if weights else _weights_in(folder))
        return built
    if model.startswith(HUB):
        built = _construct(model, None, options, load=weights is None)
        if weights not in (None, RANDOM):
            _fill(built, Path(weights))
        return built
    if model not in open_clip.list_models():
        raise ModelError(
            f"open_clip has no model '{model}'",
            where="encoder.model",
            fix="name one of open_clip.list_models(), local-dir:PATH or python:package.module:function",
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights is None:
        raise ModelError(
            "the weights of the encoder are not given",
            where="encoder.weights",
            fix=f"name a tag ({', '.join(tags) or 'this model has none'}), a file, or random",
        )
    if weights in tags:
        return _construct(model, weights, options)
    built = _construct(model, None, options)
    if weights != RANDOM:
        if not Path(weights).is_file():
            raise unknown_tag(weights, model, "encoder.weights", tags)
        _fill(built, Path(weights))
    return built


def _construct(model: str, tag: str | None, options: dict[str, Any], load: bool | None = None) -> nn.Module:
    load = tag is not None if load is None else load
    try:
        with _quiet():
            return open_clip.create_model(
                model,
                pretrained=tag,
                load_weights=load,
                require_pretrained=load,  # a hub's folder without weights is no model with random ones
                pretrained_text=False,
                **options,
            )
    except Exception as error:
        raise ModelError(
            f"open_clip cannot build the model: {type(error).__name__}: {first_line(error)}",
            where=model,
            fix="offline, give a local file as weights; else check the configuration and the options",
        ) from error


def _fill(model: nn.Module, path: Path) -> None:
    """Load a weights file, through open_clip's conversions where the keys are of another origin."""
    state = read_state(path)
    problem = mismatch(model, state)
    if not problem:
        load_into(model, path)
        return
    try:
        with _quiet():
            load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:
        raise ModelError(
            f"the weights do not fit the model: {problem}",
            where=path,
            fix="check the model's name and the weights' origin",
        ) from error


def _check_folder(folder: Path, model: str) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(
            "there is no open_clip_config.json" if folder.is_dir() else "there is no such folder",
            where=folder,
            fix=f"{model} must be a folder with open_clip_config.json and a weights file",
        )


def _weights_in(folder: Path) -> Path:
    found = [path for pattern in WEIGHT_FILES for path in sorted(folder.glob(pattern))]
    for path in found:
        if path.stem in ("open_clip_model", "open_clip_pytorch_model", "model"):
            return path
    if len(found) == 1:
        return found[0]
    raise ModelError(
        f"the folder holds {len(found)} weights files" if found else "the folder holds no weights file",
        where=folder,
        fix="name it open_clip_model.safetensors, or give its path as weights",
    )


def _with_parts(name: str, model: Any, overrides: dict[str, Any]) -> ClipParts:
    model = model.to(torch.float32).eval().requires_grad_(False)
    check_finite(model, name)
    config = PreprocessCfg(**model.visual.preprocess_cfg)
    if overrides:
        known = {key: getattr(config, key) for key in ("size", "mean", "std", "interpolation")}
        transform = build_transform(**(known | overrides))
    else:
        transform = image_transform_v2(config, is_train=False)
    context = getattr(model, "context_length", None) or getattr(model.text, "context_length", None)
    tokenizer = _tokenizer(name, context)
    return ClipParts(model, split(transform, name), tokenizer, int(context or tokenizer.context_length))


def _tokenizer(name: str, context_length: int | None) -> Any:
    merges = Path(name.removeprefix(FOLDER)) / MERGES
    if name.startswith(FOLDER) and merges.is_file():
        return open_clip.SimpleTokenizer(bpe_path=str(merges), context_length=context_length)
    try:
        with _quiet():
            return open_clip.get_tokenizer(name, context_length=context_length)
    except Exception as error:
        raise ModelError(
            f"the tokenizer cannot be had: {type(error).__name__}: {first_line(error)}",
            where=name,
            fix="it is downloaded on first use; offline, use local-dir: with the tokenizer's files",
        ) from error


def _from_function(
    model: str, weights: str | None, options: dict[str, Any], overrides: dict[str, Any]
) -> ClipParts:
    result = call_user_function(model, options)
    if not isinstance(result, tuple) or len(result) != 3:
        raise ModelError(
            f"the function returns {type(result).__name__}",
            where=model,
            fix="return (model, transform, tokenizer)",
        )
    built, transform, tokenizer = result
    missing = [name for name in ("encode_image", "encode_text") if not callable(getattr(built, name, None))]
    if missing or not isinstance(built, nn.Module):
        raise ModelError(
            f"the model has no {' and no '.join(missing) or 'torch parameters'}",
            where=model,
            fix="return a torch.nn.Module with encode_image and encode_text",
        )
    if weights not in (None, RANDOM):
        load_into(built, weights)
    built = built.to(torch.float32).eval().requires_grad_(False)
    check_finite(built, model)
    if overrides:
        transform = build_transform(**({"mean": 0.0, "std": 1.0} | overrides))
    context = getattr(tokenizer, "context_length", None) or getattr(built, "context_length", None)
    if context is None:
        context = len(tokenizer(["a"])[0])
    return ClipParts(built, split(transform, model), tokenizer, int(context))


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip reports through the root logger, and warns of random weights that are about to be filled."""
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
