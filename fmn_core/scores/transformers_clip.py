"""Image-text models that transformers loads from a local folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import ForgetError

CONFIG = "config.json"
BATCH = 16
KINDS = ("clip", "siglip", "siglip2", "chinese_clip", "align", "altclip")


class TransformersClip:
    """An ImageTextModel (scores/clip_score.py) from a local folder.

    Parameters
    ----------
    folder
        Folder with config.json, safetensors weights, and the files of the tokenizer and the image processor. Nothing is downloaded, and
        no code in the folder is run.

    Raises
    ------
    ForgetError
        When a file is missing, and on another kind of model.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu"):
        folder = Path(folder)
        _check_folder(folder)
        self.name, self.device = folder.name, torch.device(device)
        self.model, self.tokenizer, self.processor = _load(folder)
        self.model.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes pictures (B, H, W, 3) in 0..1 to features of length 1, (B, D)."""
        features = []
        for batch in images[..., :3].float().cpu().clamp(0, 1).split(BATCH):
            pixels = self.processor(images=list(batch.movedim(-1, 1)), do_rescale=False, return_tensors="pt")
            features.append(
                self._unit(self.model.get_image_features(pixel_values=pixels["pixel_values"].to(self.device)))
            )
        return torch.cat(features)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> torch.Tensor:
        """Encodes texts to features of length 1, (N, D); texts are cut off at the model's longest input."""
        longest = self.model.config.text_config.max_position_embeddings
        features = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            tokens = self.tokenizer(
                batch, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
            )
            inputs = {k: v.to(self.device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
            features.append(self._unit(self.model.get_text_features(**inputs)))
        return torch.cat(features)

    @staticmethod
    def _unit(features: Any) -> torch.Tensor:
        # Newer versions of transformers give an output object in place of the tensor.
        tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
        return torch.nn.functional.normalize(tensor.float(), dim=-1).cpu()


def _check_folder(folder: Path) -> None:
    """Raises ForgetError unless the folder has a known configuration and safetensors weights."""
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ForgetError(
            f"Expected a folder with a {CONFIG} that names its model_type, got {folder.name!r}. "
            "Download all files of a CLIP for transformers into it."
        ) from error
    if kind not in KINDS:
        raise ForgetError(
            f"Expected an image-text model ({', '.join(KINDS)}), got {kind!r} in {folder.name}. Choose another."
        )
    if not any(folder.glob("*.safetensors")):
        raise ForgetError(
            f"Expected weights as *.safetensors in {folder.name}, found none; pickles are never opened. Download those."
        )


def _load(folder: Path) -> tuple[Any, Any, Any]:
    """Loads the model, the tokenizer and the image processor of a folder; raises ForgetError when transformers cannot."""
    try:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        return (
            AutoModel.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, trust_remote_code=False
            ),
            AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False),
            AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False),
        )
    except Exception as error:  # transformers raises whatever its readers of files do
        reason = str(error).strip().split("\n")[0][:200]
        raise ForgetError(
            f"Expected a CLIP that transformers can load, but {folder.name} does not ({reason}). Download all of its files again."
        ) from error
