"""Renders the things of the miniature FLUX with transparent surroundings: python -m mini_flux.prepare_art [--icons DIR] [--out DIR]

Takes the icon sets from npm in the versions that mini_sd.prepare_data pins, and writes art.npz: drawings (N, 128, 128, 4) uint8, their
styles and their things.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np

from mini_flux.scenes import SIZE, Artwork
from mini_flux.things import STYLES, THINGS
from mini_sd.prepare_data import fetch_icons, set_names


def render(body: str, width: float, height: float) -> np.ndarray:
    """Renders an SVG body to (128, 128, 4) uint8."""
    import resvg_py
    from PIL import Image

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" height="{SIZE}" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def drawings(source: Path) -> dict[tuple[str, str], np.ndarray]:
    """Every thing in every style whose icon set has it, by (style, thing)."""
    found = {}
    for style, package in STYLES.items():
        data = json.loads((source / package / "icons.json").read_text())
        icons, size = set_names(data), (data.get("width", 16), data.get("height", 16))
        for thing in THINGS:
            icon = next((icons[name] for name in thing.icons if name in icons), None)
            if icon is not None:
                found[style, thing.name] = render(icon["body"], icon.get("width", size[0]), icon.get("height", size[1]))
    return found


def load_artwork(folder: Path) -> Artwork:
    """The artwork that `main` wrote to a folder."""
    data = np.load(folder / "art.npz")
    keys = zip(data["styles"].tolist(), data["things"].tolist(), strict=True)
    return Artwork(dict(zip(keys, data["drawings"], strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, help="folder with the @iconify-json packages (default: fetched from npm)")
    parser.add_argument("--out", type=Path, default=Path("out/mini_flux"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = drawings(args.icons or fetch_icons(args.out / "icons"))
    styles, things = zip(*found)
    np.savez_compressed(args.out / "art.npz", drawings=np.stack(list(found.values())), styles=styles, things=things)
    print(f"{len(found)} drawings of {len(set(things))} things")


if __name__ == "__main__":
    main()
