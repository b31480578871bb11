"""Writes rliable.json, what rliable makes of fixed scores. It needs rliable, and nothing of ezm:

pip install rliable==1.2.0 'pandas<3'   # arch 7.2, which it draws with, fails on pandas 3
python tests/recordings/rliable_values.py > tests/recordings/rliable.json
"""

import json
from importlib.metadata import version

import numpy as np
from rliable import library, metrics

REPS = 50_000
THRESHOLDS = [0.0, 0.25, 0.5, 0.75, 1.0]
STATISTICS = {
    "interquartile_mean": metrics.aggregate_iqm,
    "mean_score": metrics.aggregate_mean,
    "median_score": metrics.aggregate_median,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


def fixed_scores() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2021)
    skewed = rng.beta(0.6, 0.9, (20, 9)) * np.linspace(0.2, 1.4, 9)
    return {
        "episodes of one task": rng.beta(2.0, 1.0, (20, 1)),
        "few runs": rng.normal(0.5, 0.3, (5, 7)),
        "many tasks, skewed": skewed,
    }


def measured(scores: np.ndarray) -> dict:
    found = {}
    for name, function in STATISTICS.items():
        np.random.seed(0)  # noqa: NPY002 - rliable draws from numpy's global generator
        value, ends = library.get_interval_estimates(
            {"x": scores}, lambda x, f=function: np.array([f(x)]), reps=REPS
        )
        found[name] = [value["x"].item(), *ends["x"].ravel().tolist()]
    np.random.seed(0)  # noqa: NPY002
    profile, band = library.create_performance_profile(
        {"x": scores}, np.array(THRESHOLDS), reps=REPS // 10
    )
    found["profile"] = [profile["x"].tolist(), *band["x"].tolist()]
    return found


def main() -> None:
    document = {
        "made with": {
            name: version(name) for name in ("rliable", "arch", "pandas", "numpy", "scipy")
        },
        "resamples": REPS,
        "thresholds": THRESHOLDS,
        "cases": {
            name: {"scores": scores.tolist(), **measured(scores)}
            for name, scores in fixed_scores().items()
        },
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
