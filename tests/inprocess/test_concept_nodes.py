"""Concept, Concept Preset and embedding files on the host's own objects, inside this process."""

import os

import pytest
import torch
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.concepts.concept import ConceptNode
from forget_me_not.nodes.concepts.concept_preset import ConceptPreset
from forget_me_not.nodes.host import MiniatureTokenizer

from fmn_core.concepts import embedding_file
from fmn_core.concepts.concept import check_concepts
from fmn_core.errors import ForgetError


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    """The host's folder of embeddings, empty."""
    import folder_paths

    extensions = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], extensions))
    folder_paths.filename_list_cache.pop("embeddings", None)
    yield tmp_path
    folder_paths.filename_list_cache.pop("embeddings", None)


@pytest.fixture
def make():
    def run(**changes):
        inputs = {"phrases": "zebra", "kind": "object", "end_token": "first", "embedding": "none"}
        with torch.inference_mode():
            return ConceptNode.execute(**inputs | changes).args[0]

    return run


def pictures(count=2, channels=3, size=(16, 24)):
    """As nodes of the host give them: inference tensors."""
    with torch.inference_mode():
        return torch.rand(count, *size, channels, generator=torch.Generator().manual_seed(0))


def vectors(count=3, width=96):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def test_the_hosts_tokenizer_reads_exactly_the_saved_vectors(embeddings):
    word = {"l": vectors()}
    embedding_file.save_embedding(embedding_file.Embedding(word, "zebra"), embeddings / "ti-zebra_1.safetensors")
    tokenizer = MiniatureTokenizer(embedding_directory=[str(embeddings)])
    tokens = tokenizer.tokenize_with_weights("a picture of embedding:ti-zebra_1, in noto style")[0]
    found = [t[0] for t in tokens if not isinstance(t[0], int)]
    assert torch.equal(torch.stack(found), word["l"])
    assert [i for i, t in enumerate(tokens) if not isinstance(t[0], int)] == [4, 5, 6] and len(tokens) == 77


@pytest.mark.parametrize(
    ("tokenizer", "encoder", "width"),
    [("sd1_clip.SDTokenizer", "l", 768), ("text_encoders.sd2_clip.SD2ClipHTokenizer", "h", 1024)],
)
def test_embeddings_of_one_encoder_in_the_hosts_full_size_tokenizers(tmp_path, tokenizer, encoder, width):
    import importlib

    module, name = tokenizer.rsplit(".", 1)
    word = {encoder: vectors(2, width)}
    embedding_file.save_embedding(embedding_file.Embedding(word), tmp_path / "cat.safetensors")
    full = getattr(importlib.import_module(f"comfy.{module}"), name)(embedding_directory=str(tmp_path))
    found = [t[0] for t in full.tokenize_with_weights("embedding:cat")[0] if not isinstance(t[0], int)]
    assert torch.equal(torch.stack(found), word[encoder])


def test_sdxl_embeddings_give_each_encoder_its_own_vectors(tmp_path):
    from comfy.sdxl_clip import SDXLTokenizer

    word = {"l": vectors(2, 768), "g": vectors(2, 1280)}
    embedding_file.save_embedding(embedding_file.Embedding(word), tmp_path / "cat.safetensors")
    tokens = SDXLTokenizer(embedding_directory=str(tmp_path)).tokenize_with_weights("embedding:cat")
    for encoder in "lg":
        found = [t[0] for t in tokens[encoder][0] if not isinstance(t[0], int)]
        assert torch.equal(torch.stack(found), word[encoder])


def test_concept_holds_what_the_boxes_say(make):
    images = pictures(channels=4)
    (concept,) = make(
        phrases="zebra\n striped horse \n",
        kind="style",
        end_token="all",
        templates="a {}",
        images=images,
        mask=torch.ones(1, 9, 30),
    )
    assert (concept.phrases, concept.kind, concept.end_token) == (["zebra", "striped horse"], "style", "all")
    assert concept.templates == ["a {}"] and concept.embedding is None
    assert torch.equal(concept.images, images[..., :3]) and concept.masks.shape == (1, 9, 30)


def test_references_can_take_part_in_autograd(make, embeddings):
    embedding_file.save_embedding(embedding_file.Embedding({"l": vectors()}), embeddings / "z.safetensors")
    with torch.inference_mode():
        mask = torch.rand(2, 16, 24)
    (concept,) = make(images=pictures(), mask=mask, embedding="z.safetensors")
    assert torch.equal(concept.embedding["l"], vectors())
    x = torch.ones((), requires_grad=True)
    (x * concept.images.sum() + (x * concept.masks).sum() + (x * concept.embedding["l"]).sum()).backward()
    assert x.grad.isfinite()


def test_the_users_images_and_masks_are_not_changed(make):
    images, mask = pictures() * 3 - 1, pictures()[..., 0] * 3 - 1
    before = images.clone(), mask.clone()
    (concept,) = make(images=images, mask=mask)
    for tensor, old, own in zip((images, mask), before, (concept.images, concept.masks)):
        assert torch.equal(tensor, old) and own.min() >= 0 and own.max() <= 1
        assert own.data_ptr() != tensor.data_ptr()


def test_an_embedding_alone_is_a_concept(make, embeddings, miniature):
    embedding_file.save_embedding(embedding_file.Embedding({"l": vectors()}), embeddings / "z.safetensors")
    chain = make(phrases=" \n", embedding="z.safetensors")
    assert chain[0].phrases == [] and len(chain[0].names()) == 1
    with torch.inference_mode():
        check_concepts(ComfyModel(*miniature[:2]), chain)


def test_embedding_of_another_model_is_refused_before_the_training(make, embeddings, miniature):
    embedding_file.save_embedding(embedding_file.Embedding({"l": vectors(2, 768)}), embeddings / "z.safetensors")
    chain = make(embedding="z.safetensors")
    with torch.inference_mode(), pytest.raises(ForgetError, match=r"text encoders \{'l': 96\}"):
        check_concepts(ComfyModel(*miniature[:2]), chain)


def test_a_chain_keeps_the_order_and_leaves_the_earlier_chain_alone(make):
    first = make(phrases="zebra")
    second = make(phrases="dog\nhound", previous=first)
    preset, listing = ConceptPreset.execute(preset="violence", previous=second).args
    assert [c.phrases[0] for c in preset] == ["zebra", "dog", "violence", "blood"] and len(first) == 1
    assert listing.startswith("violence: ") and "- unsafe: blood, bloody" in listing


def test_all_shipped_presets_go_into_one_chain():
    chain = None
    for name in ("drugs", "hate_symbols", "nudity", "self_harm", "violence"):
        chain = ConceptPreset.execute(preset=name, previous=chain).args[0]
    assert len(chain) == 10


def test_the_users_presets_are_found_in_the_hosts_user_folder(monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    folder = tmp_path / "default" / "forget_me_not" / "presets"
    folder.mkdir(parents=True)
    (folder / "guns.json").write_text('{"concepts": [{"phrases": ["gun"]}]}')
    node = ConceptPreset
    assert "guns" in node.INPUT_TYPES()["required"]["preset"][1]["options"]
    before = node.fingerprint_inputs(preset="guns")
    assert node.execute(preset="guns").args[0][0].phrases == ["gun"]
    (folder / "nudity.json").write_text('{"concepts": [{"phrases": ["nude"]}]}')
    assert [c.phrases for c in node.execute(preset="nudity").args[0]] == [["nude"]]
    os.utime(folder / "guns.json", ns=(1, 1))
    assert node.fingerprint_inputs(preset="guns") != before


def test_a_changed_embedding_file_is_read_again(embeddings):
    file, node = embeddings / "z.safetensors", ConceptNode
    embedding_file.save_embedding(embedding_file.Embedding({"l": vectors()}), file)
    before = node.fingerprint_inputs(embedding="z.safetensors")
    os.utime(file, ns=(1, 1))
    assert node.fingerprint_inputs(embedding="z.safetensors") != before
    assert node.fingerprint_inputs(embedding="gone.safetensors") == node.fingerprint_inputs(embedding="none") == ""


def with_nan(tensor):
    tensor = tensor.clone()
    tensor.flatten()[0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": " \n "}, "a phrase to forget, got an empty text"),
        ({"templates": "a zebra"}, "one {} for the phrase"),
        ({"phrases": "Zebra\nzebra"}, "the phrase 'zebra' twice"),
        ({"images": pictures(0)}, "at least one picture"),
        ({"images": pictures(size=(7, 16))}, "at least 8 x 8 pixels"),
        ({"images": pictures(channels=1)}, "RGB images"),
        ({"images": pictures(channels=5)}, "RGB images"),
        ({"images": pictures()[0]}, "at least one picture"),
        ({"images": with_nan(pictures())}, "not numbers"),
        ({"mask": torch.ones(1, 16, 24)}, "images for the mask, got none"),
        ({"images": pictures(2), "mask": torch.ones(3, 16, 24)}, "one for each of 2 images, got 3"),
        ({"images": pictures(2), "mask": torch.zeros(1, 16, 24)}, "zeros only"),
        ({"images": pictures(2), "mask": torch.stack([torch.ones(9, 9), torch.zeros(9, 9)])}, "zeros only in mask 2"),
        ({"images": pictures(2), "mask": with_nan(torch.ones(1, 16, 24))}, "not numbers"),
        ({"embedding": "nothing.safetensors"}, "'nothing.safetensors' is not there"),
        ({"embedding": "../secret.safetensors"}, "is not there"),
        ({"embedding": "a.pt"}, "a pickle in a.pt"),
    ],
)
def test_bad_input_is_one_sentence(make, embeddings, changes, message):
    (embeddings / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    (embeddings.parent / "secret.safetensors").write_bytes(b"")
    with pytest.raises(ForgetError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_the_same_thing_twice_in_a_chain_is_refused(make, embeddings):
    for name in "ab":
        embedding_file.save_embedding(embedding_file.Embedding({"l": vectors()}), embeddings / f"{name}.safetensors")
    with pytest.raises(ForgetError, match="got the phrase 'red  Apple' twice"):
        make(phrases="red  Apple", previous=make(phrases="fruit\nRed apple"))
    with pytest.raises(ForgetError, match="got the phrase 'blood' twice"):
        ConceptPreset.execute(preset="violence", previous=make(phrases="blood"))
    with pytest.raises(ForgetError, match="the same embedding twice"):
        make(phrases="", embedding="a.safetensors", previous=make(phrases="", embedding="b.safetensors"))
