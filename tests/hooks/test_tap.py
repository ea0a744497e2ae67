"""How a tap makes one row a sample of a module's output, against loops over samples and positions."""

import pytest
import torch

from ncollapse import Tap

N, T, D = 5, 4, 3
LENGTHS = (4, 1, 3, 2, 4)


def tokens(dtype=torch.float32):
    return torch.randn(N, T, D, generator=torch.Generator().manual_seed(0)).to(dtype)


def mask_of(side):
    """Which tokens are real: the first or the last ones of each sample."""
    rows = [[1] * length + [0] * (T - length) for length in LENGTHS]
    return torch.tensor(rows if side == "right" else [row[::-1] for row in rows])


def by_loop(pool, output, mask):
    rows = []
    for i in range(N):
        real = [output[i, t].double() for t in range(T) if mask is None or mask[i, t] == 1]
        rows.append({"cls": output[i, 0].double(), "last_token": real[-1], "mean": sum(real) / len(real)}[pool])
    return torch.stack(rows)


@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("pool", ["mean", "cls", "last_token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tokens_are_pooled_as_the_attention_mask_says(pool, side, dtype):
    output, mask = tokens(dtype), None if side is None else mask_of(side)
    if mask is not None and pool != "cls":
        output[mask == 0] = float("nan")  # what padding holds has no part in it
    rows = Tap("a", pool).read(output, mask)
    # A mean of bfloat16 numbers holds more digits than they do.
    assert rows.dtype == (torch.float32 if (pool, dtype) == ("mean", torch.bfloat16) else dtype)
    expected = by_loop(pool, output, mask)
    assert torch.allclose(rows.double(), expected, rtol=1e-6 if pool == "mean" else 0, atol=1e-7 if pool == "mean" else 0)


def test_a_mask_may_be_boolean_and_one_of_other_positions_is_none():
    output = tokens()
    assert torch.equal(Tap("a", "mean").read(output, mask_of("left").bool()), Tap("a", "mean").read(output, mask_of("left")))
    assert torch.equal(Tap("a", "last_token").read(output, torch.ones(N, 2 * T)), output[:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_averaged_over_pixels(dtype):
    maps = torch.randn(N, D, 2, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = sum(maps[:, :, u, v].double() for u in range(2) for v in range(3)) / 6
    assert torch.allclose(Tap("a", "mean").read(maps, None).double(), expected, rtol=1e-6, atol=1e-7)


def test_flattening_takes_every_number_in_order():
    output = tokens()
    assert torch.equal(Tap("a").read(output, mask_of("right")), torch.stack([sample.reshape(-1) for sample in output]))


def test_a_function_gets_the_output_and_names_the_layer():
    def largest(output):
        return output.amax(dim=1)

    tap = Tap("a", largest)
    assert tap.label == "a:largest"
    assert torch.equal(tap.read(tokens(), None), tokens().amax(dim=1))
    assert (Tap("a").label, Tap("a", "cls").label, Tap("a", lambda output: output).label) == ("a", "a:cls", "a:<lambda>")


@pytest.mark.parametrize(
    ("function", "got"), [(lambda h: h, r"\(5, 4, 3\)"), (lambda h: h[:, 0, 0], r"\(5,\)"), (lambda h: h.tolist(), "list")]
)
def test_a_function_must_return_one_row_a_sample(function, got):
    with pytest.raises(ValueError, match=rf"The pool of tap 'a:.*' must return a tensor of shape \(N, d\), got {got}\."):
        Tap("a", function).read(tokens(), None)


@pytest.mark.parametrize(("pool", "shape"), [("mean", (5, 3)), ("cls", (5, 3, 2, 2)), ("last_token", (5, 3, 2, 2))])
def test_without_positions_there_is_nothing_to_pool(pool, shape):
    with pytest.raises(ValueError, match=rf"Tap 'a:{pool}' needs an output of shape \(N, T, D\), got .* Use pool='flatten'"):
        Tap("a", pool).read(torch.zeros(shape), None)
