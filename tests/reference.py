"""Oracle: plain two-pass float64 NumPy, read off the definitions, with explicit d x d matrices. Slow on purpose.

Nothing here comes from the library, and no formula is rearranged: covariances are averages of outer products, the
pseudo-inverse is NumPy's, nearest centers are found by explicit distances.
"""

import itertools

import numpy as np

EPS = np.finfo(np.float64).eps

# (within, between, center): class weights of the three parts. The notebook also differs in NC1 and in standard deviations.
CONVENTIONS = {
    "class": ("class", "class", "class"),
    "sample": ("sample", "sample", "sample"),
    "papyan": ("sample", "class", "class"),
    "papyan_notebook": ("sample", "class", "class"),
    "zhu": ("sample", "class", "sample"),
    "he_su": ("sample", "sample", "sample"),
}


def rows_of(tensor):
    """A torch tensor of shape (N, ...) as float64 rows."""
    array = tensor.detach().double().numpy()
    return array.reshape(len(array), -1)


def counts(y, K):
    return np.array([np.sum(y == k) for k in range(K)])


def weights(y, K, name):
    return np.full(K, 1.0 / K) if name == "class" else counts(y, K) / len(y)


def means(H, y, K):
    return np.stack([H[y == k].mean(axis=0) for k in range(K)])


def scatters(H, y, K):
    mu = means(H, y, K)
    return np.stack([(H[y == k] - mu[k]).T @ (H[y == k] - mu[k]) for k in range(K)])


def cross_traces(X, Y, y, K):
    mx, my = means(X, y, K), means(Y, y, K)
    return np.array([np.sum((X[y == k] - mx[k]) * (Y[y == k] - my[k])) for k in range(K)])


def class_variances(H, y, K):
    mu = means(H, y, K)
    return np.array([np.mean(np.sum((H[y == k] - mu[k]) ** 2, axis=1)) for k in range(K)])


def global_mean(H, y, K, alpha="class"):
    mu, a = means(H, y, K), weights(y, K, alpha)
    return sum(a[k] * mu[k] for k in range(K))


def within_covariance(H, y, K, alpha="class"):
    a, n, S = weights(y, K, alpha), counts(y, K), scatters(H, y, K)
    return sum(a[k] * S[k] / n[k] for k in range(K))


def between_covariance(H, y, K, alpha="class", center=None):
    a, mu = weights(y, K, alpha), means(H, y, K)
    c = global_mean(H, y, K, alpha if center is None else center)
    return sum(a[k] * np.outer(mu[k] - c, mu[k] - c) for k in range(K))


def total_covariance(H, y, K, alpha="class"):
    a, n, c = weights(y, K, alpha), counts(y, K), global_mean(H, y, K, alpha)
    return sum(a[k] / n[k] * (H[y == k] - c).T @ (H[y == k] - c) for k in range(K))


def pseudo_inverse(A, size):
    return np.linalg.pinv(A, rcond=10 * size * EPS, hermitian=True)


def nearest(H, mu):
    """Index of the nearest center by explicit differences; NumPy's argmin takes the first of equals."""
    return np.stack([np.sum((H - m) ** 2, axis=1) for m in mu], axis=1).argmin(axis=1)


def etf_gram(K):
    return (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1)


def gram_distance(G, target):
    return np.linalg.norm(G / np.linalg.norm(G) - target)


def matchings(classes):
    """All ways to pair classes."""
    if not classes:
        yield []
    for other in classes[1:]:
        for rest in matchings([k for k in classes[1:] if k != other]):
            yield [(classes[0], other), *rest]


def tight_frame_distance(M):
    """Distance of the Gram matrix from the projection on its leading eigenvectors."""
    K, d = M.shape
    r = min(K - 1, d)
    vectors = np.linalg.eigh(M @ M.T)[1][:, -r:]
    return gram_distance(M @ M.T, vectors @ vectors.T / np.sqrt(r))


def orthoplex_distance(M):
    """The least distance over all pairs of classes, one after the other; nan without room or partners."""
    K, d = M.shape
    if K % 2 or K > 2 * d:
        return np.nan
    found = []
    for pairs in matchings(list(range(K))):
        corners = np.eye(K)
        for k, j in pairs:
            corners[k, j] = corners[j, k] = -1.0
        found.append(gram_distance(M @ M.T, corners / np.linalg.norm(corners)))
    return min(found)


def seli_distance(M, n):
    """Distance from the Gram matrix of the class means of the encoded labels, one column per sample."""
    K, d = M.shape
    if d < K - 1:
        return np.nan
    Z = np.repeat(np.eye(K) - 1.0 / K, n, axis=1)
    _, values, U = np.linalg.svd(Z, full_matrices=False)
    H = np.sqrt(values[: K - 1])[:, None] * U[: K - 1]
    columns = np.stack([H[:, np.repeat(np.arange(K), n) == k].mean(axis=1) for k in range(K)])
    G = columns @ columns.T
    return gram_distance(M @ M.T, G / np.linalg.norm(G))


def hull_distance(points):
    """Distance of 0 from a convex hull: that of the nearest of all its faces' planes whose nearest point is inside."""
    found = np.inf
    for size in range(1, len(points) + 1):
        for face in itertools.combinations(range(len(points)), size):
            P = points[list(face)]
            steps = (P[1:] - P[0]).T
            if steps.shape[1] and np.linalg.matrix_rank(steps) < steps.shape[1]:
                continue
            shares = np.linalg.lstsq(steps, -P[0], rcond=None)[0] if steps.shape[1] else np.zeros(0)
            if np.all(shares >= 0) and shares.sum() <= 1:
                found = min(found, np.linalg.norm(P[0] + steps @ shares))
    return found


def softmax_code_gap(M):
    K, d = M.shape
    U = M / np.linalg.norm(M, axis=1, keepdims=True)
    if K > 2 * d and d != 2:
        return np.nan
    margin = min(hull_distance(U[k] - np.delete(U, k, axis=0)) for k in range(K))
    largest = K / (K - 1) if K <= d + 1 else 1 - np.cos(2 * np.pi / K) if d == 2 else 1.0
    return 1 - margin / largest


def equinorm(V, ddof=0):
    norms = np.array([np.linalg.norm(v) for v in V])
    return np.std(norms, ddof=ddof) / np.mean(norms)


def cosines(V):
    K = len(V)
    return np.array([
        V[k] @ V[j] / (np.linalg.norm(V[k]) * np.linalg.norm(V[j])) for k in range(K) for j in range(K) if k != j
    ])  # fmt: skip


def equiangularity(V):
    return np.std(cosines(V))


def max_angle(V):
    return np.mean(np.abs(cosines(V) + 1.0 / (len(V) - 1)))


def pair_kernel(V, kernel="log", s=None):
    """The kernel at the distance of every pair i < j of unit vectors; nan where it is singular up to rounding."""
    U = np.stack([v / np.linalg.norm(v) for v in V])
    distances = np.array([np.linalg.norm(U[i] - U[j]) for i in range(len(U)) for j in range(i + 1, len(U))])
    if kernel == "distance":
        return distances
    distances[distances < 16 * EPS] = np.nan
    return -np.log(distances) if kernel == "log" else np.sign(s) * distances**-s


def log_equinorm(V):
    return np.std([np.log(np.linalg.norm(v)) for v in V])


def row_cosines(A, B):
    return np.array([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(A, B, strict=True)])


def cdnv_matrix(H, y, K, dist_exp=1):
    mu, var = means(H, y, K), class_variances(H, y, K)
    V = np.full((K, K), np.nan)
    for k in range(K):
        for j in range(K):
            if k != j:
                V[k, j] = (var[k] + var[j]) / (2 * np.sum((mu[k] - mu[j]) ** 2) ** dist_exp)
    return V


def cdnv(H, y, K, dist_exp=1):
    V = cdnv_matrix(H, y, K, dist_exp)
    return np.mean([V[k, j] for k in range(K) for j in range(k + 1, K)])


def strong_collapse(H, y, K, mu, trace, alpha="class"):
    """Mean squared distance from the given mean of the own class, over the given trace."""
    a = weights(y, K, alpha)
    return sum(a[k] * np.mean(np.sum((H[y == k] - mu[k]) ** 2, axis=1)) for k in range(K)) / trace


def weak_collapse(H, y, K, mu, trace, alpha="class"):
    """Mean squared distance from the nearest of the given means, over the given trace."""
    a = weights(y, K, alpha)
    nearest_mean = np.min([np.sum((H - m) ** 2, axis=1) for m in mu], axis=0)
    return sum(a[k] * np.mean(nearest_mean[y == k]) for k in range(K)) / trace


def ranks(A, size):
    """Numerical rank, stable rank, participation ratio and entropy rank of a covariance."""
    values = np.linalg.eigvalsh(A)
    kept = values[values > 10 * size * EPS * values.max()]
    p = kept / kept.sum()
    return len(kept), kept.sum() / kept.max(), kept.sum() ** 2 / np.sum(kept**2), np.exp(-np.sum(p * np.log(p)))


def feature_metrics(H, y, K, convention="class"):
    """Every metric of the registry that needs features only, by id."""
    within, between, center = CONVENTIONS[convention]
    d = H.shape[1]
    SW, SB = within_covariance(H, y, K, within), between_covariance(H, y, K, between, center)
    SSw, SSb = within_covariance(H, y, K, "sample"), between_covariance(H, y, K, "sample")
    # PFC2 is centered at the mean of class means whatever the convention; NC2, NC3 and GNC2 at the convention's global mean.
    M = means(H, y, K) - global_mean(H, y, K, center)
    of_classes = means(H, y, K) - global_mean(H, y, K)
    ddof, divisor = (1, 1) if convention == "papyan_notebook" else (0, K)
    correct = nearest(H, means(H, y, K)) == y
    values = {
        "pfc1": np.trace(SW) / np.trace(SB),
        "nc1": np.trace(SW @ pseudo_inverse(SB, max(K, d))) / divisor,
        "nc1_total": np.trace(SW) / (np.trace(SW) + np.trace(SB)),
        "cdnv": cdnv(H, y, K),
        "separation": np.trace(SSw @ pseudo_inverse(SSb, max(K, d))),
        "pfc2": gram_distance(of_classes @ of_classes.T, etf_gram(K)),
        "pfc2_tight_frame": tight_frame_distance(of_classes),
        "pfc2_orthoplex": orthoplex_distance(of_classes),
        "pfc2_seli": seli_distance(of_classes, counts(y, K)),
        "softmax_code": softmax_code_gap(of_classes),
        "nc2_equinorm": equinorm(M, ddof),
        "nc2_equiangularity": equiangularity(M),
        "nc2_max_angle": max_angle(M),
        "gnc2": np.std(pair_kernel(M)),
        "hyperspherical_energy": np.mean(pair_kernel(M)),
        "log_equinorm": log_equinorm(M),
        "pfc3": np.mean(correct),
        "pfc3_error": np.mean(~correct),
        "strong_collapse": strong_collapse(H, y, K, means(H, y, K), np.trace(SB), within),
        "weak_collapse": weak_collapse(H, y, K, means(H, y, K), np.trace(SB), within),
    }
    for part, A, size in (("between", SB, max(K, d)), ("total", total_covariance(H, y, K, "sample"), d)):
        names = ("rank", "stable_rank", "participation_ratio", "entropy_rank")
        values |= {f"{name}_{part}": value for name, value in zip(names, ranks(A, size), strict=True)}
    return values


def classifier_metrics(H, y, K, W, b, convention="class"):
    """Every metric of the registry that needs the classifier, by id; SNC is nan for unequal counts."""
    center = CONVENTIONS[convention][2]
    mu_G = global_mean(H, y, K, center)
    M = means(H, y, K) - mu_G
    decided, own = (H @ W.T + b).argmax(axis=1), nearest(H, means(H, y, K))
    cosine = [H[i] @ W[y[i]] / (np.linalg.norm(H[i]) * np.linalg.norm(W[y[i]])) for i in range(len(H))]
    n = counts(y, K)[0] if len(set(counts(y, K))) == 1 else np.nan
    return {
        "nc2_equinorm_weights": equinorm(W, 1 if convention == "papyan_notebook" else 0),
        "nc2_equiangularity_weights": equiangularity(W),
        "nc2_max_angle_weights": max_angle(W),
        "nc0": np.linalg.norm(W.sum(axis=0)) / np.linalg.norm(W),
        "nc2_etf_weights": gram_distance(W @ W.T, etf_gram(K)),
        "nc3": np.sum((W / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2),
        "nc3_etf": gram_distance(W @ M.T, etf_gram(K)),
        "nc3_cosine": 1 - np.mean(cosine),
        "unc3": np.std(row_cosines(W, M)),
        "nc3_bias": np.linalg.norm(W @ mu_G + b),
        "snc1": np.linalg.norm(W @ W.T - np.sqrt(n) * (np.eye(K) - np.ones((K, K)) / K)),
        "snc2": np.linalg.norm(np.stack([H[i] - W[y[i]] / np.sqrt(n) for i in range(len(H))])),
        "snc3": np.linalg.norm(b - 1.0 / K) if np.isfinite(n) else np.nan,
        "nc4": np.mean(decided == own),
        "nc4_mismatch": np.mean(decided != own),
        "accuracy": np.mean(decided == y),
    }


def metrics(H, y, K, W, b, convention="class"):
    """Every id of the registry."""
    return feature_metrics(H, y, K, convention) | classifier_metrics(H, y, K, W, b, convention)
