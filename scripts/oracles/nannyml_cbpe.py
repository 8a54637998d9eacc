"""NannyML: CBPE's accuracy of a model of breast_cancer on held-out and on shifted rows."""

from __future__ import annotations

import json
from typing import Any

import nannyml
import numpy as np
import pandas as pd
import sklearn
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

NOISES = (0.0, 0.3, 0.6)
COPIES = 8
EVEN = 0.5


def _frame(model: Any, values: Any, truth: Any) -> pd.DataFrame:  # noqa: ANN401
    chance = model.predict_proba(values)[:, 1]
    return pd.DataFrame(
        {"truth": truth, "chance": chance, "predicted": (chance >= EVEN).astype(int)}
    )


if __name__ == "__main__":
    random = np.random.default_rng(2)
    values, truth = load_breast_cancer(return_X_y=True)
    values, spread = values[:, :4], values[:, :4].std(axis=0)
    order = random.permutation(len(values))
    train, rest = order[:200], np.repeat(order[200:], COPIES)
    model = RandomForestClassifier(50, max_depth=4, random_state=0).fit(values[train], truth[train])
    jitter = 0.05 * spread
    reference = _frame(model, values[rest] + random.normal(0, jitter, (len(rest), 4)), truth[rest])
    estimator = nannyml.CBPE(
        problem_type="classification_binary", y_pred_proba="chance", y_pred="predicted",
        y_true="truth", metrics=["accuracy"], chunk_number=1,
    ).fit(reference)  # fmt: skip
    said = []
    for noise in NOISES:
        moved = values[rest] + random.normal(0, jitter + noise * spread, (len(rest), 4))
        frame = _frame(model, moved, truth[rest])
        answer = estimator.estimate(frame).filter(period="analysis").to_df()
        estimate = float(answer[("accuracy", "value")].iloc[0])
        said.append({
            "noise": noise,
            "chance": frame["chance"].round(6).tolist(),
            "accuracy": estimate,
            "realised": float((frame["truth"] == frame["predicted"]).mean()),
        })  # fmt: skip
    held_out = {
        "chance": reference["chance"].round(6).tolist(),
        "truth": reference["truth"].tolist(),
    }
    versions = {"nannyml": nannyml.__version__, "scikit-learn": sklearn.__version__}
    print(json.dumps({"versions": versions, "reference": held_out, "windows": said}))
