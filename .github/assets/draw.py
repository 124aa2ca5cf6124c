"""Draws icon.png and banner.png beside itself, a forget-me-not that loses one petal: python .github/assets/draw.py"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

NIGHT, GLOW = (13, 20, 44), (38, 54, 104)
PALE, BLUE, DEEP = (228, 241, 255), (124, 178, 255), (62, 112, 228)
KEPT, LOST = (306, 234, 162, 90), 18  # directions of the petals, in degrees
OVERSAMPLING = 4


def mix(a: tuple, b: tuple | np.ndarray, share: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) from a, where share is 0 or less, to b, where it is 1 or more."""
    return np.asarray(a) + (np.asarray(b) - np.asarray(a)) * share.clip(0, 1)[..., None]


def background(width: int, height: int, light: tuple[float, float]) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - light[0], y - light[1]) / (0.95 * height)
    return Image.fromarray(mix(GLOW, NIGHT, distance**0.8).round().astype(np.uint8)).convert("RGBA")


class Flower:
    def __init__(self, page: Image.Image, centre: tuple[float, float], radius: float):
        self.page, self.centre, self.radius = page, centre, radius
        for degrees in KEPT:
            self.add(self.petal(degrees))
        self.add(self.dissolved(self.petal(LOST)))
        self.heart()

    def petal(self, degrees: float) -> Image.Image:
        """A whole petal on a page of its own: round at its end, narrow at its base."""
        x, y = (grid / self.radius for grid in np.meshgrid(*map(np.arange, self.page.size)))
        x, y, angle = x - self.centre[0] / self.radius, self.centre[1] / self.radius - y, math.radians(degrees)
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        width = 0.43 - 0.17 * (1 - along / 0.62).clip(0, 1)
        notch = 0.025 * np.exp(-((across / 0.1) ** 2))
        inside = ((along + notch - 0.565) / 0.425) ** 2 + (across / width) ** 2 < 1
        shade = ((along - 0.2) / 0.8).clip(0, 1) ** 0.8
        veins = 1 + 0.1 * np.cos(np.arctan2(across, along + 0.25) * 34) * (0.35 - abs(shade - 0.5)).clip(0, 1)
        colour = mix(PALE, mix(BLUE, DEEP, (shade - 0.35) * 1.4), shade * 2.2) * veins[..., None]
        return Image.fromarray(np.dstack([colour, inside * 255]).clip(0, 255).round().astype(np.uint8), "RGBA")

    def add(self, layer: Image.Image) -> None:
        """Puts a layer on the page, with a soft shadow."""
        shadow = Image.new("RGBA", layer.size, (8, 18, 60, 0))
        shadow.putalpha(
            layer.getchannel("A").filter(ImageFilter.GaussianBlur(self.radius / 22)).point(lambda a: a // 2)
        )
        self.page.alpha_composite(shadow)
        self.page.alpha_composite(layer)

    def dissolved(self, petal: Image.Image) -> Image.Image:
        """The petal cut into cells, which come loose, shrink and drift away, more of them the further out they are."""
        chance, loose, cell = random.Random(6), Image.new("RGBA", petal.size), round(self.radius / 15)
        draw, angle = ImageDraw.Draw(loose), math.radians(LOST)
        for left, top in np.ndindex(petal.width // cell, petal.height // cell):
            left, top = left * cell, top * cell
            x, y = left + cell / 2, top + cell / 2
            *colour, alpha = petal.getpixel((int(x), int(y)))
            along = ((x - self.centre[0]) * math.cos(angle) - (y - self.centre[1]) * math.sin(angle)) / self.radius
            gone = min((along - 0.42) / 0.55 + chance.uniform(-0.25, 0.05), 1)
            if gone <= 0:
                continue
            petal.paste((0, 0, 0, 0), (left, top, left + cell, top + cell))
            if not alpha or chance.random() < 0.3 * gone:
                continue
            way, turn = gone**2 * self.radius * chance.uniform(0, 0.55), angle + chance.uniform(-0.4, 0.6)
            x, y, half = x + way * math.cos(turn), y - way * math.sin(turn), cell / 2 * (0.96 - 0.5 * gone)
            draw.rectangle((x - half, y - half, x + half, y + half), fill=(*colour, round(255 - 120 * gone)))
        loose.alpha_composite(petal)
        return loose

    def heart(self) -> None:
        """The white star between the petals and the yellow centre on it."""
        draw, (x, y) = ImageDraw.Draw(self.page), self.centre
        corners = [(90 - 36 * k, self.radius * (0.2, 0.34)[k % 2]) for k in range(10)]
        points = [(x + r * math.cos(math.radians(d)), y - r * math.sin(math.radians(d))) for d, r in corners]
        draw.polygon(points, fill=(246, 250, 255))
        for share, colour in ((0.2, (222, 146, 22)), (0.175, (255, 207, 58)), (0.07, (192, 108, 16))):
            draw.circle((x, y), self.radius * share, fill=colour)


def icon(side: int = 400) -> Image.Image:
    big = side * OVERSAMPLING
    page = background(big, big, (big * 0.47, big * 0.53))
    Flower(page, (big * 0.465, big * 0.525), big * 0.43)
    corners = Image.new("L", page.size)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, big - 1, big - 1), big * 0.18, fill=255)
    page.putalpha(corners)
    return page.resize((side, side), Image.Resampling.LANCZOS)


def banner(width: int = 1260, height: int = 540) -> Image.Image:
    w, h = width * OVERSAMPLING, height * OVERSAMPLING
    page = background(w, h, (w * 0.22, h * 0.5))
    Flower(page, (w * 0.215, h * 0.52), h * 0.41)
    lines = (
        ("Forget-Me-Not", 0.5, 0.16, (240, 246, 255)),
        ("makes a Stable Diffusion model", 0.625, 0.065, (164, 193, 242)),
        ("forget a concept", 0.715, 0.065, (164, 193, 242)),
    )
    for text, y, size, colour in lines:
        font = ImageFont.load_default(h * size)
        ImageDraw.Draw(page).text((w * 0.475, h * y), text, colour, font, anchor="ls")
    return page.resize((width, height), Image.Resampling.LANCZOS).convert("RGB")


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    icon().save(folder / "icon.png", optimize=True)
    banner().save(folder / "banner.png", optimize=True)
