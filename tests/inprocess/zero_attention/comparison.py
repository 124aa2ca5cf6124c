"""What the host samples against the reference, and columns counted by hand."""

from forget_me_not.nodes import host
from inprocess.sampling import sample
from inprocess.zero_attention.zero_reference import reference


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
