"""Weights files: read without running code, load with every key accounted for, and hash what was loaded.

A checkpoint is foreign input. ``.safetensors`` cannot hold code; ``.pt``, ``.pth`` and ``.bin`` are pickles,
so they are read by torch's restricted unpickler only, which refuses anything that is not a tensor or a plain
container. Loading is strict: a layer that silently kept its random weights would name every channel wrongly.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from store.errors import ModelError, first_line

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
# Where training scripts put the weights beside epoch counters and optimiser state.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# Prefixes that DataParallel and torch.compile leave in front of every key.
PREFIXES = ("module.", "_orig_mod.")


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a weights file by name, on the CPU, in the file's own dtype.

    Raises ModelError for a missing, truncated or unsupported file, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            "the weights file does not exist", where=path, fix="give the path of an existing file"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _read_pickled(path)
    raise ModelError(
        f"weights of type '{path.suffix}' are not supported",
        where=path,
        fix="use .safetensors, or a .pt/.pth/.bin that holds only a state dict",
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"the weights file cannot be read: {error}",
            where=path,
            fix="the file is truncated or not a safetensors file: copy or download it again",
        ) from error


def _read_pickled(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the weights file is a pickle that holds more than tensors, or is damaged; nothing of it was run",
            where=path,
            fix="save the module's state_dict() alone, best as .safetensors, or copy the file again",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = first_line(error) if str(error).strip() else "it ends early"
        raise ModelError(
            f"the weights file cannot be read: {reason}",
            where=path,
            fix="the file is truncated or not a PyTorch checkpoint: copy or download it again",
        ) from error
    return _state_of(loaded, path)


def _state_of(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(
            f"the weights file holds a {type(loaded).__name__}, not tensors by name",
            where=path,
            fix="save the module's state_dict()",
        )
    strays = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strays:
        raise ModelError(
            f"the weights file holds values that are not tensors: {_first(strays)}",
            where=path,
            fix="save the module's state_dict() alone, or under the key 'state_dict'",
        )
    state = {str(key): value for key, value in loaded.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_into(module: nn.Module, path: str | Path) -> None:
    """Fill every parameter and buffer of ``module`` from a file, casting to the module's dtype.

    Raises ModelError that names the file and the first keys that are missing, unexpected or of another shape.
    """
    state = read_state(path)
    problem = mismatch(module, state)
    if problem:
        raise ModelError(
            f"the weights do not fit the model: {problem}",
            where=path,
            fix="check the model's name, its options (such as the number of classes) and the weights' origin",
        )
    module.load_state_dict(state, strict=False)
    check_finite(module, path)


def unknown_tag(weights: str, model: str, where: str, tags: list[str]) -> ModelError:
    """What to say of weights that are neither a name that the model's library has for them nor a file."""
    return ModelError(
        f"'{weights}' is neither a tag of {model} nor a file",
        where=where,
        fix=f"tags: {', '.join(tags) or 'none'}; or give the path of a file",
    )


def mismatch(module: nn.Module, state: Mapping[str, torch.Tensor]) -> str:
    """What keeps ``state`` from filling ``module``, in words; an empty string when it fits."""
    wanted = module.state_dict()
    # Counters of batches seen are absent from older checkpoints and play no part at inference.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file, {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    parts = [
        f"{len(keys)} {label}: {_first(keys)}"
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    return "; ".join(parts)


def check_finite(module: nn.Module, where: object) -> None:
    """Raise ModelError when a parameter or buffer holds NaN or infinity."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"the weights hold NaN or infinity, first in {name}",
                where=where,
                fix="the training diverged or the file is damaged: use another checkpoint",
            )


def hash_state(module: nn.Module) -> str:
    """SHA-256 (hex) over names and types of modules, and names, dtypes, shapes and bytes of the state dict.

    Without the types two networks that differ only in what has no weights, in an activation say, would pass
    for one.
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        digest.update(f"{name} {type(part).__qualname__}\n".encode())
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _first(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (" ..." if len(keys) > count else "")
