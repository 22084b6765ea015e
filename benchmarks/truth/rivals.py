"""Other ways to name a channel, each written by us from its paper: evidence in, scores (K, T) out.

- CLIP-Dissect (Oikarinen and Weng, ICLR 2023, arXiv 2204.10965): soft weighted pointwise mutual information.
- SemanticLens (Dreyer et al., 2025, arXiv 2501.05398): the mean embedding of the images that excite a
  channel most.
- Mean difference (FastCAV, 2025, arXiv 2505.17883, has it as a fast concept vector): full shrinkage.
- INVERT (Bykov et al., NeurIPS 2023, arXiv 2311.13594): AUROC of the activation for the label. It needs
  labels of the images, so it is an upper reference and no rival.
- Linear Explanations (Oikarinen and Weng, ICML 2024, arXiv 2405.06855): the activation as a sparse, not
  negative sum of text similarities.
- SpLiCE (Bhalla et al., NeurIPS 2024, arXiv 2402.10376): the mean embedding of the images that excite a
  channel, decomposed into texts.
- Chance: random scores.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from benchmarks.truth.evidence import Array, Evidence
from textcam.arrays import unit_rows
from textcam.select import select_texts, similarity

TOP = 100  # images that a channel is named by


def clip_dissect(evidence: Evidence, *, temperature: float = 10.0) -> Array:
    """log E[p(t | B)] - log p(t), B a soft set of the top images: membership falls from .998 to .97 in rank.

    ``temperature`` 10 is the published one; it was chosen for CLIPs of OpenAI.
    """
    logits = temperature * evidence.embeddings @ evidence.texts.T
    logits -= logits.max(1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # p(t | x) (N, T)
    best = _highest(evidence.pooled, TOP)
    member = np.linspace(0.998, 0.97, best.shape[1])[None, :, None]
    joint = np.log(1 + member * (p[best] - 1)).sum(1)  # (K, T)
    # p(t) over channels, as the published code has it: the mean of the joint over all channels
    prior = np.log(np.exp(joint - joint.max()).mean(0) + 1e-300) + joint.max()
    return joint - prior


def semantic_lens(evidence: Evidence) -> Array:
    """Cosine of texts with the mean embedding of the top images, less that with the mean of all images."""
    mean = evidence.embeddings[_highest(evidence.pooled, TOP)].mean(1)
    plain = similarity(evidence.embeddings.mean(0, keepdims=True).astype(np.float32), evidence.texts)
    return similarity(mean.astype(np.float32), evidence.texts) - plain


def linear_explanation(evidence: Evidence, *, words: int = 5) -> Array:
    """Coefficients of a greedy, not negative regression of the standardised activation on text similarities.

    A text that is not chosen scores its correlation less one, so the rest is still in an order.
    """
    x = evidence.embeddings @ evidence.texts.T
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    y = evidence.pooled - evidence.pooled.mean(0)
    y = y / np.maximum(y.std(0), 1e-12)
    gram, linear = x.T @ x / len(x), x.T @ y / len(x)  # (T, T), (T, K)
    made = linear.T - 1
    for channel in range(y.shape[1]):
        chosen: list[int] = []
        residual = linear[:, channel]
        amounts = np.zeros(0)
        for _ in range(words):
            best = int(np.argmax(residual))
            if best in chosen or residual[best] <= 1e-3:
                break
            tried = [*chosen, best]
            found = np.linalg.lstsq(gram[np.ix_(tried, tried)], linear[tried, channel], rcond=None)[0]
            if (found <= 0).any():
                break
            chosen, amounts = tried, found
            residual = linear[:, channel] - gram[:, chosen] @ amounts
        made[channel, chosen] = amounts
    return made


def splice(evidence: Evidence) -> Array:
    """Coefficients of the top images' mean embedding over texts, both taken without their means; a text
    that is not chosen scores its cosine less one.
    """
    centred = unit_rows(evidence.embeddings - evidence.embeddings.mean(0))
    mean = unit_rows(centred[_highest(evidence.pooled, TOP)].mean(1))
    texts = unit_rows(evidence.texts - evidence.texts.mean(0))
    found = select_texts(mean, texts, top=10, decorrelation=0.0, centre=False)
    made = similarity(mean, texts) - 1
    row, place = np.nonzero(found.text_index >= 0)
    made[row, found.text_index[row, place]] = found.coefficients[row, place]
    return made


def chance(evidence: Evidence) -> Array:
    """Random scores."""
    return np.random.default_rng(0).random((evidence.pooled.shape[1], len(evidence.texts)))


def invert(evidence: Evidence, labels: Array) -> Array:
    """AUROC (K, T) of the activations for the labels (N, T) of the same images; 0.5 where a label is
    constant.
    """
    ranks = rankdata(evidence.pooled, axis=0)  # (N, K)
    shown = labels.sum(0)
    pairs = shown * (len(labels) - shown)
    above = ranks.T @ labels - shown * (shown + 1) / 2
    return np.divide(above, pairs, out=np.full(above.shape, 0.5), where=pairs > 0)


def _highest(pooled: Array, count: int) -> Array:
    """(K, count) rows of the highest activations, highest first."""
    return np.argsort(-pooled, axis=0, kind="stable")[:count].T


RIVALS: dict[str, Callable[[Evidence], Array]] = {
    "CLIP-Dissect": clip_dissect,
    "SemanticLens": semantic_lens,
    "Linear Explanations": linear_explanation,
    "SpLiCE": splice,
    "chance": chance,
}
