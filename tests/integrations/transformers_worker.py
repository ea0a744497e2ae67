"""A training by two processes under DDP with the callback of transformers; the first process writes what came out."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from test_transformers import fit
from training import K, state

from ncollapse.integrations.transformers import NeuralCollapseCallback
from ncollapse.torchrun import leave

if __name__ == "__main__":
    out = Path(sys.argv[1])
    # Batches of four in each of two processes are the eight of one.
    callback = NeuralCollapseCallback(num_classes=K, metrics=["pfc1", "pfc3", "accuracy"], out=out / "mine")
    trainer = fit(out, callback, epochs=2, batch_size=4, ddp_backend="gloo")
    if trainer.is_world_process_zero():
        torch.save(state(trainer.model), out / "weights.pt")
    # The trainer does not leave the group, and a thread of gloo that still frees tensors when Python ends aborts the process.
    leave()
