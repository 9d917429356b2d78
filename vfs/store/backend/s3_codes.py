"""The error codes of S3 services: one table from code to error and remedy.

Source: S3 API Reference, "Error responses", and what other services are seen to say.
"""

from collections.abc import Mapping

from vfs.errors import (
    AuthenticationError,
    BusyError,
    ConfigError,
    DeniedError,
    ExistsError,
    InvalidError,
    MetadataError,
    NameTooLongError,
    NotEmptyError,
    NotFoundError,
    QuotaError,
    ReadOnlyError,
    RetainedError,
    StaleError,
    ThrottledError,
    TooLargeError,
    TransientError,
    UnreachableError,
    UnsupportedError,
    VfsError,
)

RETYPE = "check the access key and the secret key"
RENEW = "renew the credentials"
POLICY = "the credentials do not allow it: check the policies of user and bucket"
AGAIN = "the service asks to try again"

CODES: Mapping[str, tuple[type[VfsError], str]] = {
    "AccessDenied": (DeniedError, POLICY),
    "AccountProblem": (DeniedError, "the account is suspended or unpaid"),
    "AllAccessDisabled": (DeniedError, "the bucket's owner has turned access off"),
    "BadDigest": (TransientError, "the data was damaged on its way"),
    "BucketAlreadyExists": (ExistsError, "somebody has a bucket of this name"),
    "BucketAlreadyOwnedByYou": (ExistsError, "you have a bucket of this name already"),
    "BucketNotEmpty": (NotEmptyError, "remove its objects and versions first"),
    "ConditionalRequestConflict": (TransientError, "another write was under way"),
    "EntityTooLarge": (TooLargeError, "it is larger than the service takes"),
    "EntityTooSmall": (InvalidError, "a part is smaller than the service takes"),
    "ExpiredToken": (AuthenticationError, f"the session has expired: {RENEW}"),
    "ExpiredTokenException": (AuthenticationError, f"the session has expired: {RENEW}"),
    "InternalError": (TransientError, AGAIN),
    "InvalidAccessKeyId": (AuthenticationError, f"the access key is unknown: {RETYPE}"),
    "InvalidBucketName": (ConfigError, "this is not a bucket name: correct the URL"),
    "InvalidObjectState": (
        BusyError,
        "the object is archived: restore it, or move it to another storage class, then try again",
    ),
    "InvalidRange": (StaleError, "the object has changed in the store since it was looked up"),
    "InvalidPart": (NotFoundError, "a part is gone or was replaced"),
    "InvalidPartOrder": (InvalidError, "parts must ascend by number"),
    "InvalidRegion": (ConfigError, "set region to the bucket's own"),
    "InvalidSecurity": (AuthenticationError, RETYPE),
    "InvalidStorageClass": (ConfigError, "the service has no such storage_class"),
    "InvalidToken": (AuthenticationError, f"the session token is not valid: {RENEW}"),
    "KeyTooLongError": (NameTooLongError, "the path is too long for the service"),
    "KMS.DisabledException": (DeniedError, "the key of sse_kms_key is disabled"),
    "KMS.NotFoundException": (ConfigError, "there is no such key as sse_kms_key"),
    "MetadataTooLarge": (MetadataError, "its metadata is larger than the service takes"),
    "MethodNotAllowed": (UnsupportedError, "the service does not offer this"),
    "NoSuchBucket": (NotFoundError, "create it, or correct the URL"),
    "NoSuchUpload": (NotFoundError, "the upload is gone: finished, aborted or expired"),
    "NotImplemented": (UnsupportedError, "the service does not offer this"),
    "ObjectLockedByBucketPolicy": (RetainedError, "a retention rule of the bucket forbids it"),
    "OperationAborted": (TransientError, "a conflicting operation is under way"),
    "QuotaExceeded": (QuotaError, "the quota of the bucket or user is used up"),
    "ReadOnly": (ReadOnlyError, "the service is read-only at the moment"),
    "RequestTimeTooSkewed": (
        AuthenticationError,
        "the clock of this machine is wrong: set it, or run an NTP client",
    ),
    "RequestTimeout": (UnreachableError, AGAIN),
    "ServiceUnavailable": (ThrottledError, AGAIN),
    "SignatureDoesNotMatch": (AuthenticationError, f"the signature is wrong: {RETYPE}"),
    "SlowDown": (ThrottledError, AGAIN),
    "Throttling": (ThrottledError, AGAIN),
    "ThrottlingException": (ThrottledError, AGAIN),
    "TokenRefreshRequired": (AuthenticationError, f"the session has expired: {RENEW}"),
    "TooManyRequests": (ThrottledError, AGAIN),
    "XAmzContentSHA256Mismatch": (TransientError, "the data was damaged on its way"),
}

# 403 codes of Object Lock: services agree on neither code nor text, AWS says AccessDenied.
RETAINED_CODES = frozenset({"ObjectLocked", "InvalidRetention", "WORMProtected"})

WRONG_REGION = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)

MISSING_KEY = frozenset({"NoSuchKey", "NoSuchVersion", "NotFound", "404"})
CONDITION_FAILED = frozenset({"PreconditionFailed", "412"})

STATUSES: Mapping[int, tuple[type[VfsError], str]] = {
    400: (InvalidError, "the service finds the request wrong; check region and credentials"),
    401: (AuthenticationError, RETYPE),
    403: (DeniedError, POLICY),
    405: (UnsupportedError, "the service does not offer this"),
    408: (UnreachableError, AGAIN),
    409: (TransientError, "a conflicting operation is under way"),
    413: (TooLargeError, "it is larger than the service takes"),
    416: (StaleError, "the object has changed in the store since it was looked up"),
    429: (ThrottledError, AGAIN),
    500: (TransientError, AGAIN),
    501: (UnsupportedError, "the service does not offer this"),
    502: (TransientError, AGAIN),
    503: (ThrottledError, AGAIN),
    504: (UnreachableError, AGAIN),
    507: (QuotaError, "the service is full"),
}
"""For answers without a code that we know: those to HEAD have no body at all."""
