import pytest
import torch
from torch import nn

from store.errors import ModelError
from tests.textcam import tiny_networks as tiny
from textcam.layers import captured, find_target
from textcam.layout import MapLayout, read_layout


def layout_twin(output, layout):
    """Maps cell by cell, straight from the words: tokens in raster order behind the prefix."""
    maps = torch.zeros(len(output), layout.channels, layout.height, layout.width)
    for b in range(len(output)):
        for k in range(layout.channels):
            for i in range(layout.height):
                for j in range(layout.width):
                    value = {
                        "NCHW": lambda b=b, k=k, i=i, j=j: output[b, k, i, j],
                        "NHWC": lambda b=b, k=k, i=i, j=j: output[b, i, j, k],
                        "NLC": lambda b=b, k=k, i=i, j=j: output[b, layout.prefix + i * layout.width + j, k],
                    }[layout.axes]
                    maps[b, k, i, j] = value()
    return maps


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (MapLayout("NCHW", 7, 3, 5), (2, 7, 3, 5)),
        (MapLayout("NHWC", 7, 3, 5), (2, 3, 5, 7)),
        (MapLayout("NLC", 7, 3, 5), (2, 15, 7)),
        (MapLayout("NLC", 7, 3, 5, prefix=2), (2, 17, 7)),
    ],
)
def test_a_layout_puts_every_number_where_it_belongs(layout, shape):
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    maps = layout_twin(output, layout)
    assert torch.equal(layout.to_maps(output), maps)
    assert torch.allclose(layout.pool(output), maps.mean((2, 3)))
    assert torch.allclose(layout.total(output), maps.sum((2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 96, 7, 7), MapLayout("NCHW", 96, 7, 7)),
        ((2, 7, 7, 96), MapLayout("NHWC", 96, 7, 7)),
        ((2, 7, 7, 7), MapLayout("NCHW", 7, 7, 7)),
        ((2, 197, 64), MapLayout("NLC", 64, 14, 14, prefix=1)),
        ((2, 201, 64), MapLayout("NLC", 64, 14, 14, prefix=5)),
        ((2, 49, 64), MapLayout("NLC", 64, 7, 7)),
        ((2, 512, 1, 1), None),
        ((2, 12, 197, 64), None),
        ((2, 512), None),
        ((2, 12, 197, 197), None),
    ],
)
def test_the_layout_is_read_from_the_shape(shape, expected):
    assert read_layout(nn.Identity(), torch.zeros(shape), (224, 224)) == expected


def test_the_model_says_how_many_tokens_come_first():
    network = nn.Identity()
    network.num_prefix_tokens = 4  # 4 + 10 x 10 and 0 + 8 x 13 both have 104 tokens
    assert read_layout(network, torch.zeros(2, 104, 6), (160, 160)) == MapLayout("NLC", 6, 10, 10, prefix=4)


def test_a_wide_image_has_a_wide_map():
    assert read_layout(nn.Identity(), torch.zeros(2, 6, 3, 5), (96, 160)) == MapLayout("NCHW", 6, 3, 5)
    assert read_layout(nn.Identity(), torch.zeros(2, 15, 6), (96, 160)) == MapLayout("NLC", 6, 3, 5)


@pytest.mark.parametrize(
    ("network", "layer", "channels", "axes"),
    [
        (tiny.GapLinear(), "body", 11, "NCHW"),
        (tiny.LateRelu(inplace=True), "body", 13, "NCHW"),
        (tiny.NormAfterPool("batch"), "body", 11, "NCHW"),
        (tiny.ConvHead(relu=False), "body", 11, "NCHW"),
        (tiny.ChannelsLast(), "norm", 11, "NHWC"),
        (tiny.Tokens(), "norm", 11, "NLC"),
    ],
    ids=["gap", "inplace relu", "batch norm", "conv head", "channels last", "tokens"],
)
def test_a_linear_head_is_found_and_adds_up_to_the_logits(network, layer, channels, axes):
    network = tiny.seeded(network)
    target = find_target(network, tiny.SIZE)
    assert (target.name, target.layout.channels, target.layout.axes) == (layer, channels, axes)
    assert target.head is not None
    inputs = torch.randn(3, 3, *tiny.SIZE, generator=torch.Generator().manual_seed(5))
    with captured(network, layer) as outputs:
        logits = network(inputs)
    rebuilt = target.layout.pool(outputs[-1]) @ target.head.weights.T + target.head.bias
    assert (rebuilt - logits).abs().amax() < 1e-4 * (logits - target.head.bias).abs().amax()


def test_the_head_is_the_linear_layer_bit_for_bit():
    network = tiny.seeded(tiny.GapLinear())
    head = find_target(network, tiny.SIZE).head
    assert torch.equal(head.weights, network.fc.weight)
    assert torch.equal(head.bias, network.fc.bias)


def test_a_batch_norm_after_the_pooling_is_folded_in():
    network = tiny.seeded(tiny.NormAfterPool("batch"))
    head = find_target(network, tiny.SIZE).head
    norm, fc = network.norm, network.fc
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(head.weights, fc.weight * scale, atol=1e-5)
    assert torch.allclose(head.bias, fc.bias + fc.weight @ (norm.bias - norm.running_mean * scale), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (tiny.MaxLinear(), "body"),
        (tiny.LateRelu(inplace=False), "body"),
        (tiny.NormAfterPool("layer"), "body"),
        (tiny.ConvHead(relu=True), "body"),
    ],
    ids=["max pooling", "relu in between", "layer norm after pooling", "relu after conv head"],
)
def test_a_head_that_is_not_linear_is_not_called_linear(network, layer):
    target = find_target(tiny.seeded(network), tiny.SIZE)
    assert (target.name, target.head) == (layer, None)


def test_a_fresh_head_of_zeros_hides_nothing():
    network = tiny.seeded(tiny.GapLinear())
    network.fc.weight.zero_()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    target = find_target(network, tiny.SIZE)
    assert target.name == "body"
    assert not target.head.weights.any()
    assert torch.equal(target.head.bias, network.fc.bias)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_tokens_out_of_raster_order_are_passed_over():
    network = tiny.seeded(tiny.Tokens(shuffled=True))
    assert find_target(network, tiny.SIZE).name == "patches"


def test_a_layer_by_name_overrules_auto():
    network = tiny.seeded(tiny.GapLinear())
    target = find_target(network, tiny.SIZE, "body.1")
    assert (target.name, target.layout, target.head) == ("body.1", MapLayout("NCHW", 7, 20, 20), None)
    assert find_target(network, tiny.SIZE, "body.3").head is not None


def test_a_misspelt_layer_is_answered_with_the_right_ones():
    with pytest.raises(ModelError) as error:
        find_target(tiny.seeded(tiny.GapLinear()), tiny.SIZE, "bodi.1")
    assert "did you mean body.1" in error.value.what
    assert "body (11 x 10 x 10)" in error.value.fix


def test_a_layer_without_a_map_is_refused_with_its_shape():
    with pytest.raises(ModelError, match=r"\(2, 5\), which is not a map") as error:
        find_target(tiny.seeded(tiny.GapLinear()), tiny.SIZE, "fc")
    assert "body (11 x 10 x 10)" in error.value.fix


def test_a_model_without_maps_is_refused():
    with pytest.raises(ModelError, match="no layer of this model gives spatial maps"):
        find_target(tiny.seeded(tiny.NoMaps()), tiny.SIZE)


def test_a_model_that_returns_no_logits_is_refused():
    with pytest.raises(ModelError, match=r"not logits \(B, C\)"):
        find_target(tiny.seeded(tiny.stem(7)), tiny.SIZE)
