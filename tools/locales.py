"""Writes locales/en from the nodes' schemas, so that no text is typed twice: python -m tools.locales

Prints what locales/zh, which is written by hand, lacks or has too much.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from tools.comfy_host import REPOSITORY, load_pack

LOCALES = REPOSITORY / "locales"
NODE_DEFS, MAIN = "nodeDefs.json", "main.json"
# Some versions of the front end read tooltips as vue-i18n messages, in which these mean something; others show them as
# they are. So neither the characters nor their escapes can stand in a file.
MESSAGE_SYNTAX = re.compile(r"[@{}|\\]")


def node_texts() -> dict[str, Any]:
    """Everything that a translation says of the nodes, in the words of their schemas."""
    return {schema.node_id: _of_node(schema) for schema in (node.define_schema() for node in load_pack().NODES)}


def node_defs() -> dict[str, Any]:
    """nodeDefs.json: the texts that every front end shows as they are; for the others it falls back on the schema."""
    return _without_syntax(node_texts())


def main_texts() -> dict[str, Any]:
    """main.json: the category, and the names of outputs that are called as their type, which the front end looks up there."""
    api = importlib.import_module(f"{load_pack().__name__}.nodes.host.node_api")
    types = sorted(getattr(api, name).io_type for name in api.__all__ if name.endswith("Type"))
    return {"nodeCategories": {api.CATEGORY: api.CATEGORY}, "dataTypes": {t: t for t in types}}


def load(language: str, name: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def strings(texts: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text by its keys from the outermost on."""
    found = {}
    for key, value in texts.items():
        found.update(strings(value, (*above, key)) if isinstance(value, dict) else {(*above, key): value})
    return found


def _of_node(schema: Any) -> dict[str, Any]:
    inputs = {_key(i.id): _named(i.display_name or i.id, i.tooltip) for i in schema.inputs}
    outputs = {str(n): _named(o.display_name or o.io_type, o.tooltip) for n, o in enumerate(schema.outputs)}
    texts = {"display_name": schema.display_name, "description": schema.description}
    return texts | {k: v for k, v in (("inputs", inputs), ("outputs", outputs)) if v}


def _named(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def _key(identifier: str) -> str:
    """As the front end looks an input up: a dot would lead it a level deeper."""
    return identifier.replace(".", "_")


def _without_syntax(texts: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in texts.items() if isinstance(v, dict) or not MESSAGE_SYNTAX.search(v)}
    return {k: _without_syntax(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _write(name: str, texts: dict[str, Any]) -> None:
    path = LOCALES / "en" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    _write(NODE_DEFS, node_defs())
    _write(MAIN, main_texts())
    for name, texts in ((NODE_DEFS, node_texts()), (MAIN, main_texts())):
        said, wanted = strings(load("zh", name)), strings(texts)
        for keys in sorted(said.keys() ^ wanted.keys()):
            print(f"zh/{name}: {'lacks' if keys in wanted else 'has too much'}: {'.'.join(keys)}")


if __name__ == "__main__":
    main()
