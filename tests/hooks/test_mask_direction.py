"""Masks of any name that mark real tokens or padding: the look finds out which, or the layer is left out."""

import pytest
import torch
from torch import nn

import reference
from ncollapse import Tap, collect_features, find_layers, measure, watch

K, N, T, D = 3, 24, 6, 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, T, D, generator=GENERATOR)  # padding has contents of its own
Y = torch.arange(N) % K
LENGTHS = torch.randint(2, T, (N,), generator=GENERATOR)
SHORT = torch.arange(T) < LENGTHS[:, None]  # no sample is of full length
SOME_FULL = torch.arange(T) < torch.where(torch.arange(N) % 5 == 3, T, LENGTHS)[:, None]

FORMS = {
    "real bool": lambda real: real,
    "real int": lambda real: real.long(),
    "real float": lambda real: real.float(),
    "real (N, 1, 1, T)": lambda real: real[:, None, None],
    "padding bool": lambda real: ~real,
    "padding int": lambda real: (~real).int(),
    "padding float": lambda real: (~real).double(),
    "padding (N, T, 1)": lambda real: (~real).unsqueeze(2),
    "added -inf": lambda real: torch.zeros(real.shape).masked_fill(~real, -torch.inf),
    "added -10000": lambda real: (1 - real.float()) * -1e4,
}


class Masked(nn.Module):
    """Attends to the real tokens, and reads their largest numbers, so that no mean proves what is padding."""

    def __init__(self, form="real bool", read="largest", blocks=2):
        super().__init__()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(D, 2, batch_first=True) for _ in range(blocks)])
        self.form, self.read, self.head = form, read, nn.Linear(D, K)

    def real(self, mask):
        mask = mask.reshape(len(mask), -1)
        return mask == 0 if self.form.startswith(("padding", "added")) else mask != 0

    def forward(self, x, **masks):
        (mask,) = masks.values()
        real = self.real(mask)
        for block in self.blocks:
            x = x + block(x, x, x, key_padding_mask=~real)[0]
        if self.read == "tokens":
            return x
        if self.read == "largest":
            return self.head(x.masked_fill(~real.unsqueeze(2), -torch.inf).amax(dim=1))
        weights = x[:, :, 0].masked_fill(~real, -torch.inf).softmax(dim=1)
        return self.head((x * weights.unsqueeze(2)).sum(dim=1))


class Ignoring(Masked):
    """Takes a mask, but reads all tokens."""

    def forward(self, x, **masks):
        return self.head((x + self.blocks[0](x, x, x)[0]).amax(dim=1))


def made(network=Masked, *args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return network(*args, **kwargs).eval()


def batches(name, form, real, size=8, x=X):
    mask = FORMS[form](real)
    return [{"x": x[i : i + size], name: mask[i : i + size], "labels": Y[i : i + size]} for i in range(0, N, size)]


def expected(network, name, form, real, x=X):
    """PFC1 of each block's real tokens, from hooks on the network in float64, token by token."""
    kept, network = [], network.double()
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: kept.append(out[0].detach()))
    with torch.no_grad():
        network(x.double(), **{name: FORMS[form](real)})
    means = [torch.stack([tokens[marks].mean(dim=0) for tokens, marks in zip(out, real, strict=True)]) for out in kept]
    return [reference.feature_metrics(rows.numpy(), Y.numpy(), K)["pfc1"] for rows in means]


NAMES = ["mask", "attention_mask", "src_key_padding_mask", "pad", "seq_mask"]


REALS = [SHORT, SHORT.flip(1), SOME_FULL, SOME_FULL.flip(1)]
CASES = [(form, i % 4) for i, form in enumerate(FORMS)] + [("real int", 3), ("padding bool", 1), ("padding bool", 2)]


@pytest.mark.parametrize(("form", "real"), CASES)
def test_the_network_shows_which_mark_is_padding(form, real):
    name, real = NAMES[list(FORMS).index(form) % len(NAMES)], REALS[real]
    read = ["largest", "weighted"][list(FORMS).index(form) % 2]
    m = measure(made(Masked, form, read), batches(name, form, real), num_classes=K, metrics=["pfc1"])
    assert m.layers[:2] == ("blocks.0:mean", "blocks.1:mean")
    assert [m.value("pfc1", layer) for layer in m.layers[:2]] == pytest.approx(
        expected(made(Masked, form, read), name, form, real), rel=1e-4
    )
    assert f"padding where {name} is" in m.chosen


@pytest.mark.parametrize(("form", "name"), [("real int", "pad"), ("padding bool", "mask"), ("padding bool", "attention_mask")])
def test_a_batch_of_one_and_any_name(form, name):
    data = batches(name, form, SHORT, size=1)
    m = measure(made(Masked, form), data, num_classes=K, metrics=["pfc1"])
    assert m.value("pfc1", "blocks.1:mean") == pytest.approx(expected(made(Masked, form), name, form, SHORT)[1], rel=1e-4)


@pytest.mark.parametrize("read", ["tokens", "largest"])
def test_watch_and_networks_that_return_tokens(read):
    network = made(Masked, "padding bool", read)
    with watch(network, num_classes=K, mode="eval") as watched, torch.no_grad():
        for batch in batches("mask", "padding bool", SHORT):
            network(batch["x"], mask=batch["mask"])
            watched.update(batch["labels"])
    values = [watched.compute().value("pfc1", f"blocks.{i}:mean") for i in range(2)]
    assert values == pytest.approx(expected(made(Masked, "padding bool", read), "mask", "padding bool", SHORT), rel=1e-4)


@pytest.mark.parametrize("form", ["real bool", "padding bool", "added -inf"])
def test_a_first_batch_without_padding(form):
    real = SHORT.clone()
    real[:8] = True
    m = measure(made(Masked, form), batches("mask", form, real), num_classes=K, metrics=["pfc1"])
    assert m.value("pfc1", "blocks.1:mean") == pytest.approx(expected(made(Masked, form), "mask", form, real)[1], rel=1e-4)


def test_where_nothing_shows_which_mark_is_padding_layers_are_left_out_or_refused():
    data = batches("mask", "padding bool", SHORT)
    found = find_layers(made(Ignoring, blocks=1), data[0], num_classes=K)
    assert found.names == ("head.input",)
    assert found.left_out["blocks.0:mean"] == "is read without padding, and nothing shows which mark in mask is padding"
    with pytest.raises(ValueError, match=r"'blocks.0:mean' is read without .* which mark in mask is padding"):
        measure(made(Ignoring, blocks=1), data, num_classes=K, layers=[Tap("blocks.0", "mean")])
    own = Tap("blocks.0", lambda out: out[:, 0])
    assert measure(made(Ignoring, blocks=1), data, num_classes=K, layers=[own]).layers[0].startswith("blocks.0:")


ZEROS = X.masked_fill(~SHORT.unsqueeze(2), 0)


@pytest.mark.parametrize(
    ("name", "form", "real", "x", "words"),
    [
        ("mask", "padding bool", SOME_FULL, X, "padding where mask is 1, as samples of full length show"),
        ("mask", "real int", SOME_FULL, X, "padding where mask is 0, as samples of full length show"),
        ("mask", "padding int", SHORT, ZEROS, "padding where mask is 1, where all tokens are alike"),
        ("attention_mask", "padding int", SHORT, ZEROS, "padding where attention_mask is 1, where all tokens are alike"),
        ("mask", "real bool", SHORT, ZEROS, "padding where mask is 0, where all tokens are alike"),
        ("mask", "added -inf", SHORT, X, "padding where mask is negative"),
        ("attention_mask", "real int", SHORT, X, "padding where attention_mask is 0, as its name says"),
        ("memory_key_padding_mask", "padding bool", SHORT, X, "padding where memory_key_padding_mask is 1, as its name says"),
    ],
)
def test_what_a_network_ignores_is_known_by_full_samples_constant_padding_or_a_conventional_name(name, form, real, x, words):
    m = measure(made(Ignoring, blocks=1), batches(name, form, real, x=x), num_classes=K, metrics=["pfc1"])
    assert words in m.chosen
    assert m.value("pfc1", "blocks.0:mean") == pytest.approx(
        expected(made(Ignoring, blocks=1), name, form, real, x)[0], rel=1e-4
    )


class SometimesMasked(Masked):
    """Its mask may be missing."""

    def forward(self, x, mask=None):
        mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        return super().forward(x, mask=mask)


def test_a_mask_that_comes_later():
    full = [{"x": X[:8], "labels": Y[:8]}]
    with pytest.raises(ValueError, match="The first batch must show which tokens are padding, but 'mask' comes in a later"):
        measure(made(SometimesMasked), full + batches("mask", "real bool", SHORT)[1:], num_classes=K)
    real = SOME_FULL.clone()
    real[:8] = True
    found = measure(made(SometimesMasked), full + batches("mask", "real bool", real)[1:], num_classes=K)
    assert found.value("pfc1", "blocks.1:mean") == pytest.approx(expected(made(Masked), "mask", "real bool", real)[1], rel=1e-4)


class TimeFirst(Masked):
    """Takes tokens (T, N, D), as PyTorch does by default, and a mask (N, T)."""

    def __init__(self, form):
        super().__init__(form)
        self.blocks = nn.ModuleList([nn.MultiheadAttention(D, 2) for _ in range(2)])

    def forward(self, x, mask):
        real = self.real(mask)
        for block in self.blocks:
            x = x + block(x, x, x, key_padding_mask=~real)[0]
        return self.head(x.masked_fill(~real.T.unsqueeze(2), -torch.inf).amax(dim=0))


@pytest.mark.parametrize("form", ["real bool", "padding bool"])
def test_time_comes_first(form):
    mask = FORMS[form](SHORT)
    data = [((X[i : i + 8].transpose(0, 1), mask[i : i + 8]), Y[i : i + 8]) for i in range(0, N, 8)]
    features, _ = collect_features(made(TimeFirst, form), data, num_classes=K)
    with torch.no_grad():
        x = X.transpose(0, 1).double()
        out = made(TimeFirst, form).double().blocks[0](x, x, x, key_padding_mask=~SHORT)[0]
    rows = torch.stack([out[:, i][SHORT[i]].mean(dim=0) for i in range(N)])
    torch.testing.assert_close(features["blocks.0:mean"].double(), rows, rtol=1e-4, atol=1e-5)


def wide(real):
    """Which token sees which: real tokens see one another."""
    return real[:, None] & real[:, :, None]


WIDE = {
    "(N, T, T)": wide,
    "(N, T, T) hidden": lambda real: ~wide(real),
    "(N, heads, T, T)": lambda real: wide(real).unsqueeze(1).expand(-1, 2, -1, -1).long(),
    "(N, T, T) added": lambda real: torch.zeros(N, T, T).masked_fill(~wide(real), -torch.inf),
    "(N, 1, 1, T)": lambda real: real[:, None, None].float(),
    "(N, 1, 1, T) added": lambda real: torch.zeros(N, 1, 1, T).masked_fill(~real[:, None, None], -1e4),
    "(N, T, T) causal": lambda real: wide(real).tril(),
}


class Wide(Masked):
    """Takes a mask of any of these forms, under a name that says nothing."""

    def __init__(self, form, read):
        super().__init__("added" if "added" in form or "hidden" in form else "real", read)

    def real(self, mask):
        shown = (mask == 0) if self.form == "added" else (mask != 0)
        return shown.flatten(1, -2).any(dim=1)

    def forward(self, x, seen):
        return super().forward(x, seen=seen)


@pytest.mark.parametrize(("form", "side"), [(form, i % 4) for i, form in enumerate(WIDE)] + [("(N, T, T)", 1)])
def test_masks_of_any_shape_and_no_name_leave_out_padding(form, side):
    mask, read = WIDE[form](REALS[side]), ["largest", "weighted"][side % 2]
    data = [((X[rows], mask[rows]), Y[rows]) for rows in (slice(12), slice(12, N))]
    features, _ = collect_features(made(Wide, form, read), data, num_classes=K)
    kept, network = [], made(Wide, form, read).double()
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: kept.append(out[0].detach()))
    with torch.no_grad():
        network(X.double(), mask)
    for i, out in enumerate(kept):
        rows = torch.stack([tokens[marks].mean(dim=0) for tokens, marks in zip(out, REALS[side], strict=True)])
        torch.testing.assert_close(features[f"blocks.{i}:mean"].double(), rows, rtol=1e-4, atol=1e-5)


def test_a_mask_of_who_sees_whom_without_padding_is_none():
    causal = torch.ones(T, T, dtype=torch.bool).tril().expand(N, T, T)
    features, _ = collect_features(made(Wide, "(N, T, T)", "largest"), [((X, causal), Y)], num_classes=K)
    with torch.no_grad():
        rows = made(Wide, "(N, T, T)", "largest").blocks[0](X, X, X)[0].mean(dim=1)
    torch.testing.assert_close(features["blocks.0:mean"], rows, rtol=1e-4, atol=1e-5)


class OfHeads(nn.Module):
    """Takes a mask (N · heads, T, T), and reads the largest numbers of real tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(D, D), nn.MultiheadAttention(D, 2, batch_first=True), nn.Linear(D, K)

    def forward(self, x, attn_mask):
        hidden = attn_mask if attn_mask.dtype == torch.bool else attn_mask != 0
        h = self.embed(x)
        h = h + self.attention(h, h, h, attn_mask=attn_mask, need_weights=False)[0]
        return self.head(h.masked_fill(hidden[::2, 0].unsqueeze(2), -torch.inf).amax(dim=1))


@pytest.mark.parametrize("added", [False, True])
def test_a_mask_for_each_head_of_each_sample(added):
    hidden = (~SOME_FULL)[:, None, None].expand(-1, 2, T, -1).flatten(0, 1)
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf) if added else hidden
    torch.manual_seed(1)
    net = OfHeads().eval()
    cut = N // 2
    batches = [((X[:cut], mask[: 2 * cut]), Y[:cut]), ((X[cut:], mask[2 * cut :]), Y[cut:])]
    m = measure(net, batches, num_classes=K, layers=[Tap("embed", "mean")])
    with torch.no_grad():
        rows = (net.double().embed(X.double()) * SOME_FULL[:, :, None]).sum(1) / SOME_FULL.sum(1, keepdim=True)
    expected = reference.feature_metrics(rows.numpy(), Y.numpy(), K)["pfc1"]
    assert m.value("pfc1", "embed:mean") == pytest.approx(expected, rel=1e-4)
