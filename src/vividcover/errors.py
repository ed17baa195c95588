"""Every error that a user can meet. Each message says what was wrong, with which value, and what to do.

VividCoverError                 code "error"              exit 1
├── InputError                  code "bad-input"          exit 2   the user's input is at fault
│   ├── ParameterError          code "bad-parameter"               a value out of range, an unknown name
│   ├── LinkError               code "bad-link"                    a link that cannot or must not be fetched
│   ├── AudioError              code "bad-audio"                   not audio, too short, silent, too long
│   ├── ImageError              code "bad-image"                   not a picture, no face, too small, too large
│   ├── ArchiveError            code "bad-archive"                 corrupt, unsafe or oversized zip
│   └── ModelFileError          code "bad-model"                   a trained model that cannot be read
├── NotFoundError               code "not-found"          exit 3   unknown model, voice, image or file
├── ConsentError                code "consent-required"   exit 4   training without a consent statement
├── EngineError                 code "engine-unavailable" exit 5   an engine lacks weights, a token or a device
│   └── WeightsError            code "weights-missing"             weights not pulled, or not what they should be
├── StorageError                code "storage"            exit 6   disk full, folder read-only
├── AccessError                 code "access-denied"      exit 7   a token that is unknown, revoked or expired
│   └── ForbiddenError          code "forbidden"                   a token or an account that may not do this
├── BudgetError                 code "budget-spent"       exit 8   a token's or an account's budget of the month
├── ThrottledError              code "throttled"          exit 8   more requests a minute than a token may make
└── Canceled                    code "canceled"           exit 130 stopped by the user; finished stages are kept
"""

from __future__ import annotations

from collections.abc import Mapping


class VividCoverError(Exception):
    """Root of the tree.

    `message` says what was wrong, with which value; `hint` says what to do about it.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())

    def __reduce__(self) -> tuple[type[VividCoverError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # survives the way out of a child process


class InputError(VividCoverError):
    code = "bad-input"
    exit_code = 2


class ParameterError(InputError):
    code = "bad-parameter"


class LinkError(InputError):
    code = "bad-link"


class AudioError(InputError):
    code = "bad-audio"


class ImageError(InputError):
    code = "bad-image"


class ArchiveError(InputError):
    code = "bad-archive"


class ModelFileError(InputError):
    code = "bad-model"


class NotFoundError(VividCoverError):
    code = "not-found"
    exit_code = 3


class ConsentError(VividCoverError):
    code = "consent-required"
    exit_code = 4


class EngineError(VividCoverError):
    code = "engine-unavailable"
    exit_code = 5


class WeightsError(EngineError):
    code = "weights-missing"


class StorageError(VividCoverError):
    code = "storage"
    exit_code = 6


class AccessError(VividCoverError):
    code = "access-denied"
    exit_code = 7
    status = 401  # of the HTTP answer, here and below


class ForbiddenError(AccessError):
    code = "forbidden"
    status = 403


class BudgetError(VividCoverError):
    code = "budget-spent"
    exit_code = 8
    status = 402


class ThrottledError(VividCoverError):
    """`headers` tell the client when to come back."""

    code = "throttled"
    exit_code = 8
    status = 429

    def __init__(self, message: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint)
        self.headers = dict(headers or {})


class Canceled(VividCoverError):
    code = "canceled"
    exit_code = 130

    def __init__(
        self, message: str = "Canceled.", hint: str = "Finished stages are kept; run it again to continue."
    ) -> None:
        super().__init__(message, hint)
