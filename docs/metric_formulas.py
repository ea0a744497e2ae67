r"""The formula of each metric, for docs/metrics.md; "M" stands for the class means and "W" for the classifier rows."""

_NORMS = r"\frac{\mathrm{std}_k\, \lVert v_k \rVert}{\mathrm{mean}_k\, \lVert v_k \rVert}"
_COSINES = r"\mathrm{std}_{k \ne l}\, \cos(v_k, v_l)"
_ANGLES = r"\mathrm{mean}_{k \ne l}\, \left| \cos(v_k, v_l) + \frac{1}{K-1} \right|"
_FRAME = r"\left\lVert \frac{G}{\lVert G \rVert_F} - E_K \right\rVert_F"
_RANK = r"\#\{i : \lambda_i > \varepsilon \lambda_1\}"
_STABLE = r"\frac{\sum_i \lambda_i}{\lambda_1}"
_PARTICIPATION = r"\frac{(\sum_i \lambda_i)^2}{\sum_i \lambda_i^2}"
_ENTROPY = r"\exp\left(-\sum_i p_i \log p_i\right), \quad p_i = \frac{\lambda_i}{\sum_j \lambda_j}"
_MEANS, _ROWS = r", \quad v_k = \mu_k - \mu", r", \quad v_k = w_k"
_BETWEEN, _TOTAL = r", \quad \lambda \text{ of } \Sigma_B", r", \quad \lambda \text{ of } \Sigma_T"
_NEAREST = r"\arg\min_k \lVert h_i - \mu_k \rVert"
_LOGITS = r"\arg\max_k z_k(x_i)"


def _share(condition: str) -> str:
    return rf"\frac{{1}}{{N}} \sum_i 1\left\{{{condition}\right\}}"


FORMULAS = {
    "pfc1": r"\frac{\mathrm{tr}\, \Sigma_W}{\mathrm{tr}\, \Sigma_B}",
    "nc1": r"\frac{1}{K}\, \mathrm{tr}(\Sigma_W \Sigma_B^+)",
    "nc1_total": r"\frac{\mathrm{tr}\, \Sigma_W}{\mathrm{tr}\, \Sigma_W + \mathrm{tr}\, \Sigma_B}",
    "cdnv": r"\frac{1}{K(K-1)} \sum_{k \ne l} \frac{\sigma_k^2 + \sigma_l^2}{2\, \lVert \mu_k - \mu_l \rVert^2}"
    r", \quad \sigma_k^2 = \frac{1}{n_k} \sum_{i \in k} \lVert h_i - \mu_k \rVert^2",
    "separation": r"\mathrm{tr}(SS_w\, SS_b^+)",
    "pfc2": _FRAME + r", \quad G_{kl} = \langle \mu_k - \mu, \mu_l - \mu \rangle",
    "pfc2_tight_frame": r"\left\lVert \frac{G}{\lVert G \rVert_F} - \frac{P_r}{\sqrt{r}} \right\rVert_F"
    r", \quad r = \min(K-1, d)",
    "pfc2_orthoplex": r"\min_\sigma \left\lVert \frac{G}{\lVert G \rVert_F} - \frac{T_\sigma}{\sqrt{2K}} \right\rVert_F",
    "pfc2_seli": r"\left\lVert \frac{G}{\lVert G \rVert_F} - \frac{S}{\lVert S \rVert_F} \right\rVert_F"
    r", \quad S = \left((\Pi_K D \Pi_K)^+\right)^{1/2}",
    "softmax_code": r"1 - \frac{1}{\rho^*} \min_k \mathrm{dist}\left(u_k, \mathrm{conv}\{u_l : l \ne k\}\right)"
    r", \quad u_k = \frac{\mu_k - \mu}{\lVert \mu_k - \mu \rVert}",
    "nc2_equinorm": _NORMS + _MEANS,
    "nc2_equiangularity": _COSINES + _MEANS,
    "nc2_max_angle": _ANGLES + _MEANS,
    "nc2_equinorm_weights": _NORMS + _ROWS,
    "nc2_equiangularity_weights": _COSINES + _ROWS,
    "nc2_max_angle_weights": _ANGLES + _ROWS,
    "nc0": r"\frac{\lVert W^T 1 \rVert}{\lVert W \rVert_F}",
    "nc2_etf_weights": _FRAME + r", \quad G = W W^T",
    "gnc2": r"\mathrm{std}_{k \ne l} \log \lVert u_k - u_l \rVert, \quad u_k = \frac{\mu_k - \mu}{\lVert \mu_k - \mu \rVert}",
    "hyperspherical_energy": r"-\mathrm{mean}_{k \ne l} \log \lVert u_k - u_l \rVert"
    r", \quad u_k = \frac{\mu_k - \mu}{\lVert \mu_k - \mu \rVert}",
    "log_equinorm": r"\mathrm{std}_k \log \lVert \mu_k - \mu \rVert",
    "nc3": r"\left\lVert \frac{W}{\lVert W \rVert_F} - \frac{\bar M}{\lVert \bar M \rVert_F} \right\rVert_F^2",
    "nc3_etf": r"\left\lVert \frac{W \bar M^T}{\lVert W \bar M^T \rVert_F} - E_K \right\rVert_F",
    "nc3_cosine": r"1 - \frac{1}{N} \sum_i \cos(h_i, w_{y_i})",
    "unc3": r"\mathrm{std}_k \cos(w_k, \mu_k - \mu)",
    "nc3_bias": r"\lVert W \mu + b \rVert",
    "snc1": r"\lVert W W^T - \sqrt{n}\, \Pi_K \rVert_F, \quad \Pi_K = I - \tfrac{1}{K} 1 1^T",
    "snc2": r"\left( \sum_k \sum_{i \in k} \lVert h_i - w_k / \sqrt{n} \rVert^2 \right)^{1/2}",
    "snc3": r"\left\lVert b - \tfrac{1}{K} 1 \right\rVert",
    "pfc3": _share(f"{_NEAREST} = y_i"),
    "pfc3_error": _share(rf"{_NEAREST} \ne y_i"),
    "strong_collapse": r"\frac{1}{\mathrm{tr}\, \Sigma_B^{tr}} \sum_k \frac{\alpha_k}{n_k} \sum_{i \in k}"
    r" \lVert h_i - \mu_k^{tr} \rVert^2",
    "weak_collapse": r"\frac{1}{\mathrm{tr}\, \Sigma_B^{tr}} \sum_k \frac{\alpha_k}{n_k} \sum_{i \in k}"
    r" \min_j \lVert h_i - \mu_j^{tr} \rVert^2",
    "nc4": _share(f"{_LOGITS} = {_NEAREST}"),
    "nc4_mismatch": _share(rf"{_LOGITS} \ne {_NEAREST}"),
    "accuracy": _share(f"{_LOGITS} = y_i"),
    "rank_between": _RANK + _BETWEEN,
    "stable_rank_between": _STABLE + _BETWEEN,
    "participation_ratio_between": _PARTICIPATION + _BETWEEN,
    "entropy_rank_between": _ENTROPY + _BETWEEN,
    "rank_total": _RANK + _TOTAL,
    "stable_rank_total": _STABLE + _TOTAL,
    "participation_ratio_total": _PARTICIPATION + _TOTAL,
    "entropy_rank_total": _ENTROPY + _TOTAL,
}
