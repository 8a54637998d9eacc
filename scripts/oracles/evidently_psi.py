"""Evidently: PSI, Jensen-Shannon and Hellinger distance of categories, which are its bins."""

from __future__ import annotations

import json
from typing import Any

import evidently
import numpy as np
import pandas as pd
import sklearn
from evidently.legacy.calculations.stattests import (
    hellinger_stat_test,
    jensenshannon_stat_test,
    psi_stat_test,
)
from evidently.legacy.core import ColumnType
from sklearn import datasets

from windows import window

TESTS = {"psi": psi_stat_test, "js": jensenshannon_stat_test, "hellinger": hellinger_stat_test}


def _said(pair: dict[str, Any]) -> dict[str, Any]:
    r, c = (pd.Series(np.repeat(np.arange(len(pair[side])), pair[side])) for side in "rc")
    return {
        **pair,
        **{
            name: float(test.func(r, c, ColumnType.Categorical, 0.1).drift_score)
            if hasattr(test.func(r, c, ColumnType.Categorical, 0.1), "drift_score")
            else float(test.func(r, c, ColumnType.Categorical, 0.1)[0])
            for name, test in TESTS.items()
        },
    }


if __name__ == "__main__":
    found = []
    for data in ("digits", "wine", "breast_cancer"):
        values = getattr(datasets, f"load_{data}")().data.astype(float)
        half = len(values) // 2
        for column in range(2, values.shape[1], 6):
            pair = window(values[:half, column], values[half:, column])
            found.append({"data": data, "column": column, **_said(pair)})
    versions = {"evidently": evidently.__version__, "scikit-learn": sklearn.__version__}
    print(json.dumps({"versions": versions, "windows": found}))
