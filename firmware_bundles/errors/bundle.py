"""Refusals of a bundle: the publisher's fault; build and sign again."""

from __future__ import annotations

from firmware_bundles.errors.root import ShoalError


class BundleError(ShoalError):
    """The parts of a bundle do not fit together."""

    code = "bundle.refused"
    default_hint = "Build the bundle again."


class ManifestInvalid(BundleError):
    """The manifest, or a file that it describes, cannot be read or contradicts itself."""

    code = "bundle.manifest_invalid"


class ModelUnusable(BundleError):
    """The interpreter cannot load the model, or the model is not what the manifest says."""

    code = "bundle.model_unusable"


class RuntimeUnsupported(BundleError):
    """There is no interpreter, or none that can run the model."""

    code = "bundle.runtime_unsupported"
    default_hint = "Install an interpreter (the extra 'agent'), or convert the model for it."


class ConversionFaulty(BundleError):
    """The converted model is not what its owner trained, or not what devices can serve."""

    code = "bundle.conversion_faulty"
    default_hint = "Convert the model again; docs/how-to/convert-a-model.md lists the traps."


class BundleTooLarge(BundleError):
    """A bundle, or a file of it, is larger than allowed."""

    code = "bundle.too_large"
    default_hint = "Make the model smaller."
