"""The certificate files that a database URL or a variable names, and the TLS context of a verified connection."""

import os
import ssl
from collections.abc import Mapping
from typing import Final

from checkpointd.postgres.dsn_parameters import PARAMETERS, DsnError, DsnFileError, read

_DEFAULTS: Final = {
    "sslrootcert": "root.crt",
    "sslcrl": "root.crl",
    "sslcert": "postgresql.crt",
    "sslkey": "postgresql.key",
}
"""Parameters that name a file, and the file in ~/.postgresql that is used if there is one and no other is named."""


def has_authorities(options: Mapping[str, str]) -> bool:
    """Return whether there is a file of trusted authorities other than the system's."""
    return _file(options, "sslrootcert") not in {None, "system"}


def verifying_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and verifies the name of the server.

    asyncpg's own verify-full requires a file of authorities. Raises OSError if a certificate file is missing.
    """
    context = ssl.create_default_context()
    if revoked := _file(options, "sslcrl"):
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if oldest := read(options, "ssl_min_protocol_version"):
        context.minimum_version = tls_version(oldest)
    if newest := read(options, "ssl_max_protocol_version"):
        context.maximum_version = tls_version(newest)
    _load_client_certificate(options, context)
    return context


def tls_version(name: str) -> ssl.TLSVersion:
    """Return the version of an accepted name, such as TLSv1.2."""
    return ssl.TLSVersion[name.upper().replace("TLSV", "TLSv").replace(".", "_")]


def check_files(options: Mapping[str, str], sslmode: str | None) -> None:
    """Raise DsnError if a certificate file that the URL or a variable names cannot be used.

    asyncpg raises the same error for a missing certificate file and for a missing socket.
    """
    named = {option: read(options, option) for option in _DEFAULTS}
    paths = {option: path for option, path in named.items() if path and (option, path) != ("sslrootcert", "system")}
    for option, path in paths.items():
        try:
            with open(path, "rb"):  # noqa: PTH123  # Path.open() raises more kinds of errors
                pass
        except (OSError, ValueError):
            origin = f"its {option}" if option in options else PARAMETERS[option].variable
            raise DsnFileError(f"{origin} must name a file that this user can read") from None
    if named["sslrootcert"] == "system" and sslmode in {"require", "verify-ca"}:
        raise DsnError("sslrootcert=system requires sslmode=verify-full")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for option in paths.keys() & {"sslrootcert", "sslcrl"}:
        try:
            context.load_verify_locations(paths[option])
        except OSError:
            raise DsnFileError(f"the file of {option} must be in PEM format") from None
    try:
        if "sslcert" in paths:
            _load_client_certificate(options, context)
    except OSError:
        message = "the files of sslcert and sslkey must be a certificate and its key in PEM format"
        raise DsnFileError(f"{message}; sslpassword must be the key's password, if it has one") from None


def _load_client_certificate(options: Mapping[str, str], context: ssl.SSLContext) -> None:
    """Load this client's certificate, if there is one. Without a password, OpenSSL would prompt for one."""
    if certificate := _file(options, "sslcert"):
        context.load_cert_chain(certificate, _file(options, "sslkey"), options.get("sslpassword", ""))


def _file(options: Mapping[str, str], option: str) -> str | None:
    default = os.path.expanduser(f"~/.postgresql/{_DEFAULTS[option]}")  # noqa: PTH111  # Path.expanduser() raises
    return read(options, option) or (default if os.path.exists(default) else None)  # noqa: PTH110  # as above
