"""The digits model in MLServer, with its own codec for arrays."""

from __future__ import annotations

import os

from digits_model import Model  # type: ignore[import-not-found]
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Digits(MLModel):  # type: ignore[misc]
    """A custom runtime as MLServer's documentation shows it."""

    async def load(self) -> bool:
        """Load the model."""
        self.digits = Model(os.environ["DIGITS_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        scores = self.digits.run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("probs", scores)
        return InferenceResponse(model_name=self.name, outputs=[output])
