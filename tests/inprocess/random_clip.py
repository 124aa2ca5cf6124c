"""A CLIP of random weights in a folder, and nodes run on it as the host runs them."""

import torch

from tools import comfy_host


def clip_folder(folder):
    """A CLIP of random weights as transformers saves it, with the tokenizer of the host."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=size, vision_config=size | vision, projection_dim=8))
    model.save_pretrained(folder)
    CLIPTokenizer.from_pretrained(str(comfy_host.root() / "comfy" / "sd1_tokenizer")).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model.eval()


def run(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs).args
