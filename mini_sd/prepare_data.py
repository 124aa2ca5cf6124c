"""Renders the miniature's artwork: python -m mini_sd.prepare_data [--icons DIR] [--out DIR]

Takes the icon sets from npm (pinned versions), renders them with resvg on white at 128 px, and writes
`art.npz`: images (N, 128, 128, 3) uint8, icon names, icon sets.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np

# noto-v1 and fxemoji are drawn by other hands and serve only to test the judge on artwork it never saw.
PACKAGES = {
    "twemoji": "1.2.5",
    "noto": "1.2.9",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "noto-v1": "1.2.5",
    "fxemoji": "1.2.2",
}
SIZE = 128
# Country flags, clock faces, keycaps and skin-tone variants teach neither the VAE nor the judge anything new.
SKIPPED_WORDS = ("flag", "skin", "clock", "keycap", "button", "thirty", "dark", "light", "medium", "arrow")


def fetch_icons(folder: Path) -> Path:
    """Installs the icon packages from npm into `folder` and returns the folder that holds them."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = [f"@iconify-json/{name}@{version}" for name, version in PACKAGES.items()]
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *specs], check=True)
    return folder / "node_modules" / "@iconify-json"


def render(body: str, width: float, height: float) -> np.ndarray:
    """Renders one SVG body to (128, 128, 3) uint8 on white, with a margin of 4 px."""
    import io

    import resvg_py
    from PIL import Image

    m = width * 4 / (SIZE - 8)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" height="{SIZE}" '
        f'viewBox="{-m} {-m} {width + 2 * m} {height + 2 * m}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white", width=SIZE, height=SIZE))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def set_names(data: dict) -> dict[str, dict]:
    """Icons by name, plain aliases resolved."""
    icons = dict(data["icons"])
    for alias, entry in data.get("aliases", {}).items():
        if entry["parent"] in data["icons"] and set(entry) == {"parent"}:
            icons.setdefault(alias, data["icons"][entry["parent"]])
    return icons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--icons", type=Path, help="folder with the @iconify-json packages (default: fetched from npm)")
    parser.add_argument("--out", type=Path, default=Path("out/mini_sd"))
    args = parser.parse_args()
    source = args.icons or fetch_icons(args.out / "icons")
    args.out.mkdir(parents=True, exist_ok=True)

    from mini_sd.concepts import CONCEPTS

    wanted = {icon for c in CONCEPTS for icon in c.icons}
    images, names, sets, seen = [], [], [], set()
    for package in PACKAGES:
        data = json.loads((source / package / "icons.json").read_text())
        size = data.get("width", 16), data.get("height", 16)
        for name, icon in sorted(set_names(data).items()):
            key = (package, icon["body"])
            if name not in wanted and (key in seen or any(w in name.split("-") for w in SKIPPED_WORDS)):
                continue
            seen.add(key)
            images.append(render(icon["body"], icon.get("width", size[0]), icon.get("height", size[1])))
            names.append(name)
            sets.append(package)
        print(f"{package}: {sets.count(package)} images", flush=True)
    np.savez_compressed(args.out / "art.npz", images=np.stack(images), names=np.array(names), sets=np.array(sets))


if __name__ == "__main__":
    main()
