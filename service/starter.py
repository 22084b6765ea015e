"""The configuration that ``textcam init`` writes: every choice that matters, with its reason beside it."""

import json

_TEMPLATE = """\
# What to explain, with which models, and where the result goes. Check it with: textcam plan FILE
# Relative paths are relative to this file. Keys left out take the values shown.

images:
  uri: {images}           # local folder, or s3:// or gs://
  format: folder          # folder (one sub-folder per class) | webdataset | parquet | csv
  limit: null             # first so many images only; null: all

classifier:
  model: timm:resnet50.a1_in1k   # timm:NAME | torchvision:NAME | python:package.module:function
  weights: null           # null: the library's own (downloaded once); a .safetensors file; random: a dry run
  layer: auto             # auto finds the last spatial layer; or name a module
  # several at once: `classifiers:` with a list of such blocks, each with a `name`
  class_names: null       # a text file with one name a line; null: from the model or the folders

encoder:                  # the CLIP model that gives images and words one space
  model: ViT-B-32         # an open_clip name | local-dir:PATH | python:package.module:function
  weights: laion2b_s34b_b79k     # an open_clip tag, or a file

texts:
  bank: builtin           # the words to choose from: builtin | a .txt or .csv of your own | a list of them
  templates: null         # e.g. ["a photo of {{}}", "a close-up of {{}}"]; null: built in

cam:
  method: gradcam-frozen  # gradcam-frozen | gradcam | gradcam++ | xgradcam | cam | shapleycam; slow, for some
                          # images: ablationcam | scorecam | scorecam-signed

directions:
  examples: 100           # images a side that show what a channel responds to

words:
  top: 5                  # words per explanation

groups:
  count: 32               # groups of channels that mean alike

index:
  min_recall: 0.8         # a search index that finds less of the ten nearest than this is not committed

run:
  executor: ray           # ray (cores, GPUs, clusters) | inline (this process; small sets, debugging)
  device: auto            # auto | cpu | cuda
  gpus_per_worker: 0      # 1 on GPU machines
  shard_size: 4096        # images per unit of work; at most one shard per worker is lost in a crash
  batch_size: 64
  number_format: float32  # float32 | bfloat16 | auto: tried when the run begins; often twice as fast
  max_error_rate: 0.01    # the run fails if more images than this cannot be read

store: {store}            # folder, or s3:// or gs:// prefix
"""


def starter_config(images: str, store: str) -> str:
    """The commented YAML, with the two places filled in. JSON strings are YAML strings: any path is quoted
    right.
    """
    return _TEMPLATE.format(images=json.dumps(images), store=json.dumps(store))
