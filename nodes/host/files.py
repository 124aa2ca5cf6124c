"""Folders and files of the host: patches, embeddings, presets, image-text models and output."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...fmn_core.errors import ForgetError

PATCH_FOLDER = "forget_me_not"
# Input of the stock loaders, which other packs' loaders name alike -> the host's folder of its files.
_MODEL_FOLDERS = {"ckpt_name": "checkpoints", "unet_name": "diffusion_models"}
IMAGE_TEXT_FOLDER = "clip_score"
folder_paths.add_model_folder_path(IMAGE_TEXT_FOLDER, str(Path(folder_paths.models_dir) / IMAGE_TEXT_FOLDER))


def patch_root() -> Path:
    """The folder models/loras/forget_me_not, which lies in the host's LoRA folder so that stock loaders list patches too."""
    return Path(folder_paths.get_folder_paths("loras")[0]) / PATCH_FOLDER


def patch_files() -> list[str]:
    """Lists the patches below forget_me_not/ by the names that the stock LoRA loader has for them."""
    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list("loras"))
    return sorted(name for name in names if name.startswith(PATCH_FOLDER + "/"))


def patch_path(name: str) -> Path:
    """Full path of a listed patch; raises ForgetError when the host has no such file."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise ForgetError(
            f"Expected a patch file from the list, {name!r} is not there. Refresh the list or train the patch first."
        )
    return Path(path)


def file_version(path: Path) -> str:
    """Times, size and inode of a file, which change whenever the file does, even within the resolution of the clock.

    Raises
    ------
    OSError
        There is no such file.
    """
    status = path.stat()
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {status.st_ino}"


def model_file(loader: str, name: str) -> Path | None:
    """Full path of the file that a loader has in its input `loader`; None where the host lists no such file."""
    folder = _MODEL_FOLDERS.get(loader)
    if folder is None or name not in folder_paths.get_filename_list(folder):
        return None
    path = folder_paths.get_full_path(folder, name)
    return None if path is None else Path(path)


def embedding_root() -> Path:
    """The folder models/embeddings, where the host looks up embedding:NAME of a prompt."""
    return Path(folder_paths.get_folder_paths("embeddings")[0])


def embedding_files() -> list[str]:
    """Lists the names of all files in the host's embeddings folders."""
    return sorted(folder_paths.get_filename_list("embeddings"))


def embedding_path(name: str) -> Path:
    """Full path of a listed embedding; raises ForgetError when the host has no such file."""
    path = folder_paths.get_full_path("embeddings", name) if name in embedding_files() else None
    if path is None:
        raise ForgetError(
            f"Expected an embedding from the list, {name!r} is not there. Refresh the list or put it into models/embeddings."
        )
    return Path(path)


def preset_folder() -> Path:
    """The user's own folder of presets, which need not exist."""
    return Path(folder_paths.get_user_directory()) / "default" / PATCH_FOLDER / "presets"


def image_text_folders() -> dict[str, Path]:
    """Folders below models/clip_score that hold an image-text model for transformers (a config.json), by name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(IMAGE_TEXT_FOLDER)]
    folders = {path.parent.name: path.parent for root in roots for path in root.glob("*/config.json")}
    return dict(sorted(folders.items()))


def output_file_name(prefix: str, width: int, height: int) -> tuple[Path, str, int]:
    """Resolves a filename prefix as the stock Save Image does, and creates the folder.

    Returns
    -------
    The folder, the name in it, and the first number that is free.

    Raises
    ------
    ForgetError
        The prefix leads outside of the output folder.
    OSError, ValueError
        The folder cannot be created.
    """
    root = folder_paths.get_output_directory()
    try:
        folder, name, number, *_ = folder_paths.get_save_image_path(prefix, root, width, height)
    except (OSError, UnicodeError):
        raise
    except Exception as error:  # the host raises no narrower one
        raise ForgetError(
            f"Expected a filename_prefix inside the output folder, got {prefix!r}. Type a name, or folder/name."
        ) from error
    return Path(folder), name.replace("%batch_num%", "0"), number


def clear_file_lists() -> None:
    """Clears the host's cached lists of LoRAs and embeddings, so that a new file appears in them."""
    for folder in ("loras", "embeddings"):
        folder_paths.filename_list_cache.pop(folder, None)
