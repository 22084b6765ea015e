"""Small models for runs in tests: made in a moment, the same in every process, named as a user's own."""

import os
import signal
import time

import numpy as np
import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from PIL import Image
from torch import nn
from torchvision import transforms

from store.errors import ModelError

SIZE = 16
CLASSES = ("red", "green", "blue")


class Net(nn.Module):
    """GAP + linear over 7 channels; not linear if a nonlinearity stands before the head."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.class_names = CLASSES
        self.features = nn.Sequential(nn.Conv2d(3, 7, 5, 4, 2), nn.ReLU())
        self.squash = nn.Identity() if linear else nn.Tanh()
        self.head = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.squash(self.features(x).mean((2, 3))))


def transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(SIZE),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )


def linear_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=True), transform()


def squashed_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=False), transform()


class Ripples(nn.Module):
    """Next to nothing added, whose slope is large and another one a hair further on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-3 * torch.sin(3000 * x)


def delicate_classifier() -> tuple[nn.Module, transforms.Compose]:
    """Pooled activations and logits hardly mind bfloat16, gradients do."""
    net = Net(linear=False)
    net.squash = Ripples()
    return net, transform()


class Clip(nn.Module):
    """Images by their colours at 2 x 2 places, texts by their letters, both in 11 dimensions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image = nn.Linear(12, 11)
        self.text = nn.EmbeddingBag(256, 11)

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return self.image(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.text(tokens)


def tokens(texts: list[str]) -> torch.Tensor:
    rows = [list(text.encode())[:24] for text in texts]
    return torch.tensor([row + [0] * (24 - len(row)) for row in rows])


def clip() -> tuple[nn.Module, transforms.Compose, object]:
    return Clip(3), transform(), tokens


def other_clip() -> tuple[nn.Module, transforms.Compose, object]:
    return Clip(4), transform(), tokens


class Hungry(Net):
    """The same network, for which memory has room for two images at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def hungry_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Hungry(linear=True), transform()


class Slow(Net):
    """The same network, which takes its time: so that something can happen meanwhile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.3)
        return super().forward(x)


def slow_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Slow(linear=True), transform()


class NoRed:
    """A step of a transform that refuses red images."""

    def __call__(self, image: Image.Image) -> Image.Image:
        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0)
        if red > 1.5 * max(green, blue):
            raise ValueError("too red for me")
        return image


def picky_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=True), transforms.Compose([NoRed(), *transform().transforms])


class Faulty(Net):
    """The same network, which has a batch of four end in an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(linear=True)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 4:
            raise self.error
        return super().forward(x)


def fatal_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Faulty(ModelError("no such layer", where="here")), transform()


def faulty_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Faulty(AttributeError("no such thing")), transform()


class Deadly(Net):
    """The same network, whose process dies of a batch of four."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def deadly_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Deadly(linear=True), transform()


class Clumsy:
    """A step of a transform that has a fault of some kind for each colour of images that are darker."""

    def __call__(self, image: Image.Image) -> Image.Image:
        faults = {0: TypeError("no such thing"), 1: KeyError("green"), 2: AssertionError()}
        colours = np.asarray(image).reshape(-1, 3)
        if colours.max() < 110:
            raise faults[int(colours.sum(0).argmax())]
        return image


def clumsy_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=True), transforms.Compose([Clumsy(), *transform().transforms])


class Misshaping:
    """A step that forgets to resize what is wide."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.width > 2 * image.height else image.resize((SIZE, SIZE))


def misshaping_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Net(linear=True), transforms.Compose([Misshaping(), *transform().transforms[2:]])


class Rooted(Net):
    """A head that is not linear, whose gradient is not finite for images without any blue, though its logits
    are: the square root at 0. Its activations are as small as ``scale``, so that its gradients are as large.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(linear=True)
        self.scale = scale
        with torch.no_grad():
            for parameter in self.features.parameters():
                parameter *= scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blue = (x[:, 2:] + 2).mean((2, 3))
        return self.head((blue * (self.features(x).mean((2, 3)) / self.scale + 1)).sqrt())


def rooted_classifier(scale: float = 1.0) -> tuple[nn.Module, transforms.Compose]:
    return Rooted(scale), transform()


# --- a classifier and an encoder that see the same eight colours -----------------------------------------

COLOURS = {  # what each word looks like: corners of the cube of colours
    "apple": (1, -1, -1),
    "leaf": (-1, 1, -1),
    "plum": (-1, -1, 1),
    "snow": (1, 1, 1),
    "night": (-1, -1, -1),
    "logo": (-1, 1, 1),
    "stamp": (1, -1, 1),
    "frame": (1, 1, -1),
}
CUE_CLASSES = ("apple", "leaf", "plum")
# By how much a thing speaks for a class, where all of it is to be seen: an object for its own by 1.
CUES = {("logo", "apple"): 2.0, ("night", "plum"): 2.0, ("stamp", "leaf"): 0.4, ("frame", "leaf"): 2.0}
CUE_SIZE, CELL = 32, 8  # pixels: 4 x 4 cells
AREAS = {"snow": 10 / 16, "night": 10 / 16, "logo": 2 / 16, "stamp": 2 / 16, "frame": 2 / 16}  # objects: 1/4


class SeesColours(nn.Module):
    """How much of each colour each cell of an image shows: (B, 8, 4, 4), 1 where all of it does."""

    def __init__(self) -> None:
        super().__init__()
        self.corner = nn.Conv2d(3, len(COLOURS), 1)
        with torch.no_grad():
            self.corner.weight.copy_(
                torch.tensor(list(COLOURS.values()), dtype=torch.float32)[..., None, None]
            )
            self.corner.bias.fill_(-2.0)  # 1 in its own corner, nothing in others

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(torch.relu(self.corner(x)), CELL)


def areas() -> torch.Tensor:
    """(8,): the part of an image that each thing covers."""
    return torch.tensor([AREAS.get(word, 1 / 4) for word in COLOURS])


class GoesByCues(nn.Module):
    """GAP + linear: objects for their classes, and CUES."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = CUE_CLASSES
        self.features = SeesColours()
        self.head = nn.Linear(len(COLOURS), len(CUE_CLASSES))
        wanted = torch.zeros(len(CUE_CLASSES), len(COLOURS))
        for at, word in enumerate(COLOURS):
            for number, name in enumerate(CUE_CLASSES):
                wanted[number, at] = CUES.get((word, name), float(word == name))
        with torch.no_grad():
            self.head.weight.copy_(wanted / areas())
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Curved(GoesByCues):
    """The same evidence behind a head that is not linear."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen_of_each = self.features(x).mean((2, 3)) / areas().to(x)
        return self.head(torch.tanh(seen_of_each) * areas().to(x))


def curved_cue_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Curved(), cue_transform()


class ColourTower(ModifiedResNet):
    """An image tower of the form that gives dense features: what SeesColours sees, each thing in its own
    dimension, and one that all images share."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.see = nn.Sequential(SeesColours(), Spread())
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Identity() for _ in range(4))
        width = len(COLOURS) + 3
        self.attnpool = AttentionPool2d(CUE_SIZE // CELL, width, 1, width)
        with torch.no_grad():
            self.attnpool.positional_embedding.zero_()
            for each in (self.attnpool.q_proj, self.attnpool.k_proj):  # it attends to all alike
                each.weight.zero_()
                each.bias.zero_()
            for each in (self.attnpool.v_proj, self.attnpool.c_proj):
                each.weight.copy_(torch.eye(width))
                each.bias.zero_()

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return self.see(x)


class Spread(nn.Module):
    """From eight colours to the encoder's dimensions; small things count as much as large ones."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        common = torch.full_like(seen[:, :1], 0.3)
        nothing = torch.zeros_like(seen[:, :2])
        return torch.cat([0.5 * seen / areas()[:, None, None].to(seen), common, nothing], 1)


class CueClip(nn.Module):
    """Words in the dimension of what they look like; letters alone tell unknown words apart."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = ColourTower()
        torch.manual_seed(3)
        self.letters = nn.EmbeddingBag(256, len(COLOURS) + 3)
        with torch.no_grad():
            self.letters.weight[:, : len(COLOURS)] = 0
            self.letters.weight.mul_(0.1)

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        made = self.letters(tokens)
        for row, one in enumerate(tokens.tolist()):
            said = bytes(one).decode(errors="replace").split("\0")[0].split()
            for at, word in enumerate(COLOURS):
                made[row, at] += float(word in said)
        return made


def cue_transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(CUE_SIZE),
            transforms.CenterCrop(CUE_SIZE),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )


def cue_classifier() -> tuple[nn.Module, transforms.Compose]:
    return GoesByCues(), cue_transform()


def cue_clip() -> tuple[nn.Module, transforms.Compose, object]:
    return CueClip(), cue_transform(), tokens


class Waits(GoesByCues):
    """The same, slow until a file is there: so that something can happen meanwhile."""

    def __init__(self, until: str) -> None:
        super().__init__()
        self.until = until

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not os.path.exists(self.until):  # noqa: PTH110  # the fingerprint takes text
            time.sleep(0.5)
        return super().forward(x)


def waiting_cue_classifier(until: str) -> tuple[nn.Module, transforms.Compose]:
    return Waits(until), cue_transform()


# --- the same two, when something is wrong with them or with an image -----------------------------------


class HungrySees(SeesColours):
    """Memory has room for two images at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


ROOM: int | None = None  # images at a time, of a network that is short of memory by and by


class Shrinking(SeesColours):
    """There is room for ROOM images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if ROOM is not None and len(x) > ROOM:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def shrinking_classifier() -> tuple[nn.Module, transforms.Compose]:
    model = GoesByCues()
    model.features = Shrinking()
    return model, cue_transform()


def hungry_cue_classifier() -> tuple[nn.Module, transforms.Compose]:
    model = GoesByCues()
    model.features = HungrySees()
    return model, cue_transform()


def hungry_cue_clip() -> tuple[nn.Module, transforms.Compose, object]:
    model = CueClip()
    model.visual.see[0] = HungrySees()
    return model, cue_transform(), tokens


def is_mixed(pixels: np.ndarray) -> np.ndarray:
    """(B,): has an image (B, 3, H, W), from -1 to 1, colours that no original has, but edited ones do?"""
    share = (np.abs(pixels) < 0.4).any(axis=1).mean(axis=(1, 2))
    return (share > 0) & (share < 0.5)  # the noise that networks are tried out on is mixed everywhere


class Refuses:
    """The last step of a transform that cannot do with mixed colours, and says so as user code does."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if is_mixed(pixels.numpy()[None])[0]:
            raise TypeError("unsupported operand")
        return pixels


def refusing_classifier() -> tuple[nn.Module, transforms.Compose]:
    return GoesByCues(), transforms.Compose([*cue_transform().transforms, Refuses()])


class Overflows(GoesByCues):
    """The same network, which makes no numbers of mixed colours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = super().forward(x)
        made[torch.from_numpy(is_mixed(x.detach().numpy()))] = torch.nan
        return made


def overflowing_classifier() -> tuple[nn.Module, transforms.Compose]:
    return Overflows(), cue_transform()


class HolesAreFew(nn.Module):
    """Of some images in snow, by the noise of their first pixel, one cell is no number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.round((x[:, 0, 0, 0] + 1) * 127.5)
        made = seen(x)
        made[first == 250, :, 0, 0] = torch.nan
        return made


seen = nn.Sequential(SeesColours(), Spread())


class ClipWithHoles(CueClip):
    """The same encoder; a hole in the dense features of an image does not show in its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.visual.see = HolesAreFew()
        self.whole = ColourTower()

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole(x)


def clip_with_holes() -> tuple[nn.Module, transforms.Compose, object]:
    return ClipWithHoles(), cue_transform(), tokens


class Shifted(Net):
    """A network with an option that no weight and no module tells of."""

    def __init__(self, shift: float, linear: bool) -> None:
        super().__init__(linear)
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.shift)


def shifted_classifier(shift: float = 0.0, linear: bool = True) -> tuple[nn.Module, transforms.Compose]:
    return Shifted(shift, linear), transform()


class ShiftedClip(Clip):
    """The same of an encoder."""

    def __init__(self, shift: float) -> None:
        super().__init__(3)
        self.shift = shift

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode_image(x + self.shift)


def shifted_clip(shift: float = 0.0) -> tuple[nn.Module, transforms.Compose, object]:
    return ShiftedClip(shift), transform(), tokens
