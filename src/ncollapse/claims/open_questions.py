"""The questions that the PFC paper leaves open, as data: other losses, labels, networks and depths."""

from functools import partial

from ncollapse.claims import gains, predicates
from ncollapse.claims.comparisons import depth_saturates, gained
from ncollapse.claims.evidence import by_seed
from ncollapse.claims.progressive_collapse import NAMES, falls, line_claims
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import RULES, Claim
from ncollapse.records.depth import EPSILON

FAMILY = "Questions that the papers leave open"
_OURS = "Not a claim of a paper: a question that it leaves open"
_N = RULES.least_draws
_MSE = (
    "ncollapse sweep demo --set train.loss=mse train.learning_rate=0.02 train.weight_decay=0.05 seed=300 "
    f"--seeds {_N} --out runs/mse"
)
_LABELS = (
    "ncollapse sweep demo --set data.corrupt=1 train.epochs=300 train.weight_decay=0.003 seed=400 "
    f"--seeds {_N} --out runs/labels"
)
_CONNECTIONS = (
    f"ncollapse sweep demo --over model.connections=residual,plain,dense --set seed=3600 --seeds {_N} --out runs/connections"
)
_OPTIMIZERS = (
    "ncollapse sweep demo --over train.optimizer=sgd,adam --with train.learning_rate=0.1,0.001 --set seed=1100 "
    f"--seeds {_N} --out runs/optimizers"
)
_NC0 = "Zhao et al. (2026), ICLR; derived for every optimizer in docs/theory.md, 4.3"
_DEPTH = f"ncollapse sweep demo --over model.num_blocks=5,10 --set seed=600 --seeds {_N} --out runs/depth"

_question = partial(Claim, family=FAMILY, terminal=True)
_mse = partial(_question, about=predicates.has_squared_error, command=_MSE)
_random = partial(_question, about=predicates.has_random_labels, command=_LABELS)
_skips = partial(_question, about=predicates.has_paper_training, terminal=False, command=_CONNECTIONS)

_OTHERS = {"plain": "networks without skip connections", "dense": "networks with dense connections"}
_by_skips = partial(gained, "model.connections", predicates.RESIDUAL, default=predicates.RESIDUAL, before=True)


def _orders(make: partial[Claim], prefix: str, statement: str) -> list[Claim]:
    return [
        make(
            f"{prefix}_{metric.removesuffix('_error')}",
            statement.format(name),
            _OURS,
            f"{'The error 1 − PFC3' if metric == 'pfc3_error' else name} rises at no step of depth and falls overall",
            falls(metric),
        )
        for metric, name in NAMES.items()
    ]


def _of_connections(kind: str, words: str) -> list[Claim]:
    make = partial(_question, about=partial(predicates.has_connections, connections=kind), command=_CONNECTIONS)
    line = f"The geodesic predicts {{metric}} of {words} too, layers at their {{place}}"
    return [
        *_orders(make, kind, f"{{}} progresses over all layers of {words} too"),
        *line_claims(make, f"{kind}_line", line, _OURS),
    ]


QUESTIONS = (
    _question(
        "depth",
        "The effective depth saturates: a deeper network needs no more of its blocks",
        f"{_OURS}; the effective depth is that of Galanti et al. (2022)",
        "Among runs of one seed that differ in depth only: the first layer with nearest-center error at most "
        f"{EPSILON:g} comes no later in the deepest network than in the second deepest, where it is not the first block",
        depth_saturates,
        about=predicates.is_paper_setting,
        terminal=False,
        command=_DEPTH,
    ),
    *(
        _question(
            f"flow_{rival}",
            f"The flow of class means predicts PFC2 of the layers better than the {words}",
            "Derived in docs/theory.md, 3.16. A prediction of this library",
            f"RMS error of the {words} over the interior layers minus that of the affine-invariant geodesic, layers at their "
            "projection on the chord",
            partial(
                by_seed,
                statistic=f"error of the {words} minus that of the flow, decades; mean",
                test=gains.flow_lead(i),
                before=True,
            ),
            about=predicates.is_paper_setting,
            command=_DEPTH,
        )
        for i, (rival, words) in enumerate({"line": "straight line", "baseline": "log-linear baseline"}.items())
    ),
    *_orders(_mse, "mse", "{} progresses over all layers under the mean squared error too"),
    *line_claims(
        _mse, "mse_line", "The geodesic predicts {metric} under the mean squared error too, layers at their {place}", _OURS
    ),
    _random(
        "labels_last",
        "The last layer collapses on random labels too",
        _OURS,
        "Decades by which PFC1 of the last layer falls in training, on a training set whose labels are all random",
        partial(
            by_seed,
            statistic="fall of PFC1 in training, decades; mean",
            test=gains.pfc1_lost_in_training,
        ),
    ),
    *_orders(_random, "labels", "{} progresses over all layers on random labels too"),
    *(claim for kind, words in _OTHERS.items() for claim in _of_connections(kind, words)),
    _skips(
        "skips_straighten",
        "Skip connections straighten the forward propagation",
        "Section II-B: a residual block is a step of a flow. The comparison is ours",
        "Straightness of the residual network minus that of the network with other connections and the same seed",
        _by_skips("straightness", BY_KEY["straightness"].read),
    ),
    _skips(
        "skips_line",
        "Skip connections make the straight line predict the layers",
        "Section II-B: a residual block is a step of a flow. The comparison is ours",
        "The baseline's error minus the line's in PFC1, layers at their projection: residual network minus the other with the "
        "same seed",
        _by_skips("error of baseline minus line in PFC1", gains.line_lead("pfc1")),
    ),
    _question(
        "nc0",
        "The rows of the classifier come nearer to a sum of zero (NC0) under SGD with weight decay",
        f"{_NC0}. Theory demands it for this training",
        "The norm of the sum of the classifier's rows, relative to that of all, falls in training",
        partial(by_seed, statistic="share of seeds in which NC0 falls in training", test=predicates.nc0_falls),
        about=predicates.has_sgd_with_decay,
        terminal=False,
        checks_code=True,
        command=_OPTIMIZERS,
    ),
    _question(
        "nc0_optimizer",
        "Under Adam the rows of the classifier sum to zero less closely than under SGD",
        _NC0,
        "Fall of NC0 in training under SGD minus that under Adam with the same seed, decades",
        gained(
            "train.optimizer",
            "sgd",
            "fall of NC0 in training",
            gains.nc0_lost_in_training,
            default="sgd",
            tied=("train.learning_rate",),
        ),
        about=predicates.has_paper_training,
        terminal=False,
        command=_OPTIMIZERS,
    ),
)
