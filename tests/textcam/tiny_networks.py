"""Networks of a few layers whose target layer and head one knows by looking at them."""

import torch
from torch import Tensor, nn
from torchvision import models, transforms

SIZE = (40, 40)
CLASSES = 5


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics, evaluation mode, no gradients: as a loaded network is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
                tensor.copy_(values.abs() + 0.5 if "running_var" in name else values)
    return network.eval().requires_grad_(False)


def stem(channels: int) -> nn.Sequential:
    """(B, 3, 40, 40) -> (B, channels, 10, 10), not negative."""
    return nn.Sequential(nn.Conv2d(3, 7, 3, 2, 1), nn.ReLU(), nn.Conv2d(7, channels, 3, 2, 1), nn.ReLU())


class GapLinear(nn.Module):
    """The plain case: mean over space, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(11), nn.Linear(11, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class MaxLinear(GapLinear):
    """The largest cell instead of the mean: linear in no pooled map."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).amax((2, 3)))


class LateRelu(nn.Module):
    """A functional ReLU between the last module and the pooling; in place, it changes what is hooked."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(stem(11), nn.Conv2d(11, 13, 1), nn.BatchNorm2d(13))
        self.fc, self.inplace = nn.Linear(13, CLASSES), inplace

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.relu(self.body(x), inplace=self.inplace).mean((2, 3)))


class NormAfterPool(nn.Module):
    """A norm between pooling and linear layer: ``batch`` folds into the linear layer, ``layer`` does not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.fc = stem(11), nn.Linear(11, CLASSES)
        self.norm: nn.Module = nn.BatchNorm1d(11) if kind == "batch" else nn.LayerNorm(11)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.body(x).mean((2, 3))))


class ConvHead(nn.Module):
    """A 1x1 convolution to the classes, then the mean; with ``relu`` in between, as in SqueezeNet."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.body, self.classes = stem(11), nn.Conv2d(11, CLASSES, 1)
        self.act: nn.Module = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.classes(self.body(x))).mean((2, 3))


class ChannelsLast(nn.Module):
    """Maps (B, h, w, K) before the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.fc = stem(11), nn.LayerNorm(11), nn.Linear(11, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.body(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Tokens(nn.Module):
    """A class token and patch tokens, mean of the latter; ``shuffled`` takes them out of raster order."""

    def __init__(self, shuffled: bool = False) -> None:
        super().__init__()
        self.patches, self.norm, self.fc = nn.Conv2d(3, 11, 10, 10), nn.LayerNorm(11), nn.Linear(11, CLASSES)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 11))
        self.order = (
            torch.randperm(16, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(16)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)[:, self.order]
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.fc(self.norm(tokens)[:, 1:].mean(1))


class NoMaps(nn.Module):
    """Sees the image as one long vector."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE[0] * SIZE[1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def small_vgg():
    """A VGG of four blocks: its own adaptive pooling and hidden layer between the maps and the logits."""
    network = models.VGG(models.vgg.make_layers([8, "M", 16, "M", 24, "M", 32, "M"]))
    network.classifier = nn.Sequential(
        nn.Linear(32 * 7 * 7, 20), nn.ReLU(inplace=True), nn.Linear(20, CLASSES)
    )
    return network, square(64)


def small_densenet():
    """torchvision's DenseNet, whose last ReLU is a function that works in place on ``features``."""
    return models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES), square(64)


def square(size: int) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )
