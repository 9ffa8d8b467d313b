"""Objects in S3 and Google Cloud Storage: the web addresses that serve them, and what lies below a prefix.

fsspec (s3fs, gcsfs) finds the credentials and signs; the bytes then come over http, as those of any other server do.

S3 takes what the AWS tools take: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL (for
SeaweedFS, MinIO and others), AWS_REGION, the files of ``~/.aws``, a role. Google Cloud Storage takes
GOOGLE_SERVICE_ACCOUNT_JSON (a service account's key itself), GOOGLE_APPLICATION_CREDENTIALS (its file), or the
machine's own account. Without any, objects are asked for anonymously.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from faceflow.components.common.errors import SourceError
from faceflow.components.common.sources import scheme_of

_SIGNED_SECONDS = 3600
VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "GOOGLE_SERVICE_ACCOUNT_JSON",
)
"""The environment variables that give a stage access to object stores; a Kubernetes secret has them as keys."""
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and AWS_REGION",
    "gs": "GOOGLE_SERVICE_ACCOUNT_JSON or GOOGLE_APPLICATION_CREDENTIALS",
}
"""The environment variables to check when access is refused, by scheme."""
_PASSING = {
    "ConnectionError",
    "EndpointConnectionError",
    "ClientConnectionError",
    "HTTPClientError",
    "TransportError",
}


@dataclass(frozen=True)
class ObjectEntry:
    """An object below a prefix: its path there, its size in bytes, and its ETag."""

    path: str
    size: int
    etag: str


def is_object(location: str) -> bool:
    """Whether a location is in an object store."""
    return scheme_of(location) in CREDENTIALS


def address(location: str, method: str = "GET") -> tuple[str, dict[str, str]]:
    """The web address that serves a location now, and the headers that it wants.

    Args:
        location: An http(s), s3 or gs address.
        method: What will be asked: GET or HEAD.

    Raises:
        SourceError: The credentials cannot be used.
        ConnectionError: The service that gives credentials cannot be reached.
    """
    scheme = scheme_of(location)
    if scheme not in CREDENTIALS:
        return location, {}
    path = location.partition("://")[2]
    try:
        if scheme == "s3":
            return _s3_address(path, "head_object" if method == "HEAD" else "get_object"), {}
        store = _google()
        headers: dict[str, str] = {}
        store.credentials.apply(headers)
        return str(store.url(path)), headers
    except Exception as error:  # those of two clouds' client libraries have no common base
        raise _refused(location, error) from error


def listing(location: str) -> list[ObjectEntry]:
    """The objects below a prefix, in the order of their names; folder markers are left out.

    Args:
        location: The prefix, with or without a slash at its end.

    Raises:
        SourceError: It cannot be listed.
        ConnectionError: The service cannot be reached.
    """
    prefix = location.partition("://")[2].rstrip("/") + "/"
    try:
        store = _s3() if scheme_of(location) == "s3" else _google()
        found = store.find(prefix, detail=True, withdirs=False)
    except FileNotFoundError:
        return []
    except Exception as error:  # as above
        raise _refused(location, error) from error
    entries = (
        ObjectEntry(name.removeprefix(prefix), int(told["size"]), str(told.get("ETag") or told.get("etag") or ""))
        for name, told in found.items()
        if name.startswith(prefix) and not name.endswith("/")
    )
    return sorted((entry for entry in entries if entry.path), key=lambda entry: entry.path)


def _s3() -> Any:
    import s3fs

    environment = os.environ
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    return s3fs.S3FileSystem(
        anon=_without_credentials(),
        key=environment.get("AWS_ACCESS_KEY_ID") or None,
        secret=environment.get("AWS_SECRET_ACCESS_KEY") or None,
        token=environment.get("AWS_SESSION_TOKEN") or None,
        endpoint_url=endpoint or None,
        client_kwargs={"region_name": region} if region else {},
        # A bucket answers a signature for another region with an error.
        cache_regions=not region and not endpoint,
        # Newer clients ask for checksums that other makers' servers do not know.
        config_kwargs={"signature_version": "s3v4", "response_checksum_validation": "when_required"},
        use_listings_cache=False,
    )


def _without_credentials() -> bool:
    import botocore.session

    return botocore.session.get_session().get_credentials() is None


def _s3_address(path: str, action: str) -> str:
    return str(_s3().url(path, expires=_SIGNED_SECONDS, client_method=action))


def _google() -> Any:
    from gcsfs.core import GCSFileSystem  # the package's own asks for the kind of every bucket first

    key = os.environ.get("GOOGLE_SERVICE_ACCOUNT_JSON")
    return GCSFileSystem(
        project=os.environ.get("GOOGLE_CLOUD_PROJECT", "none"),
        access="read_only",
        token=json.loads(key) if key else None,
        use_listings_cache=False,
    )


def _refused(location: str, error: Exception) -> Exception:
    """What a client library's error means: something that may pass, or something to mend."""
    if _PASSING & {each.__name__ for each in type(error).__mro__}:
        return ConnectionError(f"{location}: {error}")
    scheme = scheme_of(location)
    return SourceError(
        f"{location}: the object store refuses access ({type(error).__name__}: {error}): check the address and "
        f"{CREDENTIALS[scheme]}."
    )
