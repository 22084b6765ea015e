"""Building a classification network from a model string, with its weights, its preprocessing and its class
names.

``timm:NAME``, ``torchvision:NAME`` and ``python:package.module:function``; weights from the library, from a
file, or random from a seed. Nothing is downloaded unless the library's own weights are asked for.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from store.errors import ModelError, first_line
from textcam.model_strings import PREFIX, RANDOM, options_of
from textcam.preprocess import Preprocess, Transform, build_transform, check_overrides, split
from textcam.user_code import call_user_function
from textcam.weights import check_finite, load_into, unknown_tag


@dataclass(frozen=True)
class Network:
    """A module in evaluation mode on the CPU, how images become its input, and its class names if it knows
    them.
    """

    module: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None


def build_network(
    model: str,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Network:
    """Build the network of ``model``.

    ``weights``: None for the library's pretrained ones (torchvision: its newest, or by a name that it has for
    this model, such as IMAGENET1K_V1 or DEFAULT), a file, or "random", drawn from ``seed`` to try shapes.
    What is none of these is refused: nothing is explained that was not loaded. ``options`` are passed to the
    library or function; they may also be written behind the name, as in ``timm:NAME?pad_type=same``.
    ``preprocess`` overrides size, mean, std, interpolation and crop (the part of the resized image's side
    that is kept). Raises ModelError.
    """
    model, options = options_of(model, options)
    overrides = check_overrides(preprocess)
    source, _, name = model.partition(":")
    builders = {"timm": _from_timm, "torchvision": _from_torchvision, "python": _from_function}
    if source not in builders or not name:
        raise ModelError(
            f"'{model}' is not a model string",
            where="classifier.model",
            fix="write timm:NAME, torchvision:NAME or python:package.module:function",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, transform, names = builders[source](name, weights, options, overrides)
        if weights == RANDOM:
            _draw_zeros(module)
    module = module.to(torch.float32).eval().requires_grad_(False)
    check_finite(module, model)
    return Network(module, split(transform, model), names)


def _draw_zeros(module: nn.Module) -> None:
    """Draw the matrices that a library leaves at zero: a head of zeros gives equal logits."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.02)


Built = tuple[nn.Module, Transform, tuple[str, ...] | None]


def _from_timm(name: str, weights: str | None, options: dict[str, Any], overrides: dict[str, Any]) -> Built:
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from timm.models import get_arch_pretrained_cfgs

    if not timm.is_model(name):
        raise _unknown_name("timm", name, timm.list_models())
    architecture, _, tag = name.partition(".")
    tagged = list(get_arch_pretrained_cfgs(architecture))
    if tag and name not in tagged:
        raise unknown_tag(tag, f"timm:{architecture}", "classifier.model", tagged)
    if weights not in (None, RANDOM) and not Path(weights).is_file():
        raise unknown_tag(weights, f"timm:{architecture}", "classifier.weights", tagged)
    module = _construct(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=weights is None, **options)
    )
    _check_head(module, name, weights)
    _load(module, weights)
    config = resolve_model_data_config(module)
    if "size" in overrides:
        size = overrides.pop("size")
        config["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
    if "crop" in overrides:
        config["crop_pct"] = overrides.pop("crop")
    config |= overrides
    return module, create_transform(**config, is_training=False), _timm_names(module)


def _check_head(module: Any, name: str, weights: str | None) -> None:
    """timm leaves the head random where its weights are for another number of classes, and says nothing."""
    trained = (getattr(module, "pretrained_cfg", None) or {}).get("num_classes")
    wanted = getattr(module, "num_classes", trained)
    if weights is None and trained != wanted:
        raise ModelError(
            f"the library's weights have {trained} classes and the model {wanted}: its head would be random",
            where=f"timm:{name}",
            fix="give a file of weights for these classes, or weights: random to try shapes",
        )


def _load(module: nn.Module, weights: str | None) -> None:
    if weights not in (None, RANDOM):
        load_into(module, weights)


def _timm_names(module: nn.Module) -> tuple[str, ...] | None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(module)
    if not subset:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


def _from_torchvision(
    name: str, weights: str | None, options: dict[str, Any], overrides: dict[str, Any]
) -> Built:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise _unknown_name("torchvision", name, models.list_models(module=models))
    entries = models.get_model_weights(name)
    tags = entries.__members__
    if weights is not None and weights not in (RANDOM, *tags) and not Path(weights).is_file():
        raise unknown_tag(weights, f"torchvision:{name}", "classifier.weights", list(tags))
    entry = tags.get(weights or "DEFAULT", entries.DEFAULT)
    chosen = entry if weights is None or weights in tags else None
    module = _construct(f"torchvision:{name}", lambda: models.get_model(name, weights=chosen, **options))
    if chosen is None:
        _load(module, weights)
    preset = entry.transforms()
    if overrides:
        known = {
            "size": preset.crop_size[0],
            "mean": preset.mean,
            "std": preset.std,
            "interpolation": preset.interpolation.value,
            "crop": preset.crop_size[0] / preset.resize_size[0],
        }
        return module, build_transform(**(known | overrides)), tuple(entry.meta["categories"])
    return module, preset, tuple(entry.meta["categories"])


def _from_function(
    name: str, weights: str | None, options: dict[str, Any], overrides: dict[str, Any]
) -> Built:
    result = call_user_function(PREFIX + name, options)
    parts = result if isinstance(result, tuple) else (result,)
    module, transform = parts[0], parts[1] if len(parts) > 1 else None
    if not isinstance(module, nn.Module) or len(parts) > 2:
        raise ModelError(
            f"the function returns {type(module).__name__}",
            where=PREFIX + name,
            fix="return a torch.nn.Module, or (module, transform)",
        )
    if overrides or transform is None:
        missing = [key for key in ("size", "mean", "std") if key not in overrides]
        if missing:
            raise ModelError(
                f"the preprocessing is not known: {', '.join(missing)} not given",
                where=PREFIX + name,
                fix="return (module, transform) from the function, or set preprocess: size, mean and std",
            )
        transform = build_transform(**overrides)
    _load(module, weights)
    names = getattr(module, "class_names", None)
    return module, transform, tuple(str(each) for each in names) if isinstance(names, Iterable) else None


def _construct(model: str, build: Callable[[], Any]) -> nn.Module:
    """Call the library; its many errors become one that says whether a download or an option was at fault."""
    try:
        module = build()
    except (TypeError, AssertionError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the model does not take these options: {error}", where=model, fix="check options and the name"
        ) from error
    except Exception as error:
        raise ModelError(
            f"the model cannot be built: {type(error).__name__}: {first_line(error)}",
            where=model,
            fix="its pretrained weights could not be had: give a local file, or weights: random",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"the library gave {type(module).__name__}", where=model, fix="name another model")
    return module


def _unknown_name(source: str, name: str, known: list[str]) -> ModelError:
    close = difflib.get_close_matches(name.partition(".")[0], known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"it knows {len(known)} names"
    return ModelError(f"{source} has no model '{name}'", where="classifier.model", fix=hint)
