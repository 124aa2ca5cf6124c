"""The pack's widgets in the real page: what a user sees and clicks."""

import pytest
from browser.front_end import BROWSE, VUE, opened, texts


@VUE
def test_tokens_of_the_phrase_light_up_and_follow_typing(page, graph, screenshot, vue):
    graph.use(vue)
    node = graph.add("FMN_ZeroConceptAttention")
    graph.set(node, "prompts", "a photo of santa claus")
    graph.set(node, "phrase", "santa claus")
    # The node's own default phrase may have been answered first.
    page.wait_for_selector("[data-fmn=tokens] .fmn-chip.lit:has-text('claus')")
    assert texts(page, "[data-fmn=tokens] .fmn-chip") == ["a", "photo", "of", "santa", "claus", "end"]
    assert texts(page, "[data-fmn=tokens] .fmn-chip.lit")[:2] == ["santa", "claus"]
    assert texts(page, "[data-fmn=tokens] .fmn-chip.end") == ["end"]
    graph.set(node, "phrase", "zebra")
    page.wait_for_selector("[data-fmn=tokens] .fmn-warning")
    assert texts(page, "[data-fmn=tokens] .fmn-warning") == ["'zebra' is not in the prompt"]


def test_typing_into_the_text_box_asks_for_tokens(page, graph):
    graph.use(False)
    graph.add("FMN_Concept")
    page.locator("textarea").first.fill("striped horse")
    # The chips of the phrase that stood there before are lit until the answer for this one is there.
    page.wait_for_function(
        "() => document.querySelector('[data-fmn=tokens] .fmn-chip.lit')?.textContent.startsWith('striped')"
    )
    assert texts(page, "[data-fmn=tokens] .fmn-chip.lit")[:2] == ["striped", "horse"]


@VUE
def test_tokens_of_two_phrases_need_no_scrolling(page, graph, screenshot, vue):
    graph.use(vue)
    node = graph.add("FMN_Concept")
    graph.set(node, "phrases", "zebra\nstriped horse")
    page.wait_for_function("() => document.querySelectorAll('[data-fmn=tokens] > div').length === 2")
    page.wait_for_timeout(300)
    screenshot()
    panel = "document.querySelector('[data-fmn=tokens]')"
    assert page.evaluate(f"() => {panel}.scrollHeight <= {panel}.clientHeight + 1")


@VUE
def test_a_training_is_followed_across_a_reload_and_stopped_with_its_patch(
    page, server, patches, graph, screenshot, vue
):
    graph.use(vue)
    graph.train(method="attention re-steering", steps=5000, file_name="kept", seed=int(vue))
    saved = page.evaluate("() => app.graph.serialize()")
    graph.queue()
    moving = "() => / step [1-9]\\d* of 5000, .* left/.test(document.querySelector('.fmn-status')?.textContent ?? '')"
    page.wait_for_function(moving)
    screenshot(" running")
    opened(page, server)
    page.evaluate("graph => app.loadGraphData(graph)", saved)
    page.wait_for_function(moving)
    assert page.locator(".fmn-panel svg polyline").count() >= 2
    page.evaluate("() => document.querySelector('.fmn-stop').click()")
    page.wait_for_function("() => document.querySelector('.fmn-status').textContent.includes('ended')")
    for _ in range(60):
        if (patches / "kept.safetensors").is_file():
            return
        page.wait_for_timeout(500)
    pytest.fail("the stopped training left no patch")


HIDDEN = "id => app.graph.getNodeById(id).widgets.filter(w => w.hidden).map(w => w.name)"


@VUE
def test_only_widgets_of_the_chosen_method_are_shown(page, graph, screenshot, vue):
    graph.use(vue)
    node = graph.add("FMN_TrainForgetPatch")
    assert page.evaluate(HIDDEN, node) == []
    graph.set(node, "method", "visual denoising")
    page.wait_for_timeout(500)
    assert page.evaluate(HIDDEN, node) == ["loss", "target_mass"]
    if vue:
        assert page.get_by_text("target_mass").count() == 0 and page.get_by_text("learning_rate").count() > 0
    screenshot(" visual denoising")
    graph.set(node, "method", "attention re-steering")
    page.wait_for_timeout(500)
    assert page.evaluate(HIDDEN, node) == []


LINES = "([id, name]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value.split('\\n')"
CLICK = "name => [...document.querySelectorAll('[data-fmn=related] button')].find(b => b.textContent.includes(name)).click()"


@VUE
def test_synonyms_and_compounds_are_added_with_a_click(page, graph, patches, screenshot, vue):
    graph.use(vue)
    mini, node = graph.add("FMN_LoadMiniature"), graph.add("FMN_ForgetConcept", 320)
    graph.link(mini, 0, node, "model")
    graph.link(mini, 1, node, "clip")
    for name, value in (("forget", "dog"), ("save_as", ""), ("rank", 14 + int(vue))):
        graph.set(node, name, value)
    assert page.locator("[data-fmn=related]:visible, [data-fmn=report]:visible").count() == 0
    graph.queue()
    page.wait_for_selector("[data-fmn=related] button:has-text('puppy')")
    assert texts(page, "[data-fmn=report]")[0].startswith("dog: gone.")
    page.evaluate(CLICK, "puppy")
    page.evaluate(CLICK, "hot dog")
    assert page.evaluate(LINES, [node, "forget"]) == ["dog", "puppy"]
    assert page.evaluate(LINES, [node, "keep"]) == ["hot dog"]
    assert page.locator("[data-fmn=related] button:disabled").count() == 2
    screenshot(" added")
    graph.queue()
    page.wait_for_function(
        "() => document.querySelector('[data-fmn=report]').innerText.startsWith('dog, puppy: gone.')"
    )
    page.evaluate("() => { document.querySelector('[data-fmn=report] details').open = true; }")
    assert "kept, although the phrase is in it: hot dog" in texts(page, "[data-fmn=report]")[0]
    assert not [t for t in texts(page, "[data-fmn=related] button") if "puppy" in t or "hot dog" in t]


RED = """() => {
    const canvas = document.querySelector('.fmn-attention'), { width, height } = canvas;
    const { data } = canvas.getContext('2d').getImageData(0, 0, width, height), sums = [[0, 0], [0, 0]];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const inside = Math.min(x / width, 1 - x / width, y / height, 1 - y / height) > 0.2, at = 4 * (y * width + x);
        sums[+inside][0] += data[at] - (data[at + 1] + data[at + 2]) / 2;
        sums[+inside][1] += 1;
    }
    return sums.map(([red, count]) => red / count);
}"""
CHIP = (
    "text => [...document.querySelectorAll('[data-fmn=attention] .fmn-chip')].find(c => c.innerText === text).click()"
)


@VUE
def test_attention_of_any_token(page, graph, screenshot, vue):
    graph.use(vue)
    mini, node = graph.add("FMN_LoadMiniature"), graph.add("FMN_ConceptAttentionMap", 320)
    graph.link(mini, 0, node, "model")
    graph.link(mini, 1, node, "clip")
    for name, value in (
        ("width", 128),
        ("height", 128),
        ("steps", 6),
        ("prompt", "a picture of a zebra in noto style"),
    ):
        graph.set(node, name, value)
    graph.queue()
    page.wait_for_selector(".fmn-attention")
    assert texts(page, "[data-fmn=attention] .fmn-chip.lit") == ["zebra", "end"]
    border, middle = page.evaluate(RED)
    assert middle > 3 * border and middle > 30
    assert texts(page, ".fmn-legend")[0].startswith("low ") and " high " in texts(page, ".fmn-legend")[0]
    assert page.locator("[data-fmn=tokens] .fmn-chip:visible").count() == 0
    screenshot(" concept")
    page.evaluate(CHIP, "picture")
    page.evaluate(CHIP, "end")
    assert texts(page, "[data-fmn=attention] .fmn-chip.lit") == ["picture", "zebra"]
    assert page.evaluate(RED) != [border, middle]
    graph.set(node, "prompt", "a picture of a zebra")
    page.wait_for_function("() => document.querySelectorAll('[data-fmn=tokens] .fmn-chip').length === 6")
    assert page.locator("[data-fmn=attention] .fmn-chip:visible").count() == 0
    assert page.locator("[data-fmn=tokens] .fmn-chip:visible").count() == 6


def of_node(page, node):
    return page.evaluate("id => { const n = app.graph.getNodeById(id); return [...n.pos, ...n.size]; }", node)


@VUE
def test_before_and_after_are_dragged_apart_on_the_picture(page, graph, screenshot, vue):
    graph.use(vue)
    report = graph.add("FMN_ForgetReport", 400, 100)
    for name, colour in (("before", 0xFF8000), ("after", 255)):
        image = graph.add("EmptyImage", 0, 100 if colour == 255 else 400)
        for widget, value in (("width", 128), ("height", 128), ("batch_size", 2), ("color", colour)):
            graph.set(image, widget, value)
        graph.link(image, 0, report, name)
    graph.queue()
    page.wait_for_function("() => document.querySelector('.fmn-before')?.naturalWidth === 128")
    page.evaluate("id => { const n = app.graph.getNodeById(id); n.setSize(n.computeSize()); }", report)
    page.wait_for_timeout(500)
    place, clip = of_node(page, report), "() => document.querySelector('.fmn-before').style.clipPath"
    assert "50%" in page.evaluate(clip)
    assert texts(page, ".fmn-label:visible") == ["before", "after"]
    box = page.locator(".fmn-stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2, steps=2)
    assert round(float(page.evaluate(clip).split()[1].rstrip("%"))) == pytest.approx(75, abs=2)
    assert of_node(page, report) == place
    panel = page.locator("[data-fmn=before-after]").bounding_box()
    for button in page.locator("[data-fmn=before-after] button").all():
        at = button.bounding_box()
        assert panel["x"] <= at["x"] and at["x"] + at["width"] <= panel["x"] + panel["width"]
        assert panel["y"] <= at["y"] and at["y"] + at["height"] <= panel["y"] + panel["height"]
    page.locator("[data-fmn=before-after] button").last.click()
    assert texts(page, "[data-fmn=before-after] .fmn-row")[0].split() == ["<", "2", "of", "2", ">"]
    page.evaluate("() => { const s = document.querySelector('.fmn-slider'); s.value = 20; s.oninput(); }")
    assert "80%" in page.evaluate(clip)


COLOURS = """types => types.map(type => [
    app.canvas.default_connection_color_byType[type],
    app.canvas.constructor.link_type_colors[type],
    getComputedStyle(document.body).getPropertyValue(`--color-datatype-${type}`).trim(),
])"""
PALETTE = "name => app.extensionManager.setting.set('Comfy.ColorPalette', name)"
SOCKETS = """() => [...document.querySelectorAll('[data-node-id] *')].map(e => getComputedStyle(e).backgroundColor)"""


def own_types(info):
    """The pack's own types of inputs and outputs."""
    types = set()
    for node in info.values():
        inputs = [i[0] for group in node["input"].values() for i in group.values()]
        types |= {t for t in [*inputs, *node["output"]] if isinstance(t, str) and t.startswith(("FORGET_", "FMN_"))}
    return sorted(types)


@VUE
def test_every_type_of_the_pack_has_a_colour_in_every_theme(page, server, graph, screenshot, vue):
    graph.use(vue)
    types = own_types(server.object_info())
    train, show = graph.add("FMN_TrainForgetPatch", 0, 60), graph.add("FMN_ApplyForgetPatch", 500, 60)
    graph.link(graph.add("FMN_Concept", 500, 300), 0, train, "concepts")
    page.evaluate(
        "([a, b]) => app.graph.getNodeById(a).connect(1, app.graph.getNodeById(b), 'forget_patch')", [train, show]
    )
    for palette in ("dark", "light"):
        page.evaluate(PALETTE, palette)
        page.wait_for_timeout(700)
        colours = page.evaluate(COLOURS, types)
        assert all(len(set(three)) == 1 and three[0].startswith("#") for three in colours)
        assert len({three[0] for three in colours}) == len(types) == 6
        if vue:
            assert "rgb(91, 132, 245)" in page.evaluate(SOCKETS)
        screenshot(f" {palette}")
    page.evaluate(PALETTE, "dark")


# WCAG 2's contrast ratio of a text with what lies behind it, each as the page mixes it.
CONTRAST = """element => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let opacity = 1, behind;
    for (let e = element; e && !behind; e = e.parentElement) {
        const style = getComputedStyle(e), [r, g, b, alpha = 1] = numbers(style.backgroundColor);
        if (alpha === 1) behind = [r, g, b];
        opacity *= Number(style.opacity);
    }
    const text = numbers(getComputedStyle(element).color).slice(0, 3).map((c, i) => opacity * c + (1 - opacity) * behind[i]);
    const [low, high] = [luminance(text), luminance(behind)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""


@VUE
@pytest.mark.parametrize("palette", ["dark", "light"])
def test_a_warning_can_be_read(page, graph, patches, screenshot, vue, palette):
    graph.use(vue)
    page.evaluate(PALETTE, palette)
    (patches / "broken.safetensors").write_bytes(b"no patch")
    node = graph.add("FMN_ZeroConceptAttention")
    graph.set(node, "prompts", "a photo of a zebra")
    graph.set(node, "phrase", "dog")
    page.wait_for_selector("[data-fmn=tokens] .fmn-warning")
    page.evaluate(BROWSE, graph.add("FMN_ApplyForgetPatch", 500))
    page.wait_for_selector(".fmn-card .fmn-warning")
    page.wait_for_timeout(500)
    assert all(page.locator(".fmn-warning").nth(k).evaluate(CONTRAST) >= 4.5 for k in range(2))
    screenshot(" shown")
    page.evaluate(PALETTE, "dark")
