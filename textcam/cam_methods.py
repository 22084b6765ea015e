"""The CAM methods by name: what each asks of the network, and how its answer becomes channel weights.

Cost, beside one forward pass. With a head that is linear in the pooled maps, nothing for all but Grad-CAM++
and the two forms of Score-CAM: the weights are known. Otherwise the part of the network behind the target
layer is differentiated once (the Grad-CAMs, XGrad-CAM) or twice (Shapley-CAM), or run K times
(Ablation-CAM); Score-CAM always runs the whole network K times, K channels. Those two are for looking at
some images; for all of a data set, `textcam plan` says what they would take.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from textcam import cam
from textcam.arrays import Floats

Source = Literal["head", "gradient", "curvature", "masking", "ablation"]


@dataclass(frozen=True)
class CamMethod:
    """How channel weights (B, K) come about.

    ``source``: what is asked of the network: nothing but its linear head; gradients of one logit an image;
    gradients less half the curvature along the maps; logits of masked images; logits without a channel.
    ``formula`` makes weights of gradients and maps (B, K, h, w). ``of_head`` makes them of the head's rows
    and pooled activations (B, K) where the head is linear; None if the image decides even then.
    ``of_changes`` makes them of changes of a logit (B, K). ``frozen``: norms behind the target layer pass
    gradients with their scale held (see ``frozen_norms``).
    """

    source: Source
    formula: Callable[[Floats, Floats], Floats] | None = None
    of_head: Callable[[Floats, Floats], Floats] | None = None
    of_changes: Callable[[Floats], Floats] | None = None
    frozen: bool = False

    def passes(self, channels: int, linear_head: bool) -> int:
        """Forward passes an image beyond the first; a backward pass counts as none."""
        tried = self.source == "masking" or (self.source == "ablation" and not linear_head)
        return channels if tried else 0


def softmax(scores: Floats) -> Floats:
    """Weights (B, K) that are positive and add up to 1: Score-CAM's own form of its scores."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    weights: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def head_rows(rows: Floats, _pooled: Floats) -> Floats:
    """The rows themselves: the weights of all methods that are the gradient where it is the same
    everywhere.
    """
    return rows


def _gradcam(gradients: Floats, _maps: Floats) -> Floats:
    return cam.gradcam(gradients)


METHODS: dict[str, CamMethod] = {
    "cam": CamMethod("head", of_head=head_rows),
    "gradcam": CamMethod("gradient", _gradcam, of_head=head_rows),
    "gradcam++": CamMethod("gradient", cam.gradcam_plus_plus),
    "xgradcam": CamMethod("gradient", cam.xgradcam, of_head=head_rows),
    "gradcam-frozen": CamMethod("gradient", _gradcam, of_head=head_rows, frozen=True),
    "shapleycam": CamMethod("curvature", _gradcam, of_head=head_rows),
    "ablationcam": CamMethod("ablation", of_head=cam.channel_contributions, of_changes=lambda drops: drops),
    "scorecam": CamMethod("masking", of_changes=softmax),
    "scorecam-signed": CamMethod("masking", of_changes=lambda increases: increases),
}
"""By the names of ``cam.method``.

``shapleycam`` (arXiv 2501.06261): Grad-CAM of the gradient less half the Hessian times the map (the
second-order form of what the maps give the logit); for a head that is linear, Grad-CAM. ``ablationcam``:
the drop of the logit without the channel, in logits; the paper divides it by the logit, which turns all
signs where that is negative. ``scorecam``: softmax over channels, as published; ``scorecam-signed`` (ours):
the increases of the logit themselves, which keep sign and size.
"""
