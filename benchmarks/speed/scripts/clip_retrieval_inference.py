"""clip-retrieval's inference: embeddings only, by its own reader, mapper and writer."""

import json
from pathlib import Path

from clip_retrieval import clip_inference
from peer import encoder_file, files, request, tell


def main() -> None:
    """Its model is loaded and warmed up with the few, and kept for all; its own statistics have the seconds,
    which leave out the processes that it starts for them."""
    asked = request()
    for folder in (asked.warm, asked.images):
        out = Path(asked.out) / Path(folder).name
        clip_inference(
            input_dataset=folder,
            output_folder=str(out),
            batch_size=asked.batch,
            num_prepro_workers=asked.cores,
            enable_text=False,
            clip_model=f"open_clip:ViT-B-32/{encoder_file(asked.weights)}",
        )
    told = json.loads((out / "stats" / "0.json").read_text())
    assert told["sample_count"] == len(files(asked.images))
    tell(told["sample_count"], told["total_duration"])


if __name__ == "__main__":
    main()
