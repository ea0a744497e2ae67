"""Networks by name: of a run directory, of a function of the user's, of torchvision, timm and transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ncollapse.data.catalog import empty_like_data, load_samples
from ncollapse.data.text_sets import TEXT_SETS
from ncollapse.groups import Processes
from ncollapse.hooks.untouched import device_of
from ncollapse.models import build_model
from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.run_directory import RunDirectory
from ncollapse.studies.held_recipe import held_recipe
from ncollapse.studies.machine import device_named
from ncollapse.targets.functions import as_user_error, import_function, write_as_function
from ncollapse.targets.library_networks import LIBRARIES, make_library_network
from ncollapse.train.checkpoint import check_between_epochs, load_weights


def load_network(
    name: str | Path,
    *,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    unsafe_pickle: bool = False,
    device: str | torch.device = "auto",
) -> nn.Module:
    """Return a network by its name, as ``ncollapse measure`` makes it, in the mode in which it was made.

    Weights that are drawn are drawn with seed 0: every call and every process has the same. PyTorch's random state is left as
    it was. Nothing is downloaded.

    Args:
        name: One of

            - a run directory: the network of its recipe, with the weights of its checkpoint;
            - ``"module:function"``: what the function returns, called without arguments;
            - ``"torchvision:NAME"`` or ``"timm:NAME"``: with weights as the library draws them;
            - ``"transformers:FOLDER"``: a folder that ``save_pretrained`` wrote, with its weights.
        num_classes: Outputs of a network of torchvision or timm; None takes the library's default. Others have their own.
        checkpoint: Weights to load: a safetensors file, or one of ``torch.save`` with a state dict, also under "state_dict",
            "model_state_dict", "model" or "net". Prefixes of compiled, parallel and Lightning modules are dropped.
        unsafe_pickle: Let the checkpoint run code (``torch.load(weights_only=False)``). Only if you trust its writer.
        device: Where to put it. "auto" takes a CUDA device if there is one, else the CPU.

    Raises:
        ValueError: If there is no such network, the function raises, the checkpoint does not fit or is damaged, or the device
            is not there.
        TypeError: If the function returns something else than a network.
        OSError: If a file is missing.
        ImportError: If the library is not installed.

    Example:
        >>> load_network("torch.nn:Identity", device="cpu")
        Identity()
    """
    return network_and_note(name, num_classes, checkpoint, unsafe_pickle, device)[0]


def network_and_note(
    name: str | Path,
    num_classes: int | None,
    checkpoint: str | Path | None,
    unsafe_pickle: bool,
    device: str | torch.device,
) -> tuple[nn.Module, str]:
    """Return a network by its name, and where its weights were found in a checkpoint, in words."""
    where, note = device_named(str(device), Processes()), ""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = _network_of_run(Path(name), checkpoint) if Path(name).is_dir() else _made(str(name), num_classes)
    if checkpoint is not None:
        with as_user_error(f"reading {checkpoint}"):
            note = load_weights(checkpoint, network, unsafe_pickle=unsafe_pickle)
    try:
        return network.to(where), note
    except NotImplementedError:  # as of parameters on the meta device, which ``measure`` names
        device_of(network)
        raise


def is_function(name: str) -> bool:
    """Return whether a name of a network or of data is that of a function of the user's."""
    return ":" in name and not Path(name).is_dir() and name.partition(":")[0] not in LIBRARIES


def _made(name: str, num_classes: int | None) -> nn.Module:
    source, colon, rest = name.partition(":")
    if not colon:
        raise ValueError(
            "A network must be a run directory, module:function, torchvision:NAME, timm:NAME or transformers:FOLDER, got "
            f"{name!r}. {write_as_function(name) or 'Check the spelling.'}".rstrip()
        )
    if source in LIBRARIES:
        network = make_library_network(source, rest, num_classes)
    else:
        function = import_function(name)
        with as_user_error(f"calling {name}"):
            network = function()
    if not isinstance(network, nn.Module):
        raise TypeError(f"{name} must return a torch.nn.Module, got {type(network).__name__}. Return the network itself.")
    return network


def _network_of_run(path: Path, checkpoint: str | Path | None) -> nn.Module:
    directory = RunDirectory(path)
    recipe = held_recipe(directory)
    if checkpoint is None:
        directory.check_checkpoint()
    if checkpoint is None and not directory.checkpoint.exists():
        raise RunDirectoryError(f"{path} holds a run without a checkpoint. Continue it with --resume.")
    # How many words a text set has is known once it is read.
    data = load_samples(recipe.data) if recipe.data.name in TEXT_SETS else empty_like_data(recipe.data)
    network = build_model(recipe.model, data.sample_shape, data.num_classes, recipe.seed, data.vocabulary)
    if checkpoint is None:
        load_weights(directory.checkpoint, network, fingerprint=recipe.fingerprint())
        check_between_epochs(directory.checkpoint)
    return network
