"""Low-rank updates of peft and loralib on classifiers: the merged weight, on the features that the network classifies."""

import pytest
import torch
from torch import nn

import reference
from ncollapse import find_layers, measure, watch

K, D, N = 4, 8, 32
X, Y = torch.randn(N, 6, generator=torch.Generator().manual_seed(0)), torch.arange(N) % K
BATCHES = [(X[:20], Y[:20]), (X[20:], Y[20:])]


class Net(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.head = head

    def forward(self, x):
        return self.head(self.body(x))


def drawn(model, names):
    """Draw the updates, which start at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in names):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def assert_equals_oracle(m, features, logits, weight, labels=Y):
    H, W, y = features.detach().double().flatten(1).numpy(), weight.detach().double().numpy(), labels.numpy()
    decided = logits.detach().argmax(dim=1).numpy()
    M = reference.means(H, y, K)
    nearest = reference.nearest(H, M)
    M = M - M.mean(axis=0)
    nc3 = ((W / (W**2).sum() ** 0.5 - M / (M**2).sum() ** 0.5) ** 2).sum()
    assert m.value("accuracy") == pytest.approx((decided == y).mean(), abs=1e-14)
    assert m.value("nc4") == pytest.approx((decided == nearest).mean(), abs=1e-14)
    assert m.value("nc3") == pytest.approx(nc3, rel=1e-5)


@pytest.mark.parametrize("rank", [2, K])
@pytest.mark.parametrize("merged", [False, True])
def test_peft_on_the_head(rank, merged):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=["head"], lora_dropout=0.3)
    model = drawn(peft.get_peft_model(Net(nn.Linear(D, K)), config), ["lora_A", "lora_B"]).train()
    head = model.base_model.model.head
    if merged:
        model.merge_adapter()
    m = measure(model, BATCHES, num_classes=K)
    model.eval()
    weight = head.weight if merged else head.weight + head.get_delta_weight("default")
    features = model.base_model.model.body(X)
    assert_equals_oracle(m, features, model(X), weight)
    assert find_layers(model, X, num_classes=K).classifier == "base_model.model.head"
    assert m.layers[-1] == "base_model.model.body.3"


@pytest.mark.parametrize("merge", [True, False])
def test_loralib_on_the_head_while_training(merge):
    lora = pytest.importorskip("loralib")
    torch.manual_seed(0)
    model = drawn(Net(lora.Linear(D, K, r=2, lora_alpha=4, merge_weights=merge)), ["lora_A", "lora_B"]).train()
    weight = (model.head.weight + model.head.lora_B @ model.head.lora_A * model.head.scaling).detach()
    features, logits = model.body(X), model(X)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert_equals_oracle(measure(model, BATCHES, num_classes=K), features, logits, weight)
    with watch(model, num_classes=K) as watched:
        for x, y in BATCHES:
            model(x)
            watched.update(y)
        assert_equals_oracle(watched.compute(), features, logits, weight)
    assert model.training
    assert not model.head.merged
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("adapted", [["q_proj"], ["q_proj", "score"]])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.filterwarnings("ignore")  # what one library warns of in the other is theirs
def test_peft_on_the_score_of_a_causal_model_still_reads_the_last_token(adapted, side):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=D, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        num_labels=K, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForSequenceClassification(config)
    lora = peft.LoraConfig(r=2, lora_alpha=6, target_modules=adapted, task_type=None if "score" in adapted else "SEQ_CLS")
    model = drawn(peft.get_peft_model(model, lora), ["lora_A", "lora_B"]).eval()
    ids = torch.randint(1, 40, (N, 7), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(7) < (3 + torch.arange(N) % 5).unsqueeze(1)).long()
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.where(mask == 1, ids, 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    m = measure(model, [{**inputs, "labels": Y}], num_classes=K)
    with torch.no_grad():
        hidden = model.base_model.model.model(**inputs).last_hidden_state
        logits = model(**inputs).logits
    last = torch.where(mask == 1, torch.arange(7), -1).amax(dim=1)
    score = model.base_model.model.score
    weight = score.weight + score.get_delta_weight("default") if "score" in adapted else score.modules_to_save["default"].weight
    assert m.layers[-1].endswith(":last_token")
    assert_equals_oracle(m, hidden[torch.arange(N), last], logits, weight)
