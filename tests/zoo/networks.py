"""Public networks, untrained and as their libraries build them, with a few samples each: the rows of docs/networks.md."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

import ncollapse as nc

K = 4
VOCABULARY = 64
_LIBRARIES: list[torch.library.Library] = []


class Network(NamedTuple):
    """One network of a library, and two batches for it."""

    library: str
    name: str
    build: Callable[[], nn.Module]
    batches: Callable[[], list[Any]]
    num_classes: int = K
    next_tokens: bool = False


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def declare_operators() -> None:
    """Make torchvision importable beside another build of torch, by two operators that no network here runs."""
    if not installed("torchvision") or _LIBRARIES:
        return
    with contextlib.suppress(RuntimeError):
        import torchvision  # noqa: F401

        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)  # forgotten operators are undefined again


def built(network: Network) -> nn.Module:
    """A network in training mode, the same each time, without zeros for weights: an untrained one may end in zeros."""
    declare_operators()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network.build()
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return model.train()


def measured(network: Network, model: nn.Module) -> nc.Measurement:
    """What the library finds by itself."""
    unpack = {"unpack": nc.next_tokens, "classes": "all"} if network.next_tokens else {}
    return nc.measure(model, network.batches(), num_classes=network.num_classes, layers="auto", **unpack)


def images(size: int, key: str | None = None) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 3, size, size, generator=generator), torch.arange(10) % K
    return [(x[part], y[part]) if key is None else {key: x[part], "labels": y[part]} for part in (slice(6), slice(6, 10))]


def texts(labels: str = "sample", side: str = "right") -> list[Any]:
    """Token ids with padding, of which the first two samples have none and some."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (10, 9), generator=generator)
    length = torch.tensor([9, 6, 7, 9, 5, 8, 6, 9, 7, 4])
    mask = (torch.arange(9) < length[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.where(mask == 1, ids, 1)
    y = {"sample": torch.arange(10) % K, "token": torch.where(mask == 1, ids % K, -100), "next": None}[labels]
    whole = {"input_ids": ids, "attention_mask": mask} | ({} if y is None else {"labels": y})
    return [{name: value[part] for name, value in whole.items()} for part in (slice(6), slice(6, 10))]


def _torchvision(name: str, size: int = 64, **options: Any) -> Network:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=K, **options)

    return Network("torchvision", name, build, lambda: images(size))


def _timm(name: str, size: int = 64, **options: Any) -> Network:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=K, **options)

    return Network("timm", name, build, lambda: images(size))


def _transformer(
    name: str, configuration: dict[str, Any], batches: Callable[[], list[Any]], num_classes: int = K, next_tokens: bool = False
) -> Network:
    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        model = getattr(transformers, name)
        return model(model.config_class(**configuration))

    return Network("transformers", name, build, batches, num_classes, next_tokens)


_BODY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "num_labels": K}
_TEXT = _BODY | {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
_IMAGE = _BODY | {"image_size": 32, "patch_size": 8}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4} | {name: _TEXT[name] for name in _TEXT if name.endswith("_id")}
_GPT2 |= {"vocab_size": VOCABULARY, "num_labels": K}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "num_labels": K}
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}

NETWORKS: tuple[Network, ...] = (
    _torchvision("resnet18"),
    _torchvision("resnet50"),
    _torchvision("wide_resnet50_2"),
    _torchvision("densenet121"),
    _torchvision("vgg16_bn"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("efficientnet_b0"),
    _torchvision("convnext_tiny"),
    _torchvision("vit_b_16", image_size=64),
    _torchvision("swin_t"),
    _torchvision("regnet_y_400mf"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("squeezenet1_1"),
    _torchvision("googlenet", init_weights=False),
    _timm("mixer_s16_224", img_size=64),
    _timm("deit_tiny_distilled_patch16_224", img_size=64),
    _timm("cait_xxs24_224", img_size=64),
    _timm("xcit_nano_12_p16_224"),
    _timm("beit_base_patch16_224", img_size=64),
    _timm("pvt_v2_b0"),
    _timm("poolformer_s12"),
    _timm("convmixer_768_32"),
    _timm("nf_resnet26"),
    _timm("hrnet_w18_small"),
    _timm("dla34"),
    _timm("repvgg_a0"),
    _timm("mobilevit_xxs"),
    _timm("edgenext_xx_small"),
    _timm("twins_svt_small"),
    _timm("inception_v4", 96),
    _transformer("BertForSequenceClassification", _TEXT, texts),
    _transformer("RobertaForSequenceClassification", _TEXT, texts),
    _transformer("GPT2ForSequenceClassification", _GPT2, texts),
    _transformer("GPT2LMHeadModel", _GPT2, lambda: texts("next"), VOCABULARY, next_tokens=True),
    _transformer("LlamaForSequenceClassification", _TEXT, lambda: texts(side="left")),
    _transformer("LlamaForCausalLM", _TEXT, lambda: texts("next"), VOCABULARY, next_tokens=True),
    _transformer("T5EncoderModel", _T5, texts),
    _transformer("T5ForTokenClassification", _T5, lambda: texts("token")),
    _transformer("ViTForImageClassification", _IMAGE, lambda: images(32, "pixel_values")),
    _transformer("SwinForImageClassification", _SWIN | {"num_labels": K}, lambda: images(32, "pixel_values")),
    _transformer("AlbertForSequenceClassification", _TEXT | {"embedding_size": 16}, texts),
)
