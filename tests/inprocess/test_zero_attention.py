"""Zero Concept Attention in sampling by the host, against a brute-force attention in float64."""

from types import SimpleNamespace

import pytest
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.chunk_memory import ChunkMemory, encoded_chunks
from forget_me_not.nodes.adapter.concept_columns import ConceptColumns
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.attention.zero_attention import ZeroConceptAttention
from forget_me_not.nodes.concepts.encode_prompt import EncodePrompt
from forget_me_not.nodes.host import apply_patch, attention_blocks
from inprocess.sampling import control_net, sample
from inprocess.zero_reference import Stage, reference

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

ZEBRA, HORSE = "a picture of a zebra in noto style", "a picture of a horse in noto style"
FILL = "a house and a guitar and a banana, " * 12


@pytest.fixture
def zero(miniature):
    """The node's MODEL."""

    def run(model=None, clip=None, **changes):
        inputs = {
            "phrase": "zebra", "strength": 1.0, "end_token": "none", "layers": "all", "start_percent": 0.0, "end_percent": 1.0,
            "renormalise": False,
        }  # fmt: skip
        node = ZeroConceptAttention
        return node.execute(model=model or miniature[0], clip=clip or miniature[1], **(inputs | changes)).args[0]

    return run


@pytest.fixture
def encode(miniature):
    return lambda text, clip=None: EncodePrompt.execute(text, clip or miniature[1]).args[0]


@pytest.fixture
def core():
    """The host's own nodes."""
    import comfy_extras.nodes_hooks

    import nodes

    return SimpleNamespace(**vars(nodes) | vars(comfy_extras.nodes_hooks))


def assert_same(ours, theirs, untouched):
    """Equal within float32 rounding over the steps of a sampling, and far from what the untouched model gives."""
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() < 3e-4 * scale
    assert (ours - untouched).abs().max() > 2e-3 * scale


def check(miniature, model, stages, positive, negative, base=None, **how):
    base = base or miniature[0]
    results = [sample(m, positive, negative, **how) for m in (model, reference(host, base, stages), base)]
    assert_same(*results)


def columns_of(miniature, text, *words):
    """Columns by looking at single words; all of the words are one token in the tokenizer."""
    chunks = miniature[1].tokenize(text)["l"]
    ids = {miniature[1].tokenize(w)["l"][0][1][0] for w in words}
    return [77 * n + i for n, chunk in enumerate(chunks) for i, (token, _) in enumerate(chunk) if token in ids]


def test_the_reference_without_stages_is_the_model(miniature, encode):
    """What rounding makes of a sampling whose attention is in float64."""
    ours, theirs = (sample(m, encode(ZEBRA), encode("")) for m in (miniature[0], reference(host, miniature[0], [])))
    assert 0 < (ours - theirs).abs().max() < 3e-4 * ours.abs().max()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("renormalise", [False, True])
def test_one_call_of_the_unet_within_rounding(miniature, zero, encode, renormalise, masked):
    mask = torch.linspace(0, 1, 128).expand(1, 128, 128) if masked else None
    context = torch.cat([encode(HORSE)[0][0], encode(ZEBRA)[0][0]])
    model = zero(prompts=f"{HORSE}\n{ZEBRA}", strength=0.9, renormalise=renormalise, mask=mask)
    stages = [Stage([(context[1], [5])], 0.9, renormalise, mask)]
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    outputs = []
    for patcher in (model, reference(host, miniature[0], stages), reference(host, miniature[0], [])):
        options = {"wrappers": patcher.wrappers, "uuids": [0, 1], "sigmas": torch.tensor([1.0])}
        options |= patcher.model_options["transformer_options"]
        unet = patcher.model.diffusion_model
        outputs.append(unet(x, torch.tensor([500.0, 500.0]), context=context, transformer_options=options))
    ours, theirs, untouched = outputs
    torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=0)
    torch.testing.assert_close(ours[0], untouched[0], atol=3e-5, rtol=0)
    assert (ours[1] - untouched[1]).abs().max() > 1e-2


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_combined_prompts_and_a_batch(miniature, zero, encode, strength, renormalise):
    texts = [ZEBRA, HORSE, "a zebra and a horse and a zebra"]
    conds = [encode(t) for t in texts]
    negative = encode("zebra")
    prompts = [(conds[0][0][0][0], [5]), (conds[2][0][0][0], [2, 8]), (negative[0][0][0], [1])]
    model = zero(strength=strength, renormalise=renormalise)
    stage = Stage(prompts, strength, renormalise)
    check(miniature, model, [stage], [c for cond in conds for c in cond], negative, batch=2)


def test_several_phrases_and_end_tokens(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    for end, columns in (("none", [5, 7, 8]), ("first", [5, 7, 8, 10]), ("all", [5, 7, 8, *range(10, 77)])):
        model = zero(phrase="zebra\nnoto", end_token=end)
        check(miniature, model, [Stage([(positive[0][0][0], columns)])], positive, negative, steps=1)


def test_part_of_the_layers_and_of_sampling(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    for layers, places in (("mid, up", ("middle", "output")), ("down, mid", ("input", "middle")), ("up", ("output",))):
        stage = Stage([(positive[0][0][0], [5])], places=places, percents=(0.15, 0.65))
        model = zero(layers=layers, start_percent=0.15, end_percent=0.65)
        check(miniature, model, [stage], positive, negative, steps=5)


def test_weighted_words(miniature, zero, encode):
    positive, negative = encode("a picture of a (zebra:1.3) in (noto style:0.8)"), encode("")
    check(miniature, zero(), [Stage([(positive[0][0][0], [5])])], positive, negative)


def test_long_prompts_are_batched_with_short_ones(miniature, zero, encode):
    """The host repeats the short conditioning to the length of the long one."""
    long, short = encode(FILL + "a zebra"), encode("a zebra")
    assert long[0][0].shape[1] == 154
    prompts = [(long[0][0][0], columns_of(miniature, FILL + "a zebra", "zebra")), (short[0][0][0], [2])]
    check(miniature, zero(), [Stage(prompts)], long, short)


def test_phrase_that_the_host_breaks_between_chunks(miniature, zero, encode):
    text = next(t for t in (f"{'fox ' * n}santa claus and a horse" for n in range(60, 80)) if breaks(miniature, t))
    positive, negative = encode(text), encode("")
    columns = columns_of(miniature, text, "santa", "claus")
    assert columns == [75, 78]
    check(miniature, zero(phrase="santa claus"), [Stage([(positive[0][0][0], columns)])], positive, negative)
    ends = zero(phrase="santa claus", end_token="first")
    end = miniature[1].tokenize(text)["l"][1].index((49407, 1.0)) + 77
    check(miniature, ends, [Stage([(positive[0][0][0], [75, 76, 78, end])])], positive, negative)


def breaks(miniature, text):
    columns = columns_of(miniature, text, "santa", "claus")
    return columns[0] // 77 != columns[1] // 77


def test_joined_conditionings(miniature, zero, encode, core):
    """Conditioning (Concat) keeps the tokens of the first prompt only."""
    joined = core.ConditioningConcat().concat(encode(HORSE), encode("a house and a zebra"))[0]
    check(miniature, zero(), [Stage([(joined[0][0][0], [77 + 5])])], joined, encode("a horse"))


def test_prompts_stacked_into_one_conditioning(miniature, zero, encode):
    """A batch of pictures with a prompt each, as scheduling nodes make it."""
    first, second = encode(HORSE), encode(ZEBRA)
    stacked = [[torch.cat([first[0][0], second[0][0]]), first[0][1]]]
    check(miniature, zero(), [Stage([(second[0][0][0], [5])])], stacked, encode(""), batch=2)


def test_truncated_conditioning(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    for rows, kept in ((7, [5]), (5, [])):
        cut = [[positive[0][0][:, :rows], positive[0][1]]]
        model, stage = zero(end_token="first"), Stage([(cut[0][0][0], kept)])
        if kept:
            check(miniature, model, [stage], cut, negative)
        else:
            assert torch.equal(sample(model, cut, negative), sample(miniature[0], cut, negative))


@pytest.mark.parametrize("masked", [False, True])
def test_area_conditioning(miniature, zero, encode, core, masked):
    lower = core.ConditioningSetArea().append(encode(ZEBRA), 128, 64, 0, 64, 1.0)[0]
    positive, negative = [*encode(HORSE), *lower], encode("a zebra")
    mask = torch.rand(1, 128, 128, generator=torch.Generator().manual_seed(1)) if masked else None
    stage = Stage([(lower[0][0][0], [5]), (negative[0][0][0], [2])], mask=mask, tops={(8, 16): (8, 0)})
    check(miniature, zero(mask=mask), [stage], positive, negative, batch=2)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((128, 128), (16, 16)), ((3, 96, 160), (12, 20)), ((1, 104, 152), (13, 19)), ((2, 50, 333), (16, 24))],
)
def test_mask(miniature, zero, encode, shape, size, renormalise):
    """Every size of latent, odd ones too; masks of another shape are stretched; masks of a batch go in turns."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(2))
    mask[..., : shape[-1] // 2] = 0
    positive, negative = encode(ZEBRA), encode("")
    stage = Stage([(positive[0][0][0], [5])], 0.8, renormalise, mask if mask.ndim == 3 else mask[None])
    stage.crop = lambda size: (slice(None), slice(None))
    model = zero(strength=0.8, renormalise=renormalise, mask=mask)
    check(miniature, model, [stage], positive, negative, size=size, batch=2, steps=2)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("masked", [False, True])
def test_other_replacements_of_attention_stay(miniature, zero, encode, order, masked):
    from comfy.ldm.modules.attention import optimized_attention

    def extra(q):
        return 0.3 * torch.tanh(q)

    def other(q, k, v, extra_options):
        return optimized_attention(q, k, v, extra_options["n_heads"]) + extra(q)

    def install(model, with_index):
        clone = model.clone()
        for block in attention_blocks(model):
            clone.set_model_attn2_replace(other, *(block if with_index else block[:2]))
        return clone

    mask = torch.linspace(0, 1, 128).expand(1, 128, 128) if masked else None
    positive, negative = encode(ZEBRA), encode("")
    stage = Stage([(positive[0][0][0], [5])], mask=mask)
    for with_index in (False, True):
        base = install(miniature[0], with_index)
        model = zero(base, mask=mask) if order == "before" else install(zero(mask=mask), with_index)
        theirs = reference(host, miniature[0], [stage], extra)
        assert_same(*(sample(m, positive, negative) for m in (model, theirs, base)))
        assert torch.equal(sample(model, encode(HORSE), negative), sample(base, encode(HORSE), negative))
        renormalised = zero(base, renormalise=True)
        with pytest.raises(ForgetError, match="Switch `renormalise` off"):
            sample(renormalised, positive, negative)
        assert torch.equal(sample(renormalised, encode(HORSE), negative), sample(base, encode(HORSE), negative))


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True)])
def test_two_nodes_on_the_same_layers(miniature, zero, encode, flags):
    positive, negative = encode(ZEBRA), encode("")
    mask = torch.linspace(0, 1, 128).expand(1, 128, 128)
    model = zero(zero(renormalise=flags[0], strength=0.7), phrase="noto", renormalise=flags[1], mask=mask)
    context = positive[0][0][0]
    stages = [Stage([(context, [5])], 0.7, flags[0]), Stage([(context, [7, 8])], 1.0, flags[1], mask)]
    check(miniature, model, stages, positive, negative)


def test_patches_that_append_tokens_or_split_the_batch(miniature, zero, encode):
    """attn2 patches, as IP-Adapters and regional prompts use them."""
    positive, negative = encode(ZEBRA), encode("")
    tokens = torch.randn(1, 4, 96, generator=torch.Generator().manual_seed(3))

    def append(n, context, value, extra_options):
        more = tokens.expand(len(context), -1, -1)
        return n, torch.cat([context, more], 1), torch.cat([value, more], 1)

    def split(n, context, value, extra_options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1), value.repeat(2, 1, 1)

    def foreign(n, context, value, extra_options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1) + 1, value.repeat(2, 1, 1)

    def patched(model, *patches):
        clone = model.clone()
        for patch in patches:
            clone.set_model_attn2_patch(patch)
        clone.set_model_attn2_output_patch(lambda n, extra_options: n[: len(n) // 2] if split in patches else n)
        return clone

    check(miniature, patched(zero(), split), [Stage([(positive[0][0][0], [5])])], positive, negative)
    base = patched(miniature[0], append)
    for model in (patched(zero(), append), zero(base)):
        check(miniature, model, [Stage([(positive[0][0][0], [5])])], positive, negative, base=base)
    with pytest.raises(ForgetError, match="from a node that patches attn2"):
        sample(patched(zero(), foreign), positive, negative)
    with pytest.raises(ForgetError, match="Expected a batch of 2 in attn2, got 4"):
        sample(patched(zero(mask=torch.ones(8, 8)), split), positive, negative)


def test_control_net(miniature, zero, encode, core):
    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(5))
    positive, negative = core.ControlNetApplyAdvanced().apply_controlnet(
        encode(ZEBRA), encode("a zebra"), control_net(), picture, 1.0, 0.0, 1.0
    )
    plain = sample(miniature[0], encode(ZEBRA), encode("a zebra"))
    assert (sample(miniature[0], positive, negative) - plain).abs().max() > 1e-2
    stage = Stage([(positive[0][0][0], [5]), (negative[0][0][0], [2])])
    check(miniature, zero(), [stage], positive, negative)


@pytest.fixture
def patch(miniature):
    adapter = ComfyModel(miniature[0], miniature[1])
    return forget_closed_form(adapter, [make_concept(adapter, "horse")])


def test_patched_model_before_and_after(miniature, zero, encode, patch):
    positive, negative = encode("a zebra and a horse"), encode("")
    patched = apply_patch(miniature[0], patch, 1.0)[0]
    before, after = zero(patched), apply_patch(zero(), patch, 1.0)[0]
    assert torch.equal(sample(before, positive, negative), sample(after, positive, negative))
    check(miniature, before, [Stage([(positive[0][0][0], [2])])], positive, negative, base=patched)


def test_hooks_of_single_conditionings(miniature, zero, encode, core, patch):
    """Conditionings with hooks run in calls of their own, with weights of their own."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(patch.state_dict(torch.float32), 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.2, 0.0), (1.0, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(frames)
    hooked = core.ConditioningSetProperties().set_properties(
        encode("a zebra and a horse"), 1.0, "default", hooks=hooks
    )[0]
    positive, negative = [*hooked, *encode(ZEBRA)], encode("a zebra")
    plain = sample(miniature[0], [*encode("a zebra and a horse"), *encode(ZEBRA)], negative)
    assert (sample(miniature[0], positive, negative) - plain).abs().max() > 1e-2
    prompts = [(hooked[0][0][0], [2]), (positive[1][0][0], [5]), (negative[0][0][0], [2])]
    check(miniature, zero(), [Stage(prompts)], positive, negative, steps=3)


@pytest.mark.parametrize("listed", [False, True])
def test_hooks_of_the_text_encoder(miniature, zero, encode, core, listed):
    """A LoRA of the text encoder in two keyframes: two encodings of the prompt, one after the other."""
    import comfy.hooks

    g = torch.Generator().manual_seed(6)
    key = "lora_te_text_model_encoder_layers_1_mlp_fc1"
    lora = {
        f"{key}.lora_up.weight": torch.randn(384, 4, generator=g) * 0.2,
        f"{key}.lora_down.weight": torch.randn(4, 96, generator=g),
    }
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.3, 0.0), (1.0, 0.6)):
        frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(frames)
    clip = core.SetClipHooks().apply_hooks(miniature[1], True, True, hooks)[0]
    positive, negative = (encode(ZEBRA, clip), encode("", clip)) if not listed else (
        core.CLIPTextEncode().encode(clip, t)[0] for t in (ZEBRA, "")
    )  # fmt: skip
    assert len(positive) == 2 and (positive[0][0] - positive[1][0]).abs().max() > 0.1
    model = zero(clip=clip, prompts=ZEBRA if listed else "")
    check(miniature, model, [Stage([(c[0][0], [5]) for c in positive])], positive, negative, steps=4)


def test_columns_are_found_in_half_precision_and_repeated(miniature):
    adapter = ComfyModel(miniature[0], miniature[1])
    columns = ConceptColumns(adapter, ["zebra"], "none", 0.5)
    columns.learn(miniature[1], ["a zebra", "a horse"])
    context = torch.stack([prompt.context for prompt in adapter.encode(["a zebra", "a horse", "a fox"])])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weight, known = columns.find(context.repeat(1, 3, 1).to(dtype))
        assert [row.nonzero().flatten().tolist() for row in weight] == [[2, 79, 156], [], []]
        assert weight.max() == 0.5 and known.tolist() == [True, True, False]


def test_forgotten_chunks_are_an_error_not_a_miss(miniature, zero, encode, core):
    joined = core.ConditioningConcat().concat(encode(HORSE), encode("a house and a zebra"))[0]
    small = ChunkMemory(limit=2)
    for text in ("a zebra", "a fox", "a horse"):
        small.remember(encode(text)[0][0][0], {"l": [[0] * 77]})
    assert small.recall(encode("a zebra")[0][0][0]) is None and small.recall(encode("a horse")[0][0][0])
    encoded_chunks._prompts.clear()
    with pytest.raises(ForgetError, match="none of the prompts"):
        sample(zero(), joined, encode(""))
    listed = zero(prompts="a house and a zebra")
    check(miniature, listed, [Stage([(joined[0][0][0], [77 + 5])])], joined, encode(""))


def test_prompts_of_other_encoders(miniature, zero, encode, core):
    stock = core.CLIPTextEncode().encode(miniature[1], "a zebra of another encoder")[0]
    known, negative = encode(HORSE), encode("")
    with pytest.raises(ForgetError, match="knows none of the prompts"):
        sample(zero(), stock, negative)
    with pytest.raises(ForgetError, match="knows only some of the prompts"):
        sample(zero(), [*known, *stock], negative)
    with pytest.raises(ForgetError, match="knows none of the prompts"):
        sample(zero(), core.ConditioningConcat().concat(known, stock)[0], negative)
    zeros = core.ConditioningZeroOut().zero_out(stock)[0]
    assert torch.equal(sample(zero(), known, zeros), sample(miniature[0], known, zeros))


def test_the_model_and_the_call_are_left_as_they_were(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    before, options = sample(miniature[0], positive, negative), str(miniature[0].model_options)
    model = zero(mask=torch.ones(128, 128))
    assert torch.equal(sample(model, positive, negative), sample(model, positive, negative))
    assert torch.equal(sample(miniature[0], positive, negative), before)
    assert str(miniature[0].model_options) == options and not any(miniature[0].wrappers.values())
    assert str(model.model_options) == options


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 64, 64), "zeros only"),
        (torch.ones(7, 64), "at least 8x8 pixels, got 64x7"),
        (torch.ones(1, 1, 64, 64), r"got \(1, 1, 64, 64\)"),
        (torch.ones(64), r"got \(64,\)"),
        (torch.full((64, 64), float("nan")), "not numbers"),
    ],
)
def test_bad_masks(zero, mask, message):
    with pytest.raises(ForgetError, match=message):
        zero(mask=mask)


def test_tiles_cannot_be_masked(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")

    def tiled(apply, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        return torch.cat([apply(part, t, **c) for part in x.split(8, dim=-1)], -1)

    model = zero(mask=torch.ones(64, 64)).clone()
    model.set_model_unet_function_wrapper(tiled)
    with pytest.raises(ForgetError, match="latent area of 16x16, got 8x16"):
        sample(model, positive, negative)
