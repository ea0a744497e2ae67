"""A training by two processes under DDP: without the callback, with it, and with a folder that the first cannot write to."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning.pytorch as pl
import torch
from test_lightning import QUIET, Module, loader
from training import K

from ncollapse.integrations.lightning import NeuralCollapseCallback
from ncollapse.torchrun import leave


def fit(folder, *callbacks):
    pl.seed_everything(3)
    trainer = pl.Trainer(
        max_epochs=2, devices=2, strategy="ddp", callbacks=list(callbacks), logger=False, default_root_dir=folder, **QUIET
    )
    module = Module()
    trainer.fit(module, loader())
    return module, trainer


if __name__ == "__main__":
    out = Path(sys.argv[1])
    plain, _ = fit(out)
    callback = NeuralCollapseCallback(num_classes=K, network="net", log=out / "neural_collapse.csv", out=out / "mine")
    module, trainer = fit(out, callback)
    # Running means differ between processes; those of the first are measured.
    if trainer.is_global_zero:
        torch.save(plain.net.state_dict(), out / "plain.pt")
        torch.save(module.net.state_dict(), out / "weights.pt")
        (out / "samples.txt").write_text(str(callback.last.num_samples))
    try:
        fit(out, NeuralCollapseCallback(num_classes=K, network="net", out=out / "plain.pt" / "mine"))
    except OSError as error:
        (out / f"error{trainer.global_rank}.txt").write_text(str(error))
    # Lightning destroys groups of NCCL only, and a thread of gloo that still frees tensors when Python ends aborts the process.
    leave()
