"""Dense features against what the towers' own parameters say, written out."""

import math

import pytest
import torch
from open_clip.timm_model import TimmModel
from timm.models import create_model
from torch.nn.functional import layer_norm, linear

from tests.textcam.tiny_clips import D, write_clip
from textcam.clip_models import build_clip
from textcam.dense import dense_path


def tower(tmp_path, name):
    model = build_clip(write_clip(tmp_path / "clip", name, weights=False), weights="random", seed=3).model
    size = (
        (model.visual.image_size,) * 2
        if isinstance(model.visual.image_size, int)
        else model.visual.image_size
    )
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    return model.visual, dense_path(model.visual, tuple(size)), inputs


def cells(dense):
    """(B, D, h, w) -> (B, h*w, D), in raster order."""
    return dense.flatten(2).transpose(1, 2)


@torch.no_grad()
def test_a_clip_resnet_that_attends_evenly_gives_the_mean_of_its_values(tmp_path):
    visual, dense, inputs = tower(tmp_path, "resnet")
    pool = visual.attnpool
    pool.q_proj.weight.zero_()
    pool.q_proj.bias.zero_()  # all attention weights are equal: the output is the mean over tokens
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(inputs)))))
    mean_token = maps.mean((2, 3)) + pool.positional_embedding[0]
    from_mean = pool.c_proj(pool.v_proj(mean_token))
    both = torch.cat([from_mean[:, None], cells(dense(inputs))], dim=1)
    assert both.shape == (2, 1 + 9, D)
    assert torch.allclose(both.mean(1), visual(inputs), atol=1e-5)
    assert (both.std(1) > 1e-4).all()


def value_path_by_hand(visual, inputs):
    """One cell after the other, from the parameters alone."""
    x = visual._embeds(inputs)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    block = visual.transformer.resblocks[-1]
    width = x.shape[-1]
    weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
    rows = []
    for token in x[:, 1:].unbind(1):
        value = linear(block.ln_1(token), weight, bias)
        out = block.attn.out_proj(value)
        out = block.ln_attn(out) if hasattr(block, "ln_attn") else out
        rows.append(visual.ln_post(block.ls_1(out)) @ visual.proj)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("name", ["vit", "vit, own attention"])
@torch.no_grad()
def test_a_vits_value_path(tmp_path, name):
    visual, dense, inputs = tower(tmp_path, name)
    features = dense(inputs)
    assert features.shape == (2, D, 5, 5)
    assert torch.allclose(cells(features), value_path_by_hand(visual, inputs), atol=1e-5)


@torch.no_grad()
def test_an_attention_poolers_value_path(tmp_path):
    visual, dense, inputs = tower(tmp_path, "attention pooler")
    tokens = visual.transformer(visual._embeds(inputs))[:, 1:]
    attn = visual.attn_pool.attn
    values = linear(visual.attn_pool.ln_k(tokens), attn.v_proj_weight, attn.in_proj_bias[2 * D :])
    expected = visual.ln_post(attn.out_proj(values)) @ visual.proj
    assert torch.allclose(cells(dense(inputs)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["vit, tokens averaged", "timm convolutional"])
@torch.no_grad()
def test_where_cells_are_averaged_the_mean_of_the_features_is_the_embedding(tmp_path, name):
    visual, dense, inputs = tower(tmp_path, name)
    features = dense(inputs)
    assert torch.allclose(features.mean((2, 3)), visual(inputs), atol=1e-5)
    assert (features.std((2, 3)) > 1e-6).all()


@torch.no_grad()
def test_a_norm_after_the_pooling_is_applied_to_each_cell(tmp_path):
    visual, dense, inputs = tower(tmp_path, "timm norm after pooling")
    maps = visual.trunk.forward_features(inputs)
    norm, proj = visual.trunk.head.norm, visual.head.proj
    expected = proj(
        layer_norm(maps.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    )
    assert torch.allclose(dense(inputs), expected.permute(0, 3, 1, 2), atol=1e-5)


@torch.no_grad()
def test_a_timm_vits_value_path(tmp_path):
    visual, dense, inputs = tower(tmp_path, "timm vit, class token")
    trunk = visual.trunk
    seen = []
    handle = trunk.blocks[-1].norm1.register_forward_hook(lambda _m, _i, output: seen.append(output))
    visual(inputs)
    handle.remove()
    attn, last = trunk.blocks[-1].attn, trunk.blocks[-1]
    width = seen[0].shape[-1]
    values = linear(
        seen[0], attn.qkv.weight[2 * width :], None if attn.qkv.bias is None else attn.qkv.bias[-width:]
    )
    tokens = trunk.norm(last.ls1(attn.proj(values)))[:, trunk.num_prefix_tokens :]
    expected = visual.head(trunk.fc_norm(tokens))
    side = math.isqrt(expected.shape[1])
    features = dense(inputs)
    assert features.shape == (2, D, side, side)
    assert torch.allclose(cells(features), expected, atol=1e-5)


@torch.no_grad()
def test_attention_pooling_with_even_attention_gives_the_mean_of_its_values():
    torch.manual_seed(0)
    visual = TimmModel("test_vit", embed_dim=D, pool="token", proj="linear", image_size=160)
    visual.trunk = create_model("test_vit", global_pool="map", class_token=False, num_classes=0)
    visual.eval()
    pool = visual.trunk.attn_pool
    pool.q.weight.zero_()
    pool.q.bias.zero_()
    pool.mlp = None  # behind it nothing is linear
    inputs = torch.randn(2, 3, 160, 160)
    features = dense_path(visual, (160, 160))(inputs)
    assert features.shape == (2, D, 10, 10)
    assert torch.allclose(features.mean((2, 3)), visual(inputs), atol=1e-5)
    assert (features.std((2, 3)) > 1e-4).all()
