"""Encode Prompt: a CLIP Text Encode that also stores the tokens in the conditioning."""

from __future__ import annotations

from ...fmn_core.errors import ForgetError
from ..adapter.chunk_memory import TOKENS_KEY, encoded_chunks
from ..adapter.text import token_ids
from ..host.node_api import Menu, io


class EncodePrompt(io.ComfyNode):
    """Encodes a prompt and keeps its tokens."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_EncodePrompt",
            display_name="Encode Prompt (Forget-Me-Not)",
            category=Menu.WHILE_SAMPLING,
            description="CLIP Text Encode that also remembers its tokens, so that Zero Concept Attention finds the phrase in it. "
            "The conditioning is otherwise the same.",
            inputs=[
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt, as in CLIP Text Encode."
                ),
                io.Clip.Input("clip", tooltip="The CLIP model used for encoding the text."),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING", tooltip="The conditioning, with its tokens.")],
        )

    @classmethod
    def execute(cls, text, clip) -> io.NodeOutput:
        if clip is None:
            raise ForgetError("Expected a CLIP, got none. Connect the CLIP output of the loader that gave the MODEL.")
        tokens = clip.tokenize(text)
        ids = token_ids(tokens)
        conditioning = clip.encode_from_tokens_scheduled(tokens, add_dict={TOKENS_KEY: ids})
        for context, _ in conditioning:
            encoded_chunks.remember(context[0], ids)
        return io.NodeOutput(conditioning)
