"""The public surface, frozen: names, metric ids, commands and their options, recipes. Growth must be argued."""

import argparse
import inspect
import re
from pathlib import Path

import pytest

import fresh
import ncollapse
from ncollapse.cli.main import _parser
from ncollapse.cli.solve import read_request
from ncollapse.cli.surrogate_models import MODELS
from ncollapse.studies import RECIPES

NAMES = """
FLAGS METRICS ClassMoments ClassScatter CollapseMetrics Measurement PairedMoments Recorder Tap __version__ collect_features
effective_depth find_layers load_data load_network measure measure_checkpoints measure_features measure_store next_tokens
progression simplex_etf watch compare Diagnosis diagnose truncate
""".split()
ROOMS = """
analysis claims data depth drawing etf experiments hooks integrations margins measurement metrics models probe recipes records
report statistics studies surrogates targets testing train
""".split()

METRIC_IDS = """
pfc1 nc1 nc1_total cdnv separation pfc2 nc2_equinorm nc2_equiangularity nc2_max_angle
pfc2_tight_frame pfc2_orthoplex pfc2_seli softmax_code nc2_equinorm_weights
nc2_equiangularity_weights nc2_max_angle_weights nc2_etf_weights nc0 gnc2 hyperspherical_energy log_equinorm nc3 nc3_etf
nc3_cosine unc3 nc3_bias snc1 snc2 snc3 pfc3 pfc3_error strong_collapse weak_collapse nc4 nc4_mismatch accuracy
rank_between stable_rank_between participation_ratio_between entropy_rank_between rank_total stable_rank_total
participation_ratio_total entropy_rank_total pfc1.noise pfc2.noise pfc3.noise pfc1.population pfc2.population
nc1.population cdnv.population cdnv.low cdnv.high nc2_equinorm.population nc2_equiangularity.population
rank_between.population participation_ratio_between.population pfc3.leave_one_out
""".split()

COMMANDS = {
    "demo": "--out --seed",
    "run": "RECIPE --set --out --resume --json",
    "measure": "MODEL --data --num-classes --input-shape --split --checkpoint --unsafe-pickle --device --layers --batch-size "
    "--test-data --memory-budget --classes --min-per-class --ignore-index --metrics --convention --classifier --path "
    "--out --json --checkpoints --unit --counts-from-zero",
    "layers": "MODEL --data --num-classes --input-shape --split --checkpoint --unsafe-pickle --device --layers --batch-size "
    "--test-data --classifier --class-names --strangers --new-labels --max-samples --out --json",
    "import": "FILE --out",
    "report": "DIR --out --unverified",
    "verify": "DIR --json",
    "repair": "DIR --yes",
    "sweep": "RECIPE --over --with --seeds --set --engine --workers --address --out --json",
    "runs": "DIR --json",
    "reproduce": "NAME --seeds --first-seed --paper --out --json",
    "claims": "DIR --out --claims --json --markdown",
    "compare": "DIR --out --position",
    "animate": "DIR --out --frames",
    "recipes": "RECIPE --json",
    "solve": "MODEL --solver --seed --figure --all --json",
    "doctor": "--json",
    "completion": "SHELL",
}

RECIPE_NAMES = """
demo fc_fashion_mnist_small fc_mnist_small fc_mnist_1d conv_fashion_mnist_small conv_cifar10_small conv_stl10_small
conv_cifar100_small
fc_mnist conv_fashion_mnist conv_cifar10 conv_stl10 conv_cifar100
deep_rn1_small deep_rn1_plain deep_rn2_small deep_rn2_constant_small deep_t11_small deep_preln_t11_small vit_digits
deep_rn1 deep_rn2 deep_rn2_constant deep_t11 deep_preln_t11
""".split()
# Fields and solvers of `ncollapse solve`; the fields of the first solver are among them.
SURROGATES = {
    "ufm": "counts dim loss lambda_w lambda_h bias lambda_b tolerance max_iterations "
    "| proximal lbfgs gradient_descent closed_form",
    "mufm": "counts dim sigma lambda_w lambda_h loss bias draws | automatic eliminated lbfgs descent",
    "gufm": "counts dim loss lambda_w bias tolerance max_iterations memory | lbfgs closed_form",
    "layer_peeled": "counts dim energy_w energy_h | automatic newton proximal closed_form",
    "deep_ufm": "counts dim lambdas_w lambda_h activation bias | closed_form lbfgs low_rank",
    "near_collapse": "counts scale lambda_w lambda_h dim noise starts | eliminated closed_form",
    "unregularized_ufm": "counts dim size duration num_steps | flow",
    "central_path": "counts dim duration num_steps | flow",
    "batch_norm_net": "counts dim lambda_w width tolerance max_iterations memory | lbfgs closed_form",
    "weight_normalized_net": "counts dim sigma lambda_w width widths tolerance | smoothed lbfgs",
    "bounded_outputs": "counts radius tolerance max_iterations | projected closed_form",
    "normalized_features": "counts dim temperature tolerance max_iterations | projected closed_form",
    "max_margin": "counts dim learning_rate num_steps tolerance | flow closed_form",
    "fixed_etf": "counts dim loss energy_w energy_h tolerance max_iterations memory | lbfgs closed_form",
    "locally_elastic_sde": "counts kind alpha beta decay end num_steps noise | simulation",
}


def test_names():
    assert sorted(ncollapse.__all__) == sorted(NAMES)
    assert all(getattr(ncollapse, name) is not None for name in NAMES)
    assert {*NAMES, *ROOMS} <= set(dir(ncollapse))


def test_rooms_are_attributes_without_an_import():
    program = f"import ncollapse as nc; assert nc.surrogates.UFM; assert all(getattr(nc, room) for room in {ROOMS!r})"
    fresh.python("-c", program)
    inside = {path.name.removesuffix(".py") for path in Path(ncollapse.__file__).parent.iterdir() if path.name[0] != "_"}
    others = "cli default_device error_words extras groups machine near_words polygon polytopes py.typed"
    last = "recipe_fingerprint stop_signals tensor_fields torchrun version"
    assert inside - set(ROOMS) == {*others.split(), *last.split()}, "what no room of a user is"


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_documented(room):
    """A room's public names are those of its ``__all__``: each has a docstring, and so has every public method."""
    module = getattr(ncollapse, room)
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        assert value.__doc__, f"{room}.{name}"
        assert not value.__doc__.startswith(f"{name}("), f"{room}.{name} says only its fields"
        for key, member in vars(value).items() if inspect.isclass(value) else ():
            if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | classmethod)):
                assert member.__doc__, f"{room}.{name}.{key}"


def test_metric_ids():
    assert list(ncollapse.METRICS) == METRIC_IDS


def subcommands(parser):
    (choices,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return choices


def options_of(parsers):
    found = {}
    for name, parser in parsers.items():
        actions = [action for action in parser._actions if action.dest != "help"]
        found[name] = {action.option_strings[-1] if action.option_strings else action.metavar for action in actions}
    return found


def test_commands_and_options():
    commands = subcommands(_parser())
    assert options_of(commands) == {name: set(words.split()) for name, words in COMMANDS.items()}


def test_fields_and_solvers_of_surrogate_models():
    found = {name: f"{' '.join(read_request(name, []).words['fields'])} | {' '.join(MODELS[name].solvers)}" for name in MODELS}
    assert found == SURROGATES


def test_recipes():
    assert list(RECIPES) == RECIPE_NAMES
    assert all(function().name == name for name, function in RECIPES.items())


def test_every_constant_has_its_own_entry_in_the_reference():
    """Sphinx finds functions and classes by itself, and docs/conf.py checks that none is missing."""
    values = {name: getattr(room, name) for room in (getattr(ncollapse, room) for room in ROOMS) for name in room.__all__}
    constants = {name for name, value in values.items() if not inspect.isclass(value) and not inspect.isfunction(value)}
    pages = " ".join(page.read_text() for page in (Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
    assert constants == set(re.findall(r"autodata:: ncollapse\.\w+\.(\w+)", pages))
