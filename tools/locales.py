"""Writes locales/en from the nodes' schemas and the page's commands, so that no text is typed twice: python -m tools.locales

Prints the texts that locales/zh, which is written by hand, lacks or has too much.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from tools.comfy_host import REPOSITORY, load_pack

LOCALES = REPOSITORY / "locales"
NODE_DEFS, MAIN, COMMANDS = "nodeDefs.json", "main.json", "commands.json"
# A command as js/commands.js registers it: its id and its label.
COMMAND = re.compile(r'\bid: "([\w.]+)", label: "([^"]+)"')
# Special characters of vue-i18n messages. Some versions of the front end read tooltips as such messages and others show them
# as they are, so that a file can hold neither these characters nor their escapes.
MESSAGE_SYNTAX = re.compile(r"[@{}|\\]")


def node_texts() -> dict[str, Any]:
    """The nodes' names, descriptions and tooltips from their schemas, in the structure of nodeDefs.json."""
    return {schema.node_id: _schema_texts(schema) for schema in (node.define_schema() for node in load_pack().NODES)}


def node_defs() -> dict[str, Any]:
    """Content of nodeDefs.json: the texts without special characters; for others the front end shows the schema's."""
    return _without_syntax(node_texts())


def main_texts() -> dict[str, Any]:
    """Content of main.json.

    The groups of the nodes' menu, the names of types, which the front end shows for outputs named as their type, and the
    commands in the page's menu.
    """
    api = importlib.import_module(f"{load_pack().__name__}.nodes.host.node_api")
    types = sorted(getattr(api, name).io_type for name in api.__all__ if name.endswith("Type"))
    groups = [group for name, text in vars(api.Menu).items() if name.isupper() for group in text.split("/")]
    labels = [label for _, label in _commands()]
    return {
        "nodeCategories": {group: group for group in groups},
        "dataTypes": {t: t for t in types},
        "menuLabels": {label: label for label in labels},
    }


def command_texts() -> dict[str, Any]:
    """Content of commands.json: the label of each command, which lists of commands and shortcuts show."""
    return {_key(identifier): {"label": label} for identifier, label in _commands()}


def load(language: str, name: str) -> dict[str, Any]:
    """Reads a file of a language."""
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def strings(texts: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Flattens nested texts: each text by the tuple of its keys, outermost first."""
    flat = {}
    for key, value in texts.items():
        flat.update(strings(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value})
    return flat


def _commands() -> list[tuple[str, str]]:
    """Id and label of the page's commands."""
    return COMMAND.findall((REPOSITORY / "js" / "commands.js").read_text(encoding="utf-8"))


def _schema_texts(schema: Any) -> dict[str, Any]:
    inputs = {_key(i.id): _name_and_tooltip(i.display_name or i.id, i.tooltip) for i in schema.inputs}
    outputs = {str(n): _name_and_tooltip(o.display_name or o.io_type, o.tooltip) for n, o in enumerate(schema.outputs)}
    texts = {"display_name": schema.display_name, "description": schema.description}
    return texts | {k: v for k, v in (("inputs", inputs), ("outputs", outputs)) if v}


def _name_and_tooltip(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def _key(identifier: str) -> str:
    """Key under which the front end looks up an input or a command; it would read a dot as a level of nesting."""
    return identifier.replace(".", "_")


def _without_syntax(texts: dict[str, Any]) -> dict[str, Any]:
    """Leaves out texts with special characters."""
    plain = {k: v for k, v in texts.items() if isinstance(v, dict) or not MESSAGE_SYNTAX.search(v)}
    return {k: _without_syntax(v) if isinstance(v, dict) else v for k, v in plain.items()}


def _write(name: str, texts: dict[str, Any]) -> None:
    path = LOCALES / "en" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    _write(NODE_DEFS, node_defs())
    _write(MAIN, main_texts())
    _write(COMMANDS, command_texts())
    for name, texts in ((NODE_DEFS, node_texts()), (MAIN, main_texts()), (COMMANDS, command_texts())):
        translated, expected = strings(load("zh", name)), strings(texts)
        for keys in sorted(translated.keys() ^ expected.keys()):
            print(f"zh/{name}: {'lacks' if keys in expected else 'has too much'}: {'.'.join(keys)}")


if __name__ == "__main__":
    main()
