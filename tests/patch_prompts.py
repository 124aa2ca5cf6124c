"""Nodes that gate and apply patches, and what comes out of them."""

from mini_sd.judge import classify, load_judge

DOG = "a picture of a dog in noto style"
CONNECTED = "(from the forget_patch input)"


def judged(images):
    return classify(load_judge(), images.float() / 255)[0]


def text(name, node, output):
    return {name: {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}}


def said(outputs, name):
    return "".join(outputs[name]["text"])


def steered(prompt, name, gate):
    """The picture of node `name` with the conditionings that node `gate` gives."""
    prompt[f"{name}.sample"]["inputs"] |= {"positive": [gate, 0], "negative": [gate, 1]}
    return prompt


def gated(name, of, **changes):
    """Gated Forget Patch on the conditionings of picture `of`."""
    inputs = {
        "clip": ["mini", 1], "positive": [f"{of}.text", 0], "negative": [f"{of}.negative", 0], "patch_file": CONNECTED,
        "forget_patch": ["train", 1], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "threshold": 0.0, "curve": "step",
    }  # fmt: skip
    return {name: {"class_type": "FMN_GatedForgetPatch", "inputs": inputs | changes}} | text(f"{name}.said", name, 2)


def stock(file, strength=1.0):
    inputs = {"model": ["mini", 0], "lora_name": file, "strength_model": strength}
    return {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
