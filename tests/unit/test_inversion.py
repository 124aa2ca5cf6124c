import pytest
import torch

from fmn_core.errors import ForgetError
from fmn_core.model.tokens import PLACEHOLDER
from fmn_core.training.inversion import InversionSettings, Inverter, invert_concept, starting_vectors
from fmn_core.training.noised_batches import denoising_loss
from fmn_core.training.references import References

TEMPLATES = ["a photo of a {}", "a {} in the park"]


def mean_loss(model, references, word, draws=30):
    """The loss of fixed draws, computed without the module's own loop."""
    generator, total = torch.Generator().manual_seed(11), 0.0
    for _ in range(draws):
        x0 = references.latents[:1]
        sigma = torch.rand(1, generator=generator) * 8 + 0.5
        x = x0 + sigma.view(1, 1, 1, 1) * torch.randn(x0.shape, generator=generator)
        prompt = model.encode([TEMPLATES[0].format(PLACEHOLDER)], [word])
        predicted = model.denoise(x, sigma, prompt)
        total += float(denoising_loss(predicted, x0, sigma, None))
    return total / draws


def test_inversion_lowers_the_denoising_loss(model, references):
    settings = InversionSettings(
        tokens=2, start="noise", steps=150, warmup=10, learning_rate=5e-2, weight_decay=0.0, batch=4
    )
    start = starting_vectors(model, settings)
    found = invert_concept(model, References(references.latents[:1]), TEMPLATES, settings)
    with torch.no_grad():
        assert mean_loss(model, references, found.embedding) < 0.9 * mean_loss(model, references, start)


def test_only_the_vectors_are_trained(model, references):
    before = {n: m.weight.clone() for n, m in model.linear_layers().items()}
    table = model.table.clone()
    found = invert_concept(model, references, TEMPLATES, InversionSettings(tokens=3, start="noise", steps=3))
    assert all(torch.equal(m.weight, before[n]) and m.weight.grad is None for n, m in model.linear_layers().items())
    assert torch.equal(model.table, table) and found.embedding["l"].shape == (3, model.dim)
    assert not found.embedding["l"].requires_grad


def test_gradient_of_a_vector_against_finite_differences(model, references):
    inverter = Inverter(model, references, TEMPLATES, InversionSettings(tokens=1, start="mean"), None)
    x0, sigma = references.latents[:1], torch.tensor([2.0])

    def loss(word):
        return denoising_loss(
            model.denoise(x0 * 1.5, sigma, model.encode([f"a {PLACEHOLDER}"], [word])), x0, sigma, None
        )

    vector = inverter.embedding["l"]
    loss({"l": vector}).backward()
    step = torch.zeros_like(vector)
    step[0, 5] = 1e-2
    with torch.no_grad():
        slope = (loss({"l": vector + step}) - loss({"l": vector - step})) / 2e-2
    assert float(vector.grad[0, 5]) == pytest.approx(float(slope), rel=0.05, abs=1e-5)


def test_starts(model):
    words = starting_vectors(model, InversionSettings(tokens=3, start="words", words="red apple"))["l"]
    assert torch.equal(words[:2], model.table[model.ids("red apple")])
    noise = starting_vectors(model, InversionSettings(tokens=3, start="noise"))["l"]
    torch.testing.assert_close(noise.norm(dim=1), model.table.norm(dim=1).mean().expand(3))
    torch.testing.assert_close(
        starting_vectors(model, InversionSettings(tokens=2, start="mean"))["l"][1], model.table.mean(0)
    )


def test_norms_are_pulled_to_those_of_the_vocabulary(model, references):
    far = {"l": torch.randn(2, model.dim) * 30}
    settings = InversionSettings(tokens=2, steps=60, warmup=0, weight_decay=0.2)
    found = invert_concept(model, references, TEMPLATES, settings, start=far)
    usual = model.table.norm(dim=1).mean()
    torch.testing.assert_close(found.embedding["l"].norm(dim=1), usual.expand(2), rtol=0.05, atol=0)


def test_warm_up_and_continuation(model, references):
    start = {"l": torch.randn(2, model.dim)}
    settings = InversionSettings(steps=1, warmup=1000, learning_rate=1e-3, weight_decay=0.0)
    found = invert_concept(model, references, TEMPLATES, settings, start=start)
    moved = (found.embedding["l"] - start["l"]).abs().max()
    assert 0 < float(moved) <= 1.1e-6


def test_one_seed_one_embedding(model, references):
    runs = [
        invert_concept(model, references, TEMPLATES, InversionSettings(start="noise", steps=4, seed=s)).embedding["l"]
        for s in (5, 5, 6)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_masked_loss_against_brute_force():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(1, 4, 2, 2, generator=g), torch.randn(1, 4, 2, 2, generator=g)
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])
    weight = min(1 + 1 / 4, 5)
    total = sum(
        float(mask[0, 0, i, j]) * weight * float(a[0, c, i, j] - b[0, c, i, j]) ** 2
        for c in range(4)
        for i in range(2)
        for j in range(2)
    )
    assert float(denoising_loss(a, b, torch.tensor([2.0]), mask)) == pytest.approx(total / (1.5 * 4), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "start", "message"),
    [
        ({"tokens": 0}, None, "tokens from 1 to 32"),
        ({"steps": 0}, None, "steps from 1"),
        ({"start": "magic"}, None, "start to be one of words"),
        ({"learning_rate": 0.0}, None, "learning_rate from 1e-07"),
        ({"start": "words", "words": ""}, None, "words to start from"),
        ({"start": "noise"}, {"l": torch.zeros(2, 7)}, "embedding for the text encoders"),
        ({"start": "noise"}, {"l": torch.full((2, 24), float("nan"))}, "finite vectors"),
    ],
)
def test_bad_settings_are_refused(model, references, change, start, message):
    with pytest.raises(ForgetError, match=message):
        invert_concept(model, references, TEMPLATES, InversionSettings(**change), start=start)


def test_a_lost_loss_stops_with_a_sentence(model):
    with pytest.raises(ForgetError, match="finite loss"):
        invert_concept(
            model,
            References(torch.full((1, 4, 4, 4), float("inf"))),
            TEMPLATES,
            InversionSettings(start="noise", steps=2),
        )
