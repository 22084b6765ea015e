"""CLIP models of a few layers, written as folders that open_clip can read, with random weights."""

import gzip
import json
from pathlib import Path

import open_clip
from safetensors.torch import save_file

from textcam.clip_models import build_clip

D = 11
MERGES = ["r e", "re d</w>", "c a", "ca t</w>"]
TOWERS = {
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 96},
    "vit": {"layers": 2, "width": 14, "head_width": 7, "patch_size": 13, "image_size": 65},
    "vit, tokens averaged": {
        "layers": 2, "width": 14, "head_width": 7, "patch_size": 13, "image_size": 65, "pool_type": "avg"
    },
    "vit, own attention": {
        "layers": 2, "width": 14, "head_width": 7, "patch_size": 13, "image_size": 65, "qk_norm": True,
        "scale_attn": True, "ls_init_value": 0.3,
    },
    "timm convolutional": {
        "timm_model_name": "test_resnet", "timm_pool": "", "timm_proj": "linear", "image_size": 96
    },
    "timm norm after pooling": {
        "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 96
    },
    "timm vit, class token": {
        "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160
    },
    "attention pooler": {
        "layers": 1, "width": 14, "head_width": 7, "patch_size": 13, "image_size": 65,
        "attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 1,
    },
}  # fmt: skip


def write_clip(folder: Path, tower: str = "resnet", merges: bool = True, weights: bool = True) -> str:
    """A folder for ``local-dir:``; returns the model string. Texts have up to 9 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bpe_merges.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES]).encode(), mtime=0))
    vocabulary = open_clip.SimpleTokenizer(bpe_path=str(path)).vocab_size if merges else 49408
    if not merges:
        path.unlink()
    config = {
        "model_cfg": {
            "embed_dim": D,
            "vision_cfg": TOWERS[tower],
            "text_cfg": {"context_length": 9, "vocab_size": vocabulary, "width": 6, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "resize_mode": "shortest"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if weights:
        model = build_clip(f"local-dir:{folder}", weights="random", seed=1).model
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
