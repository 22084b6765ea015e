"""A forward pass as kernels made for one network, one batch shape and one machine: torch.compile, an option.

The first call takes from seconds to minutes. Fused kernels round the last bits in another way.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from store.errors import ConfigError, first_line
from textcam.device import is_out_of_memory

T = TypeVar("T")


def compiled(forward: Callable[[torch.Tensor], T]) -> Callable[[torch.Tensor], T]:
    """The same, compiled when it is first called, and again for each other shape of its input.

    Raises ConfigError, when it is called, where this machine cannot compile it: a run that is told to compile
    does not go on without.
    """
    kernels: Callable[[torch.Tensor], T] = torch.compile(forward, dynamic=False)

    def call(inputs: torch.Tensor) -> T:
        from torch._dynamo.exc import TorchDynamoException  # takes a second, which only this option costs

        try:
            return kernels(inputs)
        except TorchDynamoException as error:
            cause = error.__cause__ or error
            if is_out_of_memory(cause):
                raise cause from None
            raise ConfigError(
                f"The models cannot be compiled here: {first_line(cause)}",
                where="run.compile",
                fix="Install a C++ compiler (g++) on every node that runs models, or set run.compile: false.",
            ) from error

    return call
