"""LitServe with its defaults: python litserve_server.py MODEL PORT."""

from __future__ import annotations

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
from digits_model import Model  # type: ignore[import-not-found]


class Digits(litserve.LitAPI):  # type: ignore[misc]
    """The three steps as LitServe wants them."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - given by LitServe
        """Load the model."""
        self.digits = Model(sys.argv[1])

    # LitServe makes a route of this signature: an annotation would become a query parameter.
    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Leave the request as it is."""
        return request

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        answer: dict[str, Any] = self.digits.answer(request)
        return answer

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Leave the answer as it is."""
        return answer


if __name__ == "__main__":
    api = Digits(api_path="/v2/models/digits/infer")
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False)
