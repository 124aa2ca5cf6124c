"""Folders of image-text models that cannot be used."""

import pytest
from forget_me_not.nodes.loaders.load_image_text import LoadImageTextModel
from inprocess.random_clip import clip_folder, run

from fmn_core.errors import ForgetError


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "weights as \\*.safetensors in small"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 64), "small does not"),
        (lambda folder: (folder / "config.json").write_text("[]"), "that names its model_type"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "an image-text model .* got 'bert'",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": {}}'), "an image-text model"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "small does not"),
    ],
)
def test_folders_that_cannot_be_used(folders, spoil, message):
    clip_folder(folders / "small")
    spoil(folders / "small")
    with pytest.raises(ForgetError, match=message):
        run(LoadImageTextModel, model_name="small")


def test_a_folder_that_is_gone(folders):
    with pytest.raises(ForgetError, match="'small' is not there"):
        run(LoadImageTextModel, model_name="small")
