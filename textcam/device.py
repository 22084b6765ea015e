"""Which device the models run on."""

import torch

from store.errors import ModelError


def choose_device(device: str) -> str:
    """The device to run on; "auto" is a GPU where there is one. ModelError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"device '{device}' cannot be used: {str(error).splitlines()[0]}",
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
