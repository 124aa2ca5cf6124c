"""The sizes of the miniature FLUX's networks, and where its training keeps its files."""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = json.loads((HERE / "config.json").read_text())
# Artwork, latents and checkpoints of the training.
DATA = Path("out/mini_flux")
