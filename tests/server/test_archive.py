"""The archive that the registry hands out: small, without what only development needs, and a working pack."""

import re
import subprocess
import zipfile
from urllib.parse import quote

import pytest
from prompts import ZEBRA, miniature, pictures, sampled

from tools.comfy_host import REPOSITORY
from tools.comfy_server import PACK_FOLDER, ComfyServer

LARGEST = 42_000_000
LEFT_OUT = ("tests/", "bench/", "docs/", "tools/", ".github/", ".ci/")
NEEDED = {
    "__init__.py",
    "pyproject.toml",
    "LICENSE",
    "mini_sd/LICENSES.md",
    "mini_sd/weights/mini_sd.safetensors",
    "mini_sd/weights/clip.safetensors",
}


def listed(*options: str) -> set[str]:
    """Files that git lists, those included that are still to be added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", *options]
    return set(subprocess.check_output(command, cwd=REPOSITORY, text=True).split("\0")) - {""}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Packed as comfy-cli does it: what git knows, without what .comfyignore names."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git repository, so nothing says what the archive would hold")
    files = listed("--exclude-standard") - listed("--ignored", "--exclude-from=.comfyignore")
    path = tmp_path_factory.mktemp("archive") / "node.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(files):
            if (REPOSITORY / name).is_file():
                packed.write(REPOSITORY / name, name)
    return path


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory):
    """A server whose custom_nodes holds the unpacked archive and nothing of the repository."""
    base = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "custom_nodes" / PACK_FOLDER)
    with ComfyServer(base) as running:
        yield running


def test_the_archive_is_small_and_holds_what_a_running_pack_needs(archive):
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
    assert archive.stat().st_size <= LARGEST
    assert names >= NEEDED
    assert [n for n in names if n.startswith(LEFT_OUT)] == []
    assert [n for n in names if n.startswith("mini_sd/") and n.endswith(".py")] == ["mini_sd/image_text.py"]


def test_the_unpacked_archive_has_every_node_help_page_and_workflow(installed):
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "nodes").rglob("*.py")]
    nodes = {name for source in sources for name in re.findall(r'node_id="(FMN_\w+)"', source)}
    assert nodes and {name for name in installed.object_info() if name.startswith("FMN_")} == nodes
    for page in (REPOSITORY / "js" / "docs").glob("*.md"):
        assert installed.get(f"/extensions/{PACK_FOLDER}/docs/{page.name}") == page.read_bytes()
    for workflow in (REPOSITORY / "workflows").glob("*.*"):
        served = installed.get(f"/api/workflow_templates/{PACK_FOLDER}/{quote(workflow.name)}")
        assert served == workflow.read_bytes()


def test_the_unpacked_miniature_draws(installed):
    outputs = installed.run(miniature() | sampled("a", ["mini", 0], ZEBRA, steps=2))
    picture = pictures(installed, outputs, "a")
    assert picture.shape == (1, 128, 128, 3) and picture.float().std() > 1
