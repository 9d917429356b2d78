"""What a TLS handshake that failed means to whoever wrote the URL, and what to change."""

import contextlib
import socket
import ssl

from vfs.errors import AuthenticationError, ConfigError, UnreachableError, VfsError

ASK_S = 1.0
"""A server that speaks TLS begins at once; one that waits for the rest of a request does not."""

# Source: X509_V_ERR_* of OpenSSL, x509_vfy.h; the ssl module has no names for them.
_OUT_OF_DATE = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})

# What OpenSSL says when the first bytes of an answer are no TLS record.
_PLAIN = frozenset({"HTTP_REQUEST", "UNKNOWN_PROTOCOL", "WRONG_VERSION_NUMBER"})


def handshake_failed(server: str, error: ssl.SSLError) -> VfsError:
    """Return the error that a failed handshake with a server, or a torn connection, stands for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _refused(server, error)
    if error.reason in _PLAIN:
        return ConfigError(
            f"{server} does not speak TLS: write s3+http:// in the URL"
            " (http:// in option endpoint), or name its TLS port",
        )
    return UnreachableError(
        f"the TLS connection to {server} failed ({error.reason or error.strerror or 'no reason'}):"
        " check the endpoint and network; s3+http:// is for a port without TLS",
    )


def _refused(server: str, error: ssl.SSLCertVerificationError) -> AuthenticationError:
    why = error.verify_message.rstrip(".")
    if error.verify_code in _OTHER_NAME:
        return other_name(server, why)
    if error.verify_code in _OUT_OF_DATE:
        remedy = "renew it on the server, or set the clock of this machine"
    else:
        remedy = "set ca_bundle to the file of its authority"
    return AuthenticationError(
        f"the certificate of {server} is not trusted ({why}): {remedy}"
        " (tls_verify=false turns the check off)",
    )


def other_name(server: str, why: str) -> AuthenticationError:
    """Return the error for a certificate that is not for the name in the URL."""
    return AuthenticationError(
        f"the certificate of {server} is for another name ({why}): write a name that it has in the"
        " URL, or give the server one for this name (tls_verify=false turns the check off)",
    )


def needs_tls(server: str) -> ConfigError:
    """Return the error for a server that was addressed without TLS and speaks it."""
    return ConfigError(
        f"{server} speaks TLS: write s3+https:// in the URL (https:// in option endpoint)",
    )


def speaks_tls(host: str, port: int) -> bool:
    """Ask a server whether it speaks TLS. Blocking, a few seconds at most."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # nothing is sent: only the handshake counts
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, ValueError):
        sock = socket.create_connection((host, port), ASK_S)
        with sock, context.wrap_socket(sock, server_hostname=host):
            return True
    return False
