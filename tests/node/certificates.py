"""Certificates that nobody but these tests trusts."""

from __future__ import annotations

import ssl

import trustme

CERTIFICATES = trustme.CA()


def server_context(*, wants_certificates: bool = False) -> ssl.SSLContext:
    """Return the side of a node at 127.0.0.1 that may insist on the certificates of dialers."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CERTIFICATES.issue_cert("127.0.0.1").configure_cert(context)
    if wants_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
        CERTIFICATES.configure_trust(context)
    return context


def client_context(name: str | None = None) -> ssl.SSLContext:
    """Return the side of a dialer, with a certificate if it has a name."""
    context = ssl.create_default_context()
    CERTIFICATES.configure_trust(context)
    if name is not None:
        CERTIFICATES.issue_cert(common_name=name).configure_cert(context)
    return context
