"""Converting workflows from the graph format, which users open, to the API format, which the server runs."""

from __future__ import annotations

_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_SKIPPED = {"Note", "MarkdownNote", "Reroute"}


def widget_names(info: dict) -> list[str]:
    """Names of a node's widgets, in the order of its widgets_values; "" for a control widget that the front end adds."""
    names = []
    for group in ("required", "optional"):
        inputs = info["input"].get(group, {})
        for name in info.get("input_order", {}).get(group, inputs):
            kind, options = inputs[name][0], (inputs[name][1] if len(inputs[name]) > 1 else {})
            if (isinstance(kind, list) or kind in _WIDGETS) and not options.get("forceInput"):
                names.append(name)
                if options.get("control_after_generate"):
                    names.append("")
    return names


def to_api(graph: dict, object_info: dict) -> dict:
    """Converts a workflow to the API format.

    Parameters
    ----------
    graph
        The workflow as the front end saves it.
    object_info
        The server's answer to /object_info.

    Raises
    ------
    ValueError
        On a node type that the server does not have.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] in _SKIPPED:
            continue
        if node["type"] not in object_info:
            raise ValueError(f"Expected a node type of this server, got {node['type']!r}.")
        info = object_info[node["type"]]
        widgets = zip(widget_names(info), node.get("widgets_values", []))
        inputs = {name: value for name, value in widgets if name}
        inputs |= {i["name"]: list(links[i["link"]]) for i in node.get("inputs", []) if i.get("link") is not None}
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", node["type"])},
        }
    return prompt


def on_miniature(prompt: dict) -> dict:
    """A prompt with its checkpoint replaced by the miniature model, and with latents of the miniature's size."""
    replaced = {}
    for name, node in prompt.items():
        if node["class_type"] == "CheckpointLoaderSimple":
            node = {**node, "class_type": "FMN_LoadMiniature", "inputs": {}}
        elif node["class_type"] in ("EmptyLatentImage", "FMN_Compare"):
            node = {**node, "inputs": {**node["inputs"], "width": 128, "height": 128}}
        replaced[name] = node
    return replaced
