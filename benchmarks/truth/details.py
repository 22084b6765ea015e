"""T1 in detail: groupings, insertion and deletion by concept, stability, and effects from more images."""

from collections import defaultdict

import numpy as np
import torch

from benchmarks.truth import concepts, shortcuts
from benchmarks.truth.cases import KINDS, TEXTS, classify, encoder, square, text_embeddings
from benchmarks.truth.causes import causes_of
from benchmarks.truth.contest import CONTEST, Samples
from benchmarks.truth.evidence import Array
from benchmarks.truth.groupings import judge_groupings
from benchmarks.truth.ours import Directions
from benchmarks.truth.square import agreement
from benchmarks.truth.stability import judge_stability
from demo.measure import BATCH
from demo.pictures import photograph
from demo.scenes import VALUES
from textcam.naming import PresenceMoments
from textcam.presence import ConceptPresence

FITTING = (320, 640, 1280)


def in_detail(seeds: int) -> dict[str, dict[str, Samples]]:
    """Samples of groupings, concepts and stability, from the same cases."""
    found: dict[str, dict[str, Samples]] = {
        part: defaultdict(lambda: defaultdict(list)) for part in ("groups", "concepts", "stability")
    }
    for seed in range(seeds):
        modules = {
            True: shortcuts.classifier(shortcuts.biased_world(seed)).module,
            False: shortcuts.classifier(shortcuts.clean_world(seed)).module,
        }
        cases = list(square(seed))
        causes = {planted: causes_of(module) for planted, module in modules.items()}
        _add(found["groups"], judge_groupings((case, causes[case.name.endswith("biased")]) for case in cases))
        _add(found["stability"], judge_stability(cases))
        for case in cases:
            if case.confounded:
                continue
            fitted = Directions(case.evidence)
            leanings = {
                name: one.words(case, fitted, case.predicted).image_leaning
                for name, one in CONTEST.items()
                if one.words is not None
            }
            known = concepts.lattices(case, modules[case.name.endswith("biased")], seed)
            for name, judged in concepts.judge_orders(known, leanings).items():
                for measure, value in judged.items():
                    found["concepts"][name][measure].append(value)
    return found


def _add(all_of_them: dict[str, Samples], more: dict[str, Samples]) -> None:
    for name, samples in more.items():
        for measure, values in samples.items():
            all_of_them[name][measure] += values


@torch.no_grad()
def effects_by_images(seeds: int) -> dict[str, Samples]:
    """Agreement (Spearman) of the effects of presence with rendered ones, by the number of images.

    An effect can be asked of the class's own scenes, as the truth of shortcuts is, or of scenes of all
    shapes, as a regression over all images does. How far rendering agrees with itself between the two is
    the most that can be wanted of the first.
    """
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        pairs, world = shortcuts.drawn_shortcuts(seed), shortcuts.biased_world(seed)
        module, truths = shortcuts.classifier(world).module, shortcuts.truth(world, pairs=pairs)
        head = module.head.weight.detach().numpy()
        everywhere = causes_of(module).logits
        asked = [(VALUES["shape"].index(one.class_name), TEXTS.index(one.concept)) for one in truths]
        in_class = [one.logit_change for one in truths]
        overall = [everywhere[pair] for pair in asked]
        found["rendered over all scenes"]["Spearman with effects in the class"].append(
            agreement(overall, in_class)
        )
        for confounded in (False, True):
            probe = "confounded" if confounded else "unbiased"
            drawn = shortcuts.probe_scenes(
                pairs if confounded else (),
                confounded=confounded,
                per_class=max(FITTING) // len(VALUES["shape"]),
                seed=seed,
            )
            pictures = [photograph(one) for one in drawn]
            pooled = classify(module, pictures)[0].mean((2, 3))
            embeddings = embed(pictures)
            order = np.random.default_rng(seed).permutation(len(pooled))
            for count in FITTING:
                rows = order[:count]
                present = ConceptPresence(text_embeddings(), KINDS, sample=embeddings[rows])
                moments = PresenceMoments(len(TEXTS), pooled.shape[1])
                moments.update(present(embeddings[rows]), pooled[rows])
                told = moments.effects(head)
                said = [told[pair] for pair in asked]
                samples = found[f"{count} images, {probe}"]
                samples["Spearman with effects in the class"].append(agreement(said, in_class))
                samples["Spearman with effects over all scenes"].append(agreement(said, overall))
    return found


def embed(pictures: list) -> Array:
    """(N, D), by the demo's encoder."""
    clip = encoder()
    batches = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
    return np.concatenate([clip.embed_pictures(clip.pixels(batch)).numpy() for batch in batches])
