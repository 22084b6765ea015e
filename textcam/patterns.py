"""Which text is most likely the meaning of a channel, judged by how embeddings move with it (ours).

The covariance of a channel's activation with the image embeddings, d (D,), is the channel's *pattern*: where
images go when it fires. (Not its filter, the weights that would foretell it: for what a channel means,
patterns are right and filters are not; Haufe et al., NeuroImage 2014.) Were text t its meaning, the pattern
would be a multiple of the text's direction x_t and an error. The error has two parts: that of a covariance
estimated from n images, whose own covariance is C / n, with C that of the embeddings; and that a text never
lies just where the images that show it go. With the second part as large in all directions,

    d = b x_t + e,   e ~ N(0, (C + q c I) / n),   c = tr C / D,

the best b in units of its error is the score of the text:

    z_t = x_t' W d / (x_t' W x_t)^(1/2),   W = (C + q c I)^-1.

The slack q says how far texts can be trusted. If they lie where they should, small q takes the noise of the
images out (that is nearly ridge regression); with CLIP's own texts, which do not, a large q compares
directions as they are (nearly the mean difference). It is chosen from the data (``names``).
"""

import numpy as np

from textcam.accumulate import Moments
from textcam.arrays import Doubles, check_shape


def pattern_scores(moments: Moments, texts: Doubles, slack: float) -> Doubles:
    """z (K, T) of K channels and ``texts`` (T, D), which are comparable; 0 for channels that do not vary and
    texts that are zero. ``slack`` is q above, positive.
    """
    check_shape("texts", texts, (None, moments.dim))
    spread = np.sqrt(moments.variance)  # (K,)
    pattern = np.divide(
        moments.cross_covariance, spread, out=np.zeros((moments.dim, len(spread))), where=spread > 0
    )  # (D, K)
    noise = moments.embedding_covariance
    noise = noise + slack * max(float(np.trace(noise)) / len(noise), 1e-12) * np.eye(len(noise))
    weighed = np.linalg.solve(noise, texts.T)  # (D, T)
    error = np.sqrt(np.einsum("td,dt->t", texts, weighed))
    made: Doubles = np.divide(
        pattern.T @ weighed, error, out=np.zeros((len(spread), len(texts))), where=error > 0
    )
    return made
