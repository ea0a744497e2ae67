"""Which row belongs to which label in networks of other libraries: prompt tuning, and an encoder with a decoder."""

import pytest
import torch

from ncollapse import measure, next_tokens

transformers = pytest.importorskip("transformers")

V, T = 40, 7
IDS = torch.randint(3, V, (12, T), generator=torch.Generator().manual_seed(0))
SMALL = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries warn of is theirs


def outputs(model, batch, layers):
    """What plain hooks see, and the logits."""
    seen, modules = {}, dict(model.named_modules())
    for layer in layers:
        name = layer.removesuffix(".input")
        if name == layer:
            modules[name].register_forward_hook(
                lambda _, __, out, layer=layer: seen.update({layer: out[0] if isinstance(out, tuple) else out})
            )
        else:
            modules[name].register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: seen.update({layer: next(iter((*args, *kwargs.values())))}),
                with_kwargs=True,
            )
    with torch.no_grad():
        return seen, model.eval()(**batch).logits


def check(m, seen, labels, first):
    """Compare the class means with those of the rows from ``first`` on, in float64."""
    y = labels[labels >= 0]
    for layer, output in seen.items():
        rows = output[:, first : first + labels.shape[1]][labels >= 0].double()
        means = torch.stack([rows[y == k].mean(0) for k in range(V) if (y == k).any()])
        torch.testing.assert_close(m.statistics[layer].moments.means, means, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_virtual", [1, 4])
def test_virtual_tokens_of_prompt_tuning_have_no_label(num_virtual):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=num_virtual)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, pad_token_id=0)), config)
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    m = measure(model, [batch], num_classes=V, unpack=next_tokens, metrics=["pfc1", "accuracy"])
    assert f"of {T + num_virtual} positions those from {num_virtual} on" in m.chosen
    seen, logits = outputs(model, batch, m.layers)
    assert all(output.shape[1] == T + num_virtual for output in seen.values())
    check(m, seen, IDS[:, 1:], num_virtual)
    decided = logits[:, num_virtual : num_virtual + T - 1].argmax(-1)
    assert m.value("accuracy") == pytest.approx(float((decided == IDS[:, 1:]).double().mean()))


@pytest.mark.parametrize("length", [T - 2, T, T + 2])
def test_the_encoder_of_t5_is_left_out(length):
    torch.manual_seed(0)
    config = {
        "vocab_size": V,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
    source = torch.randint(3, V, (12, length), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": source, "decoder_input_ids": IDS}
    m = measure(model, [batch], num_classes=V, unpack=lambda batch: (batch, IDS), metrics=["pfc1"], classes="present")
    assert not any(layer.startswith("encoder") for layer in m.layers)
    assert "encoder.block.0" in m.chosen
    seen, _ = outputs(model, batch, m.layers)
    check(m, seen, IDS, 0)
