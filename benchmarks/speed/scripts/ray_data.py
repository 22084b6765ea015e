"""A Ray Data pipeline: images are read and transformed, and go in batches to actors with both models.

As its documentation writes batch inference; how many actors is the script's second argument.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from peer import Request, classifier, encoder, files, request, tell
from PIL import Image


class Both:
    """Both models; each row says when its batch was done, and when this actor was ready."""

    def __init__(self, weights: str) -> None:
        torch.set_num_threads(1)
        self.network, self.clip = classifier(weights)[0], encoder(weights)[0]
        self.ready = time.time()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pooled activations, logits and embeddings of a batch."""
        with torch.inference_mode():
            features = self.network.forward_features(torch.as_tensor(batch["one"]))
            pooled = self.network.forward_head(features, pre_logits=True)
            logits = self.network.fc(pooled)
            embedding = self.clip.encode_image(torch.as_tensor(batch["other"]))
        made = {"pooled": pooled.numpy(), "logits": logits.numpy(), "embedding": embedding.numpy()}
        times = {"ready": np.full(len(pooled), self.ready), "done": np.full(len(pooled), time.time())}
        return made | times


def prepared(row: dict[str, Any], transforms: list[Any]) -> dict[str, np.ndarray]:
    """The image as each model wants it."""
    image = Image.fromarray(row["image"])
    return {name: one(image).numpy() for name, one in zip(("one", "other"), transforms, strict=True)}


def run(asked: Request, actors: int) -> None:
    """Tells the seconds from the first actor that was ready to the last batch done: start-up is not counted,
    though images are read meanwhile."""
    transforms = [classifier(asked.weights)[1], encoder(asked.weights)[1]]
    images = ray.data.read_images(asked.images, mode="RGB").map(partial(prepared, transforms=transforms))
    made = images.map_batches(
        Both,
        fn_constructor_args=(asked.weights,),
        batch_size=asked.batch,
        concurrency=actors,
        num_cpus=0.5 if actors == asked.cores else 1,  # tasks that read need a core as well
    )
    made.write_parquet(asked.out)
    times = ray.data.read_parquet(asked.out).select_columns(["ready", "done"]).to_pandas()
    assert len(times) == len(files(asked.images))
    tell(len(times), times["done"].max() - times["ready"].min())


def main() -> None:
    """With a Ray of its own."""
    asked, here = request(), Path(__file__).resolve().parent
    environment = {"env_vars": {"PYTHONPATH": str(here)}}  # actors import what this script imports
    ray.init(
        "local",
        num_cpus=asked.cores,
        include_dashboard=False,
        runtime_env=environment,
        log_to_driver=False,
        logging_level="ERROR",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    run(asked, int(sys.argv[2]))


if __name__ == "__main__":
    main()
