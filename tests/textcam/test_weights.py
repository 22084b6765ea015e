import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from store.errors import ModelError
from textcam.weights import hash_state, load_into, mismatch, read_state


def small_network():
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 2))


def filled(seed=1):
    network = small_network()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return network


class Payload:
    """Unpickled by an ordinary loader, this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_safetensors_and_state_dicts_load_the_same(tmp_path):
    source = filled()
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    torch.save(source.state_dict(), tmp_path / "b.pth")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}, "epoch": 7},
        tmp_path / "c.pt",
    )
    for name in ("a.safetensors", "b.pth", "c.pt"):
        network = small_network()
        load_into(network, tmp_path / name)
        assert hash_state(network) == hash_state(source), name


def test_half_precision_is_widened_exactly(tmp_path):
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in filled().state_dict().items()
    }
    save_file(halves, tmp_path / "half.safetensors")
    network = small_network()
    load_into(network, tmp_path / "half.safetensors")
    assert network[0].weight.dtype == torch.float32
    assert torch.equal(network[0].weight, halves["0.weight"].float())


def test_missing_and_unexpected_keys_are_named_and_nothing_is_loaded(tmp_path):
    state = filled().state_dict()
    state["3.wait"] = state.pop("3.weight")
    save_file(state, tmp_path / "keys.safetensors")
    network = small_network()
    before = hash_state(network)
    with pytest.raises(ModelError) as error:
        load_into(network, tmp_path / "keys.safetensors")
    assert "1 missing: 3.weight" in error.value.what
    assert "1 unexpected: 3.wait" in error.value.what
    assert error.value.where == str(tmp_path / "keys.safetensors")
    assert hash_state(network) == before


def test_another_shape_is_named_with_both_shapes():
    state = filled().state_dict() | {"3.weight": torch.zeros(4, 5)}
    assert mismatch(small_network(), state) == (
        "1 of another shape: 3.weight is (4, 5) in the file, (2, 5) in the model"
    )


def test_a_counter_that_older_checkpoints_lack_is_no_problem():
    state = filled().state_dict()
    del state["1.num_batches_tracked"]
    assert mismatch(small_network(), state) == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 20, 500])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(filled().state_dict(), path)
    else:
        save_file(filled().state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError) as error:
        read_state(path)
    assert error.value.where == str(path)


@pytest.mark.parametrize("how", ["plain pickle", "torch archive"])
def test_a_payload_is_refused_and_does_not_run(tmp_path, how):
    proof, path = tmp_path / "it-ran", tmp_path / "evil.pth"
    content = {"3.weight": torch.zeros(2), "x": Payload(proof)}
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(ModelError):
        read_state(path)
    assert not proof.exists()
    if how == "plain pickle":  # the payload is live: an ordinary loader runs it
        pickle.loads(path.read_bytes())
        assert proof.exists()


def test_what_is_no_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"lr": 0.1}, tmp_path / "numbers.pt")
    Path(tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match="holds a list, not tensors by name"):
        read_state(tmp_path / "list.pt")
    with pytest.raises(ModelError, match="not tensors: lr"):
        read_state(tmp_path / "numbers.pt")
    with pytest.raises(ModelError, match=r"'\.h5' are not supported"):
        read_state(tmp_path / "weights.h5")
    with pytest.raises(ModelError, match="does not exist"):
        read_state(tmp_path / "nowhere.safetensors")


def test_nan_is_refused_by_name(tmp_path):
    state = filled().state_dict()
    state["3.bias"][1] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(ModelError, match=r"NaN or infinity, first in 3\.bias"):
        load_into(small_network(), tmp_path / "nan.safetensors")


def test_the_hash_sees_one_bit_and_not_the_memory_format():
    network = filled()
    before = hash_state(network)
    assert hash_state(filled()) == before
    assert hash_state(filled().to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network[0].weight[0, 0] = torch.nextafter(network[0].weight[0, 0], torch.tensor(9.0))
    assert hash_state(network) != before


def test_what_has_no_weights_is_part_of_the_hash() -> None:
    tanh, plain = (nn.Sequential(nn.Linear(3, 2), middle) for middle in (nn.Tanh(), nn.Identity()))
    plain.load_state_dict(tanh.state_dict())
    assert hash_state(tanh) != hash_state(plain)
