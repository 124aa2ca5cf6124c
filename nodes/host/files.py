"""Where the host keeps patches, embeddings, presets and temporary files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...fmn_core.errors import ForgetError

PATCH_FOLDER = "forget_me_not"
IMAGE_TEXT_FOLDER = "clip_score"
folder_paths.add_model_folder_path(IMAGE_TEXT_FOLDER, str(Path(folder_paths.models_dir) / IMAGE_TEXT_FOLDER))


def patch_root() -> Path:
    """models/loras/forget_me_not: under the host's LoRA folder, so that the stock loaders list the patches too."""
    return Path(folder_paths.get_folder_paths("loras")[0]) / PATCH_FOLDER


def patch_files() -> list[str]:
    """Names of the patches that the stock loader would list below forget_me_not/."""
    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list("loras"))
    return sorted(name for name in names if name.startswith(PATCH_FOLDER + "/"))


def patch_path(name: str) -> Path:
    """Full path of a listed patch; raises ForgetError when the host does not know it."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise ForgetError(
            f"Expected a patch file from the list, {name!r} is not there. Refresh the list or train the patch first."
        )
    return Path(path)


def file_version(path: Path) -> str:
    """What changes whenever a file does, even one put in its place within a tick of the clock; raises OSError when there is none."""
    status = path.stat()
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {status.st_ino}"


def embedding_files() -> list[str]:
    """Names of all files in the host's embeddings folders."""
    return sorted(folder_paths.get_filename_list("embeddings"))


def embedding_path(name: str) -> Path:
    """Full path of a listed embedding; raises ForgetError when the host does not know it."""
    path = folder_paths.get_full_path("embeddings", name) if name in embedding_files() else None
    if path is None:
        raise ForgetError(
            f"Expected an embedding from the list, {name!r} is not there. Refresh the list or put it into models/embeddings."
        )
    return Path(path)


def preset_folder() -> Path:
    """The user's own folder of presets; it need not exist."""
    return Path(folder_paths.get_user_directory()) / "default" / PATCH_FOLDER / "presets"


def image_text_folders() -> dict[str, Path]:
    """Folders of image-text models for transformers, by name: those below models/clip_score that have a config.json."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(IMAGE_TEXT_FOLDER)]
    found = {path.parent.name: path.parent for root in roots for path in root.glob("*/config.json")}
    return dict(sorted(found.items()))


def output_name(prefix: str, width: int, height: int) -> tuple[Path, str, int]:
    """Folder, name and first free number of what a prefix means to the host, as for the stock Save Image.

    Makes the folder. Raises ForgetError on a prefix outside the output folder, and OSError or ValueError where there can be no such folder.
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


def forget_file_lists() -> None:
    """Makes a file that was just written appear in the host's lists."""
    for folder in ("loras", "embeddings"):
        folder_paths.filename_list_cache.pop(folder, None)


def embedding_root() -> Path:
    """models/embeddings: where prompts find embedding:NAME."""
    return Path(folder_paths.get_folder_paths("embeddings")[0])
