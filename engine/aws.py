"""Clients of AWS, one for each service and region, and what an error of theirs means, in plain words."""

from __future__ import annotations

import os
import threading
from typing import Any

OPEN_S, READ_S = 5, 10  # of one request to AWS
_MISSING = (
    "ResourceNotFoundException",
    "ParameterNotFound",
    "ParameterVersionNotFound",
    "NotFoundException",
    "NotFound",
)
_DENIED = ("AccessDeniedException", "AccessDenied", "AuthorizationError", "AuthorizationErrorException")
_ENCRYPTED = ("DecryptionFailure", "InvalidKeyId", "KMSAccessDenied", "KMSAccessDeniedException", "KMSDisabled")
_STRANGERS = (
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "ExpiredTokenException",
    "ExpiredToken",
)
_BUSY = ("ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded")

_clients: dict[tuple[str, str | None, str | None], Any] = {}
_making = threading.Lock()


def client(service: str, region: str | None = None) -> Any:
    """boto3's, which threads share; `region` None: the one of the environment. ImportError without boto3."""
    key = (service, region, os.environ.get("AWS_ENDPOINT_URL"))
    with _making:  # boto3's session, which makes them, is not for several threads at once
        found = _clients.get(key)
        if found is None:
            import boto3
            from botocore.config import Config

            config = Config(connect_timeout=OPEN_S, read_timeout=READ_S, retries={"max_attempts": 3})
            found = _clients[key] = boto3.client(service, region_name=region, config=config)
        return found


def region_of(name: str) -> str | None:
    """The region that an ARN names; None for what is none."""
    parts = name.split(":")
    return (parts[3] or None) if parts[0] == "arn" and len(parts) > 5 else None


def code_of(error: Exception) -> str:
    """What AWS calls it, or the class of an error that came from nearer by."""
    reply = getattr(error, "response", None)
    code = str(reply.get("Error", {}).get("Code", "")) if isinstance(reply, dict) else ""
    return code or type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Did AWS decide against it, or is it only away for a while?"""
    return code_of(error) in {*_MISSING, *_DENIED, *_ENCRYPTED, "InvalidRequestException"}


def told(error: Exception, *, action: str, resource: str) -> str:
    """What is wrong and what to do; never AWS's own text, which may repeat what was sent."""
    code = code_of(error)
    if code in _MISSING:
        return f"{code}: there is none of this name in this account and region"
    if code in _DENIED:
        return f"{code}: allow {action} on {resource}, and kms:Decrypt on its key if that is one of your own"
    if code in _ENCRYPTED:
        return f"{code}: allow kms:Decrypt on the key that {resource} is encrypted with"
    if code in _STRANGERS:
        return f"{code}: AWS does not take the credentials of this process"
    if code in _BUSY:
        return f"{code}: AWS asks to wait; it is tried again"
    match code:
        case "InvalidRequestException":
            return f"{code}: it is marked for deletion, or has no value yet"
        case "NoCredentialsError" | "PartialCredentialsError":
            return f"{code}: give this process a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        case "NoRegionError":
            return f"{code}: set AWS_REGION"
    return code
