"""Write docs/refusals.md from the flags and the exceptions of the library: ``make docs-pages``."""

import inspect
from importlib import import_module
from pathlib import Path

import ncollapse
from ncollapse import FLAGS

HEADER = """# When it refuses

A wrong number is worse than none. Three things can happen instead of a plain value:

1. **An error.** The call ends before it measures, or names the batch in which it found the problem. Every message has three parts: what was
   needed, what came, what to do. The network is left as it was.
2. **A value with a flag.** The number is right, and the flag says what to keep in mind. The table has a column for flags, and
   a printed measurement lists them below the table.
3. **nan with a flag.** The value is not defined for these features, and the flag says why. nan never means 0.

## What people meet first

| message begins with | cause | cure |
|---|---|---|
| "labels must be in [0, 10), got 12" | `num_classes` is too small, or labels start at 1 | `num_classes=13`, or shift the labels. To leave a label out: `ignore_index=` |
| "Batches must yield (inputs, labels)" | a batch holds more than two parts | `unpack=lambda batch: (batch[0], batch[1])` |
| "Features must be finite" | the network has diverged, or the inputs contain NaN | lower the learning rate; look at the batch that is named |
| "The second pass must see the features of the first" | the loader augments at random or drops samples | turn both off, or raise `memory_budget=` so that one pass is enough |
| "… a second pass is needed, but the batches can be iterated only once" | a generator was passed, and the features do not fit in memory | pass a list or a `DataLoader`, or raise `memory_budget=` |
| "Layer … must have one row per label" | the layer mixes samples, or has one row for each token | tap another module, or a `Tap` with a pool |
| "Classifier … must give the network's logits as W h + b" | the named module is not the last linear map | leave `classifier=` out, or pass the pair (W, b) |
| "reference must have layer …" | the two splits were measured at different layers | measure both with the same layers and network |
| "All parameters must have values" | weights are not loaded yet, or are offloaded | load them; run a lazy network once |
| "watch needs a network that is not compiled" | hooks do not run in compiled code | watch before `torch.compile`, or use `measure` |

The site has a page with every message: "Every message", under Reference.

"""
_CURES = {
    "empty_class": 'Pass `classes="present"`, or measure data that has all classes.',
    "no_between": "Look at the layer: at an untrained or dead layer this is the truth. Leave it out of `layers=`.",
    "no_variance": "The layer returns a constant. Leave it out, or check that the weights were loaded.",
    "two_classes": "Use `nc1`, `cdnv` and `pfc3`: for two classes the angles say nothing.",
    "low_dimension": "Use `pfc2_tight_frame`, which can reach 0, and for K ≤ 2d `softmax_code` and `pfc2_orthoplex`: "
    "[more classes than dimensions](how-to-choose.md#more-classes-than-dimensions).",
    "no_orthoplex": "Use `pfc2_tight_frame`, which is defined for any number of classes.",
    "no_softmax_code": "Use `pfc2_tight_frame`. `ncollapse.metrics.one_vs_rest_distance` returns the margin itself, for any K and d.",
    "odd_on_line": "Measure a wider layer.",
    "rank_deficient": "`rank_between` says how many directions there are. Means that coincide or lie in a plane are the usual cause.",
    "coincident_means": "`cdnv_matrix` of the moments shows which classes. Merge them, or leave one out with `classes=`.",
    "mean_at_center": "Leave the class out with `classes=`, or use `pfc2`, which needs no angles.",
    "zero_classifier": "A class that was never trained has a zero row. Leave it out with `classes=`.",
    "classifier_unproven": "`Measurement.chosen` says why. Pass the module or the pair: `classifier=(W, b)`.",
    "classifier_not_finite": "The training has diverged. Measure an earlier checkpoint.",
    "zero_vector": "Dead features: look at the activation in front of this layer.",
    "coincident_directions": "`cdnv` says whether the means coincide as well. Leave one of the two classes out.",
    "imbalanced": "Use balanced data, or `nc3`, which is defined for unequal counts.",
    "one_class": "Measure two classes or more.",
    "single_samples": "Measure more samples per class, or pass `min_per_class=2`.",
    "single_centers": "Measure more samples per class, or decide by training means: `reference=`.",
    "single_left_out": "Measure more samples per class, or pass `min_per_class=2`.",
    "same_centers": "As for `no_between`: the layer does not tell classes apart.",
    "undersampled": 'Measure more samples, or estimate the population: `metrics=["core", "population"]` ([sampling noise](sampling.md)).',
    "noise_only": "Measure more samples. So far they do not show that the classes differ.",
    "few_samples": "Measure at least four samples of every class, or pass `min_per_class=4`.",
    "no_noise": "Nothing to do: at exact collapse there is no noise.",
    "unresolved": "Measure more samples, and treat the value as a rough guide.",
    "unbounded": "Measure more samples; `cdnv.low` still holds.",
    "many_classes": "Choose classes: `classes=[...]` or `min_per_class=`.",
    "over_budget": "Raise `memory_budget=`, or use `measure`, which can read the data twice.",
    "own_means": "Measure the training set first and pass it: `reference=train`.",
}
_KINDS = {
    "DataNotFoundError": "Its message lists the places. `ncollapse doctor` shows what is found; set `$NCOLLAPSE_DATA`.",
    "DataFileError": "Delete the file and fetch it again; nothing in it was executed.",
    "RecipeError": "The message names near recipes or fields. `ncollapse recipes NAME` lists all fields.",
    "RunDirectoryError": "Choose another folder, or continue the run with `--resume`.",
    "ReportError": "`ncollapse verify DIR` says which files are whole, `ncollapse repair DIR` what can be done.",
    "CheckpointError": "Build the model with the settings that the file was saved with, or save its state dict again.",
    "TrainingDiverged": "Lower the learning rate, or clip gradients with `train.clip_norm=1`. The last checkpoint is good.",
    "TrainingStopped": "The training was asked to stop. Save its `EpochPart`, and continue from it.",
    "RunStopped": "Nothing is lost: the same command with `--resume` continues.",
    "NotConverged": "Give the solver more iterations, take another one, or accept the point with `allow_unconverged=True`.",
}


def flag_lines() -> list[str]:
    """Write a section for each flag: its cause from the code, and its cure."""
    return [f"### {flag}\n\n**Cause:** {FLAGS[flag]}.\n**Cure:** {_CURES[flag]}\n" for flag in FLAGS]


def exceptions() -> dict[str, type]:
    """Find the exceptions that are public names of a room."""
    rooms = sorted(path.parent.name for path in Path(ncollapse.__file__).parent.glob("*/__init__.py"))
    modules = [import_module(f"ncollapse.{room}") for room in rooms]
    values = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: value for name, value in values.items() if inspect.isclass(value) and issubclass(value, Exception)}


def kind_lines() -> list[str]:
    """Write a row for each kind of error."""
    found = exceptions()
    rows = []
    for name in _KINDS:
        first = (found[name].__doc__ or "").strip().splitlines()[0]
        rows.append(f"| `{name}` | {first} | {_KINDS[name]} |")
    return ["| error | meaning | what to do |", "|---|---|---|", *rows]


def render() -> str:
    """Write the page as Markdown."""
    missing = FLAGS.keys() ^ _CURES.keys() | exceptions().keys() ^ _KINDS.keys()
    if missing:
        raise SystemExit(f"docs/write_refusals.py needs a cure for each flag and error, got {sorted(missing)}")
    kinds = "\n".join(kind_lines())
    text = "Wrong arguments are a `ValueError` or a `TypeError`. These kinds have a name of their own:"
    return f"{HEADER}## Kinds of errors\n\n{text}\n\n{kinds}\n\n## Flags\n\n" + "\n".join(flag_lines())


if __name__ == "__main__":
    Path(__file__).with_name("refusals.md").write_text(render())
