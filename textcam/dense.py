"""Dense CLIP features: an embedding for every cell of the image tower's last map.

One idea serves all architectures: pooling over a single cell is that cell. So what an attention pooling
makes of one token alone is its *value path*, and a head after average pooling applied to one cell alone is
that cell's share. For a transformer that reads its class token, the last block's attention is applied to
each token alone, without the residual stream and the MLP, which carry what the class token gathers rather
than what lies at the place (ours in form; the value path is that of MaskCLIP).
"""

from collections.abc import Callable
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from textcam.layout import MapLayout, read_layout

DensePath = Callable[[Tensor], Tensor]


def dense_path(visual: nn.Module, size: tuple[int, int]) -> DensePath | None:
    """From inputs (B, 3, H, W) to dense features (B, D, h, w), not normalised; None if there are none."""
    if isinstance(visual, ModifiedResNet) and isinstance(visual.attnpool, AttentionPool2d):
        return lambda inputs: _modified_resnet(visual, inputs)
    if isinstance(visual, VisionTransformer) and not visual.final_ln_after_pool:
        if visual.attn_pool is None and visual.pool_type in ("tok", "avg"):
            return lambda inputs: _vision_transformer(visual, inputs)
        if visual.attn_pool is not None and visual.attn_pool_contrastive is None:
            return lambda inputs: _attention_pooled(visual, inputs)
    if isinstance(visual, TimmModel) and not hasattr(visual.head, "pool"):
        return _timm_path(visual, size)
    return None


def _modified_resnet(visual: Any, inputs: Tensor) -> Tensor:
    """Values and output projection of the attention pooling, cell by cell, with their position embedding."""
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(inputs)))))  # (B, K, h, w)
    pool = visual.attnpool
    cells = maps.flatten(2).transpose(1, 2) + pool.positional_embedding[1:].to(maps.dtype)  # (B, h*w, K)
    return _as_map(pool.c_proj(pool.v_proj(cells)), maps.shape[2], maps.shape[3])


def _vision_transformer(visual: Any, inputs: Tensor) -> Tensor:
    """open_clip's ViT: last block's value path, or output where tokens are averaged; norm, projection."""
    block = visual.transformer.resblocks[-1]
    before, after = _around(visual, block, inputs)
    if not visual.transformer.batch_first:
        before, after = before.transpose(0, 1), after.transpose(0, 1)
    reads_class_token = visual.pool_type == "tok"
    tokens = block.ls_1(_attention_alone(block, block.ln_1(before))) if reads_class_token else after
    tokens = visual.ln_post(tokens[:, 1:])
    if visual.proj is not None:
        tokens = tokens @ visual.proj
    height, width = visual.grid_size
    return _as_map(tokens, height, width)


def _attention_pooled(visual: Any, inputs: Tensor) -> Tensor:
    """open_clip's ViT with attention pooling (CoCa): each token pooled alone, the same for all queries."""
    _, after = _around(visual, visual.transformer.resblocks[-1], inputs)
    tokens = (after if visual.transformer.batch_first else after.transpose(0, 1))[:, 1:]
    pooled = visual.ln_post(visual.attn_pool(tokens.reshape(-1, 1, tokens.shape[-1]))[:, 0])
    pooled = pooled @ visual.proj if visual.proj is not None else pooled
    return _as_map(pooled.reshape(len(tokens), tokens.shape[1], -1), *visual.grid_size)


def _attention_alone(block: Any, tokens: Tensor) -> Tensor:
    """The block's attention on sequences of one token: (B, n, D) -> (B, n, D)."""
    batch, count, width = tokens.shape
    single = tokens.reshape(batch * count, 1, width)
    if hasattr(block, "attention"):
        first = getattr(block.attn, "batch_first", True)
        single = (
            block.attention(q_x=single)
            if first
            else block.attention(q_x=single.transpose(0, 1)).transpose(0, 1)
        )
    else:
        single = block.attn(single)
    if hasattr(block, "ln_attn"):
        single = block.ln_attn(single)
    return single.reshape(batch, count, width)


def _timm_path(visual: Any, size: tuple[int, int]) -> DensePath | None:
    trunk = visual.trunk
    parameter = next(trunk.parameters())
    with torch.inference_mode():
        features = trunk.forward_features(torch.zeros(1, 3, *size, device=parameter.device))
    layout = read_layout(trunk, features, size)
    if layout is None:
        return None
    if layout.axes != "NLC":
        return lambda inputs: _cells_alone(visual, layout, inputs)
    if getattr(trunk, "attn_pool", None) is not None:
        return lambda inputs: _tokens_alone(visual, layout, trunk.forward_features(inputs))
    if (
        not hasattr(trunk, "blocks")
        or not hasattr(trunk.blocks[-1], "norm1")
        or not hasattr(trunk, "fc_norm")
    ):
        return None
    return lambda inputs: _timm_transformer(visual, layout, inputs)


def _cells_alone(visual: Any, layout: MapLayout, inputs: Tensor) -> Tensor:
    """Pooling, norm and projection of a convolutional tower applied to each cell as a 1 x 1 map."""
    features = visual.trunk.forward_features(inputs)
    maps = layout.to_maps(features)  # (B, K, h, w)
    single = maps.permute(0, 2, 3, 1).reshape(-1, layout.channels, 1, 1)
    if layout.axes == "NHWC":
        single = single.permute(0, 2, 3, 1)
    out = visual.head(visual.trunk.forward_head(single))
    return _as_map(out.reshape(len(inputs), -1, out.shape[-1]), layout.height, layout.width)


def _tokens_alone(visual: Any, layout: MapLayout, features: Tensor) -> Tensor:
    """Attention pooling, norm and projection applied to each patch token as a sequence of its own."""
    trunk = visual.trunk
    tokens = features[:, layout.prefix :]
    single = trunk.attn_pool(tokens.reshape(-1, 1, layout.channels))
    return _as_map(
        _timm_head(visual, single).reshape(len(tokens), tokens.shape[1], -1), layout.height, layout.width
    )


def _timm_transformer(visual: Any, layout: MapLayout, inputs: Tensor) -> Tensor:
    """timm's ViT or EVA: as in ``_vision_transformer``."""
    trunk = visual.trunk
    block = trunk.blocks[-1]
    before, after = _around(trunk, block, inputs)
    if trunk.global_pool == "token":
        tokens = _attention_alone(block, block.norm1(before))
        tokens = tokens * block.gamma_1 if getattr(block, "gamma_1", None) is not None else tokens
        tokens = block.ls1(tokens) if hasattr(block, "ls1") else tokens
    else:
        tokens = after
    tokens = trunk.norm(tokens[:, layout.prefix :])
    return _as_map(_timm_head(visual, tokens), layout.height, layout.width)


def _timm_head(visual: Any, pooled: Tensor) -> Tensor:
    return visual.head(visual.trunk.head(visual.trunk.fc_norm(pooled)))


def _around(network: nn.Module, block: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of one block in a pass of the network."""
    seen: list[Tensor] = []
    handle = block.register_forward_hook(lambda _block, args, output: seen.extend((args[0], output)))
    try:
        network(inputs)
    finally:
        handle.remove()
    return seen[0], seen[1]


def _as_map(cells: Tensor, height: int, width: int) -> Tensor:
    return cells.transpose(1, 2).reshape(len(cells), -1, height, width)
