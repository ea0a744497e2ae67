"""The models of ``ncollapse solve``: the parts that make them, the defaults of their fields, and their solvers."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from ncollapse.cli.fields import FromCounts

# torch takes seconds to import: a part is the name of a class in ncollapse.surrogates, or a function that imports what it
# needs. Annotations of such a function are read when the command runs: they name no type of torch.
Part = str | Callable[..., Any]


class SolvableModel(NamedTuple):
    """A model of ``ncollapse solve``."""

    text: str
    # They are called in turn to make the problem, each with the result of the one before. Their parameters are the fields.
    parts: tuple[Part, ...]
    # Defaults of fields that have none of their own, or another one.
    defaults: Mapping[str, Any]
    # Ways to solve it: solvers, or functions of the problem. The first is the default.
    solvers: Mapping[str, Part]
    # Fields that show what the model is about.
    example: str


def gaussian_classes(
    *,
    counts: Annotated[tuple[int, ...], "n_k, samples of each class, all alike."],
    dim: Annotated[int, "d, dimension of the data."],
    sigma: Annotated[float, "Standard deviation of the data around class means on the unit sphere."] = 0.3,
    seed: int,
) -> Any:
    """Draw data around class means of norm one, and their labels."""
    from ncollapse.data import gaussian_mixture
    from ncollapse.surrogates.solving.arguments import check_balanced, check_counts

    check_counts(counts)
    check_balanced(counts, "The data")
    data = gaussian_mixture(len(counts), dim, counts[0], components=1, radius=1.0, noise=sigma, seed=seed)
    return data.inputs, data.labels


def several_draws(
    problem: Any,
    *,
    counts: tuple[int, ...],
    dim: int,
    sigma: float,
    draws: Annotated[int, "Data sets in a figure."] = 5,
    seed: int,
) -> Any:
    """Add the way to draw more data sets."""
    from ncollapse.surrogates.extras import DrawnMUFM

    return DrawnMUFM.on(
        problem, lambda number: gaussian_classes(counts=counts, dim=dim, sigma=sigma, seed=seed + number), draws
    )


def normal_inputs(
    *,
    counts: Annotated[tuple[int, ...], "n_k, samples of each class."],
    dim: Annotated[int, "d, dimension of the inputs, which are standard normal."],
    seed: int,
) -> Any:
    """Draw inputs without structure, of full rank, and labels."""
    import torch

    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), dim, generator=generator, dtype=torch.float64), labels


def near_data(
    model: Any,
    *,
    dim: Annotated[int, "d, dimension of the data, at least K."],
    noise: Annotated[float, "Standard deviation of the data around their class means."] = 0.01,
    seed: int,
) -> Any:
    """Make the model with drawn data."""
    from ncollapse.surrogates.extras import NearlyCollapsed

    return NearlyCollapsed(*model.inputs(dim, noise, seed), lambda_w=model.lambda_w, lambda_h=model.lambda_h, model=model)


def falling_rates(
    *,
    counts: Annotated[tuple[int, ...], "n_k, samples of each class, all alike."],
    kind: Annotated[Literal["I", "L"], "I-model or L-model."] = "L",
    alpha: Annotated[float, "The effect within a class is alpha · t^-decay."] = 1.0,
    beta: Annotated[float, "The effect between classes is beta · t^-decay."] = -0.5,
    decay: Annotated[float, "Power by which both effects fall."] = 0.0,
) -> Any:
    """Solve the equation from time 1 on."""
    from ncollapse.surrogates import LocallyElasticSDE

    def falling(scale: float) -> Callable[[float], float]:
        return lambda time: scale * time**-decay

    return LocallyElasticSDE(len(counts), kind=kind, alpha=falling(alpha), beta=falling(beta), start_time=1.0)


def simulation(
    sde: Any,
    *,
    counts: tuple[int, ...],
    end: Annotated[float, "Last time; the first is 1."] = 20.0,
    num_steps: Annotated[int, "Steps of the Euler-Maruyama method."] = 1000,
    noise: Annotated[float, "Standard deviation of each coordinate at time one."] = 0.1,
    seed: int,
) -> Any:
    """Draw a cloud that starts around unit class means."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(sde.num_classes, sde.num_classes, generator=generator, dtype=torch.float64)
    initial = torch.eye(sde.num_classes, dtype=torch.float64) + 0.3 * noisy
    times = torch.linspace(1, end, num_steps + 1, dtype=torch.float64)
    return sde.solution(sde.simulate(initial, times, counts=counts, noise=noise, seed=seed))


def flow_from_small(
    problem: Any,
    *,
    size: Annotated[float, "Factor on the standard normal start."] = 1e-3,
    duration: Annotated[float, "Last time."] = 20.0,
    num_steps: Annotated[int, "Steps of Runge-Kutta."] = 2000,
    seed: int,
) -> Any:
    """Follow the gradient flow from a small start."""
    start = {name: size * part for name, part in problem.start(seed).items()}
    return problem.flow(start, duration=duration, num_steps=num_steps)


def descent(
    problem: Any,
    *,
    learning_rate: Annotated[float, "Step length."] = 0.1,
    num_steps: Annotated[int, "Steps of gradient descent."] = 10_000,
    seed: int,
) -> Any:
    """Follow plain gradient descent from a standard normal start."""
    from ncollapse.surrogates.solving.flows import descend

    return descend(problem, problem.start(seed), learning_rate, num_steps)


def flow(
    problem: Any,
    *,
    duration: Annotated[float, "Last time."] = 2e5,
    num_steps: Annotated[int, "Steps of Runge-Kutta."] = 1000,
    seed: int,
) -> Any:
    """Follow the renormalized gradient flow."""
    return problem.flow(problem.start(seed), duration=duration, num_steps=num_steps)


def automatic(problem: Any, *, seed: int) -> Any:
    """Solve by the solver that fits the fields."""
    return problem.solve(seed=seed, allow_unconverged=True)


def closed_form(problem: Any, *, seed: int) -> Any:
    """Evaluate the formula of the theory."""
    return problem.closed_form()


def from_low_rank(problem: Any, *, seed: int) -> Any:
    """L-BFGS from a start whose inner layers have lower rank than classes."""
    from ncollapse.surrogates import low_rank_start

    return problem.solve(start=low_rank_start(problem), allow_unconverged=True)


_FORMULA = {"closed_form": closed_form}

MODELS = {
    "ufm": SolvableModel(
        "unconstrained features: free features and a last layer with weight decay",
        ("UFM",),
        {"counts": (5,) * 4, "loss": "cross_entropy", "lambda_w": 5e-3, "lambda_h": 2e-3, "dim": FromCounts()},
        {"proximal": "Proximal", "lbfgs": "LBFGS", "gradient_descent": "GradientDescent", **_FORMULA},
        "loss=mse counts=12,8,5,1 dim=6",
    ),
    "mufm": SolvableModel(
        "multilayer unconstrained features: features that leave Gaussian data at a cost",
        (gaussian_classes, "MUFM", several_draws),
        {"counts": (50,) * 4, "dim": 20, "loss": "mse", "lambda_w": 5e-3, "lambda_h": 1e-4},
        {"automatic": automatic, "eliminated": "EliminatedFeatures", "lbfgs": "LBFGS", "descent": descent},
        "lambda_h=1e-3 sigma=0.5",
    ),
    "gufm": SolvableModel(
        "generalized unconstrained features: features on the sphere of a normalization layer",
        ("GUFM",),
        {"counts": (1,) * 4, "loss": "cross_entropy", "lambda_w": 5e-3, "dim": FromCounts(plus=1)},
        {"lbfgs": "LBFGS", **_FORMULA},
        "counts=10x3 lambda_w=1e-3",
    ),
    "layer_peeled": SolvableModel(
        "layer-peeled model: cross-entropy with bounded weight and class means, at any imbalance",
        ("LayerPeeled",),
        {"counts": (10.0,) * 5 + (1.0,) * 5, "energy_w": 1.0, "energy_h": 5.0},
        {"automatic": automatic, "newton": "GroupedNewton", "proximal": "Proximal", **_FORMULA},
        "counts=5x20,5x1",
    ),
    "deep_ufm": SolvableModel(
        "deep unconstrained features: several weights behind free features, linear or ReLU",
        ("DeepUFM",),
        {"counts": (1,) * 4, "lambdas_w": (1e-2,) * 3, "lambda_h": 1e-3, "dim": FromCounts(4)},
        {**_FORMULA, "lbfgs": "LBFGS", "low_rank": from_low_rank},
        "counts=3x2 lambdas_w=2x0.02 lambda_h=0.02 --solver lbfgs",
    ),
    "near_collapse": SolvableModel(
        "the multilayer model on nearly collapsed data, also to first order",
        ("NearCollapse", near_data),
        {"counts": (25,) * 4, "scale": 1.3, "lambda_w": 5e-3, "lambda_h": 1e-3, "dim": FromCounts(3)},
        {"eliminated": "EliminatedFeatures", **_FORMULA},
        "noise=0.1 --solver closed_form",
    ),
    "unregularized_ufm": SolvableModel(
        "unconstrained features without decay: the gradient flow to strong collapse",
        ("UnregularizedUFM",),
        {"counts": (4,) * 3, "dim": FromCounts(plus=2)},
        {"flow": flow_from_small},
        "size=0.1 duration=10",
    ),
    "central_path": SolvableModel(
        "renormalized gradient flow of features under their least-squares classifier",
        ("CentralPath",),
        {"counts": (40,) * 4, "dim": 10},
        {"flow": flow},
        "counts=3x6 dim=4 duration=100 num_steps=20",
    ),
    "batch_norm_net": SolvableModel(
        "two layers with batch normalization on random features of full rank",
        (normal_inputs, "BatchNormNet"),
        {"counts": (5,) * 4, "lambda_w": 0.3, "width": FromCounts(5), "dim": FromCounts(0, samples=2)},
        {"lbfgs": "LBFGS", **_FORMULA},
        "lambda_w=1 --solver closed_form",
    ),
    "weight_normalized_net": SolvableModel(
        "squared loss with normalized weights on two Gaussian classes",
        (gaussian_classes, "WeightNormalizedNet"),
        {"counts": (10,) * 2, "dim": 5, "lambda_w": 1e-3, "width": 20},
        {"smoothed": "SmoothedReLU", "lbfgs": "LBFGS"},
        "lambda_w=1e-4 sigma=0.1",
    ),
    "bounded_outputs": SolvableModel(
        "cross-entropy of outputs within a ball",
        ("BoundedOutputs",),
        {"counts": (1,) * 4, "radius": 3.0},
        {"projected": "ProjectedGradient", **_FORMULA},
        "counts=10x2 radius=5",
    ),
    "normalized_features": SolvableModel(
        "cross-entropy of unit features and unit classifier rows",
        ("NormalizedFeatures",),
        {"counts": (1,) * 4, "dim": FromCounts()},
        {"projected": "ProjectedGradient", **_FORMULA},
        "counts=5x1 dim=3 temperature=2",
    ),
    "max_margin": SolvableModel(
        "the largest margin, to which the cross-entropy without decay tends",
        ("MaxMargin",),
        {"counts": (4,) * 3, "dim": FromCounts()},
        {"flow": "MarginFlow", **_FORMULA},
        "counts=20,5,1 --solver closed_form",
    ),
    "fixed_etf": SolvableModel(
        "free features before a classifier fixed as a simplex ETF",
        ("FixedETF",),
        {"counts": (5,) * 4, "loss": "dot_regression", "dim": FromCounts()},
        {"lbfgs": "LBFGS", **_FORMULA},
        "loss=cross_entropy counts=20,3,1 energy_w=4 energy_h=4",
    ),
    "locally_elastic_sde": SolvableModel(
        "simulation of class means that pull samples of their own class and push others",
        (falling_rates,),
        {"counts": (100,) * 3},
        {"simulation": simulation},
        "alpha=0.5 beta=-0.3 end=12",
    ),
}
