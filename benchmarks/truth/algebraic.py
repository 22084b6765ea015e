"""T0: a world made of formulas, where the meaning of every channel is given.

An image is a set of attributes z. Its embedding is a sum of the directions of its attributes, of the gap that
sets images apart from texts, and of noise that is larger in some directions than in others, as it is in real
encoders. A text is its attribute's direction plus what all texts share: the text encoder is an oracle. A
channel is the rectified sum of the attributes it means, minus a threshold, plus noise.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.truth.evidence import Evidence, Labelled
from textcam.arrays import unit_rows


@dataclass(frozen=True)
class AlgebraicWorld:
    """The knobs. ``noise`` is the noise's length against that of one attribute; ``meanings`` how many
    attributes each channel has; ``confounding`` how often an attribute's partner comes along with it;
    ``imbalance`` the ratio of the most to the least frequent attribute."""

    seed: int = 0
    images: int = 4000
    channels: int = 150
    dim: int = 128
    attributes: int = 60
    distractors: int = 140
    noise: float = 2.0
    channel_noise: float = 0.3
    meanings: int = 1
    confounding: float = 0.0
    imbalance: float = 5.0


def make_algebraic(world: AlgebraicWorld) -> tuple[Evidence, Labelled]:
    """Evidence of one half of the images to explain by, and of the other half, with labels, to score on.

    The last texts, the distractors, are in no image.
    """
    rng = np.random.default_rng([20, world.seed])
    texts = world.attributes + world.distractors
    meaning = unit_rows(rng.normal(size=(texts, world.dim)))
    present = _attributes(world, rng)

    spread = np.geomspace(1.0, 0.05, world.dim)  # anisotropic: few directions hold most of the noise
    basis = np.linalg.qr(rng.normal(size=(world.dim, world.dim)))[0]
    noise = rng.normal(size=(world.images, world.dim)) * spread / np.linalg.norm(spread) @ basis
    gap, cone = 4 * unit_rows(rng.normal(size=(2, world.dim)))
    embeddings = unit_rows(present @ meaning[: world.attributes] + gap + world.noise * noise)

    truth = np.zeros((world.channels, texts), bool)
    for channel in range(world.channels):
        truth[channel, rng.choice(world.attributes, world.meanings, replace=False)] = True
    strength = rng.uniform(0.7, 1.3, truth.shape) * truth
    drive = present @ strength[:, : world.attributes].T + world.channel_noise * rng.normal(
        size=(world.images, world.channels)
    )
    pooled = np.maximum(drive - 0.2, 0).astype(np.float32)

    kinds = ("other",) * texts
    labels = np.zeros((world.images, texts), bool)
    labels[:, : world.attributes] = present
    half = world.images // 2
    evidence = Evidence(pooled[:half], embeddings[:half], unit_rows(meaning + cone), kinds)
    return evidence, Labelled(pooled[half:], labels[half:], truth)


def _attributes(world: AlgebraicWorld, rng: np.random.Generator) -> np.ndarray:
    """(N, A) zeros and ones; attributes 0 and 1, 2 and 3, ... are partners."""
    share = np.geomspace(0.2, 0.2 / world.imbalance, world.attributes)[rng.permutation(world.attributes)]
    present = (rng.random((world.images, world.attributes)) < share).astype(float)
    follows = rng.random((world.images, world.attributes // 2)) < world.confounding
    first = present[:, 0 : 2 * follows.shape[1] : 2]
    present[:, 1 : 2 * follows.shape[1] : 2] = np.where(
        follows, first, present[:, 1 : 2 * follows.shape[1] : 2]
    )
    return present
