"""The one error root of models, compress and service, an HTTP status on each class.

The kernels and the load test know nothing of it, and raise errors of their own. Knows no HTTP
library.
"""

from __future__ import annotations

from http import HTTPStatus


class FairslateError(Exception):
    """Root of every error raised on purpose; `str(error)` says what to do next."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_ms = retry_after_ms


class ModelDirectoryError(FairslateError):
    """A model directory is damaged, incomplete or was changed since its card was written."""

    code = "model_directory_invalid"


class PromptError(FairslateError):
    """A context or candidate cannot be rendered by the model's prompt template."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_prompt"


class CatalogueError(FairslateError):
    """A catalogue of stored candidates is damaged, or was made for another model."""

    code = "catalogue_invalid"


class StoredCandidateError(FairslateError):
    """A candidate names an entry that the catalogue does not have, or not for this prompt."""

    status = HTTPStatus.BAD_REQUEST
    code = "unknown_embedding"


class CalibrationError(FairslateError):
    """Held-out logits and labels from which no increasing calibration can be fitted."""

    code = "calibration_failed"


class ContextTooLongError(FairslateError):
    """A context larger than what the engine's memory holds of one."""

    status = HTTPStatus.BAD_REQUEST
    code = "context_too_long"


class TokenOutOfVocabularyError(FairslateError):
    """A token id that the model has no embedding of."""

    code = "token_out_of_vocabulary"


class OutOfMemoryError(FairslateError):
    """A forward pass found no memory; the engine goes on and smaller work may pass."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "out_of_memory"


class NonFiniteLogitError(FairslateError):
    """The model computed NaN or infinity, which is no score; the job fails alone."""

    code = "logit_not_finite"


class PrecisionUnavailableError(FairslateError):
    """Arithmetic asked for by name that this device cannot do; the message says why."""

    code = "precision_unavailable"


class DeviceUnavailableError(FairslateError):
    """A device that torch does not find on this machine."""

    code = "device_unavailable"


class ModelUnavailableError(FairslateError):
    """A model that is served, but not on the device asked for; the message says where."""

    code = "model_unavailable"


class CandidateTooLongError(FairslateError):
    """A candidate longer than what one forward pass takes."""

    status = HTTPStatus.BAD_REQUEST
    code = "candidate_too_long"


class ExportError(FairslateError):
    """An export that would overwrite something, or whose graphs do not score as the engine does."""

    code = "export_failed"
