"""Which device the models run on, in which number format, and what to do when its memory is full."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch

from store.errors import ModelError, first_line

T = TypeVar("T")


def choose_device(device: str) -> str:
    """The device to run on; "auto" is a GPU where there is one. ModelError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"device '{device}' cannot be used: {first_line(error)}",
            where="device",
            fix="use auto, cpu or cuda",
        ) from error
    return device


def use_threads(count: int) -> None:
    """How many cores one operation may use in this process.

    Sums are cut among threads, so where the same bits are wanted everywhere, everyone must use as many.
    """
    torch.set_num_threads(count)


def gpus() -> list[tuple[str, int]]:
    """Name and memory in bytes of each GPU that torch can use."""
    found = [torch.cuda.get_device_properties(at) for at in range(torch.cuda.device_count())]
    return [(one.name, int(one.total_memory)) for one in found]


def number_format(name: str, device: str | torch.device) -> AbstractContextManager[object]:
    """Within it, matrix products and convolutions run in ``name``: "float32" or "bfloat16".

    Weights and results keep their type. bfloat16 rounds differently from one kind of device to another.
    """
    kind = torch.device(choose_device(str(device))).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=name == "bfloat16")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no room for what torch or numpy asked for."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def with_room(size: int, work: Callable[[int], T]) -> tuple[T, int]:
    """``work(size)``, with half the size again and again where memory runs out; and the size that went well.

    Raises ModelError if there is no room for one.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        if size == 1:
            raise ModelError(
                f"There is no room for a single image: {reason}",
                where="device",
                fix="use a smaller model, a device with more memory, or fewer workers on it",
            )
        size = (size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
