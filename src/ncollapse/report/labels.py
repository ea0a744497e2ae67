"""What metrics and flags mean, in the words that axes, tables and sentences share."""

__all__ = ["POSITIONS", "describe_flag", "describe_metric"]

POSITIONS = {
    "projection": "projection on the chord",
    "index": "block index l/L",
    "arclength": "arc length",
    "ratio": "ratio of distances to both ends",
    "distance": "distance from the first layer",
}

_METRICS = {
    "pfc1": "within- over between-class variance, tr Σ_W / tr Σ_B",
    "pfc2": "distance of the Gram matrix of the class means to a simplex ETF",
    "pfc3": "accuracy of the nearest class center",
    "pfc3_error": "error of the nearest class center, 1 − PFC3",
    "nc1": "within-class covariance against the between-class one, tr(Σ_W Σ_B⁺)/K",
    "nc1_total": "within-class share of the total variance",
    "nc2_equinorm": "spread of the lengths of the class means",
    "nc2_equiangularity": "spread of the cosines between class means",
    "nc2_max_angle": "mean distance of these cosines from −1/(K−1)",
    "nc2_equinorm_weights": "spread of the lengths of the classifier rows",
    "nc2_etf_weights": "distance of the Gram matrix of the classifier to a simplex ETF",
    "nc3": "squared distance of normalized classifier and class means",
    "nc3_etf": "distance of classifier times class means to a simplex ETF",
    "nc3_cosine": "one minus the mean cosine of feature and classifier row",
    "nc4": "agreement of the classifier with the nearest class center",
    "nc4_mismatch": "disagreement of the classifier with the nearest class center, 1 − NC4",
    "cdnv": "class-distance normalized variance, mean over pairs of classes",
    "separation": "law of data separation, D = tr(Σ_W Σ_B⁺)",
    "nc2_equiangularity_weights": "spread of the cosines between classifier rows",
    "nc2_max_angle_weights": "mean distance of these cosines from −1/(K−1)",
    "nc3_bias": "norm of the logits of the global mean",
    "snc1": "strong collapse of the weights under the squared loss",
    "snc2": "strong collapse of the features under the squared loss",
    "snc3": "strong collapse of the bias under the squared loss",
    "rank_between": "numerical rank of Σ_B",
    "stable_rank_between": "stable rank of Σ_B",
    "participation_ratio_between": "participation ratio of the spectrum of Σ_B",
    "entropy_rank_between": "entropy rank of Σ_B",
    "rank_total": "numerical rank of Σ_T",
    "stable_rank_total": "stable rank of Σ_T",
    "participation_ratio_total": "participation ratio of the spectrum of Σ_T",
    "entropy_rank_total": "entropy rank of Σ_T",
    "accuracy": "accuracy of the network",
}

_FLAGS = {
    "empty_class": "a class has no samples, so nothing over all classes is defined",
    "no_between": "all class means coincide, so nothing relative to their spread is defined",
    "two_classes": "with two classes, angles and ETF distance of the centered means are 0 whatever the features do",
    "low_dimension": "fewer than K−1 feature dimensions hold no simplex ETF: the value cannot reach 0",
    "rank_deficient": "the class means span fewer than min(K−1, d) dimensions; the missing directions are left out",
    "coincident_means": "two class means coincide, so their distance-normalized variance is not defined",
    "mean_at_center": "a class mean coincides with the global mean, so its angle is not defined",
    "zero_classifier": "a classifier row is zero, so its direction is not defined",
    "zero_vector": "a feature or a classifier row is zero, so its cosine is not defined",
    "imbalanced": "the classes have unequal counts, for which the metric is not defined",
    "one_class": "one class alone has no geometry",
    "own_means": "the split was decided by its own class means, for want of those of the training set",
}


def describe_metric(metric: str) -> str:
    """The meaning of a metric in one phrase; empty for an id this version does not know."""
    return _METRICS.get(metric, "")


def describe_flag(flag: str) -> str:
    """The meaning of a flag; a flag this version does not know is its own description, read with spaces."""
    return _FLAGS.get(flag, flag.replace("_", " "))
