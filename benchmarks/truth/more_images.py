"""How well effects of presence agree with what rendering shows, by the number of images.

An effect can be asked of scenes of all shapes, as a regression over all images does, or of the class's own
scenes, as the truth of shortcuts is. How far rendering agrees with itself between the two is the most that a
regression over all images can reach of the second; a regression over the images of the class alone asks
for it directly and has an eighth of the images.
"""

from collections import defaultdict

import numpy as np
import torch

from benchmarks.truth import shortcuts
from benchmarks.truth.cases import TEXTS, classify, encoder, text_embeddings
from benchmarks.truth.causes import causes_of
from benchmarks.truth.contest import Samples
from benchmarks.truth.evidence import Array
from benchmarks.truth.square import agreement
from demo.measure import BATCH
from demo.pictures import photograph
from demo.scenes import VALUES
from textcam.naming import PresenceMoments
from textcam.presence import ConceptPresence

COUNTS = (320, 1280, 5120)
CLASSES = len(VALUES["shape"])
OVERALL, OWN = "over all scenes", "in the class"


@torch.no_grad()
def effects_by_images(seeds: int) -> dict[str, Samples]:
    """Agreement (Spearman) of what is told of pairs of a class and a text with rendered effects, a biased
    classifier each; the confounded probe has fewer images."""
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        pairs, world = shortcuts.drawn_shortcuts(seed), shortcuts.biased_world(seed)
        module, truths = shortcuts.classifier(world).module, shortcuts.truth(world, pairs=pairs)
        everywhere = causes_of(module).logits
        asked = [(VALUES["shape"].index(one.class_name), TEXTS.index(one.concept)) for one in truths]
        truth = {OWN: [one.logit_change for one in truths], OVERALL: [everywhere[pair] for pair in asked]}
        found["rendered, over all scenes"][OWN].append(agreement(truth[OVERALL], truth[OWN]))
        for confounded, counts in ((False, COUNTS), (True, COUNTS[:-1])):
            pooled, embeddings, classes = _seen(module, pairs, confounded, max(counts), seed)
            for count in counts:
                rows = np.random.default_rng(seed).permutation(len(pooled))[:count]
                head = module.head.weight.detach().numpy()
                overall, own = _effects(pooled[rows], embeddings[rows], classes[rows], head)
                samples = found[f"{count} images, {'confounded' if confounded else 'unbiased'}"]
                for name, effects in truth.items():
                    samples[name].append(agreement([overall[pair] for pair in asked], effects))
                samples[f"{OWN}, from the class alone"].append(
                    agreement([own[pair] for pair in asked], truth[OWN])
                )
    return found


def _seen(module, pairs, confounded: bool, count: int, seed: int) -> tuple[Array, Array, Array]:
    """Activations (N, K), embeddings (N, D) and predicted classes (N,) of a probe; pictures are not kept."""
    drawn = shortcuts.probe_scenes(
        pairs if confounded else (), confounded=confounded, per_class=count // CLASSES, seed=seed
    )
    clip, made = encoder(), []
    for start in range(0, len(drawn), BATCH):
        pictures = [photograph.__wrapped__(one) for one in drawn[start : start + BATCH]]
        maps, logits = classify(module, pictures)
        made.append((maps.mean((2, 3)), clip.embed_pictures(clip.pixels(pictures)).numpy(), logits.argmax(1)))
    pooled, embeddings, classes = (np.concatenate(one) for one in zip(*made, strict=True))
    return pooled, embeddings, classes


def _effects(pooled: Array, embeddings: Array, classes: Array, head: Array) -> tuple[Array, Array]:
    """Effects (C, T) by regression over all images, and over those of each class alone."""
    present = ConceptPresence(text_embeddings(), sample=embeddings).probability(embeddings)

    def regression(rows: Array) -> Array:
        moments = PresenceMoments(len(TEXTS), pooled.shape[1])
        moments.update(present[rows], pooled[rows])
        return moments.effects(head)

    own = [regression(np.flatnonzero(classes == c))[c] for c in range(CLASSES)]
    return regression(np.arange(len(pooled))), np.array(own)
