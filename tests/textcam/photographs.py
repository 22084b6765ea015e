"""Pictures with smooth areas, edges and noise, of any shape: enough for transforms to differ on."""

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ((320, 240), (241, 307), (97, 501), (64, 64))


def photograph(width, height, seed=0):
    generator = np.random.default_rng(seed)
    ramp = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    draw = ImageDraw.Draw(ramp)
    for _ in range(9):
        x, y = generator.integers(0, width), generator.integers(0, height)
        color = tuple(int(c) for c in generator.integers(0, 256, 3))
        draw.ellipse((x, y, x + width // 5, y + height // 7), fill=color)
    noise = generator.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(ramp) + noise, 0, 255).astype(np.uint8))


def photographs():
    return [photograph(width, height, seed) for seed, (width, height) in enumerate(SHAPES)]
