"""fairlearn: its differences and ratio between segments of breast_cancer, on a fitted model."""

from __future__ import annotations

import json

import fairlearn
import numpy as np
import sklearn
from fairlearn import metrics
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

if __name__ == "__main__":
    values, truth = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=5_000).fit(values[::2, :3], truth[::2])
    predicted = model.predict(values[:, :3])
    segment = np.digitize(values[:, 1], np.quantile(values[:, 1], [1 / 3, 2 / 3]))
    facts = {"sensitive_features": segment}
    said = {
        "demographic_parity": metrics.demographic_parity_difference(truth, predicted, **facts),
        "demographic_parity_ratio": metrics.demographic_parity_ratio(truth, predicted, **facts),
        "equal_opportunity": metrics.equal_opportunity_difference(truth, predicted, **facts),
        "equalised_odds": metrics.equalized_odds_difference(truth, predicted, **facts),
    }
    rows = {
        "segments": segment.tolist(),
        "labels": truth.tolist(),
        "predictions": predicted.tolist(),
    }
    versions = {"fairlearn": fairlearn.__version__, "scikit-learn": sklearn.__version__}
    gaps = {name: float(value) for name, value in said.items()}
    print(json.dumps({"versions": versions, **rows, **gaps}))
