"""
Client certificates out of secrets -> a TLS context; the private key never lies in a file that has a name.

`ssl` reads certificates from files only: where the system has them, the file is memory (Linux); elsewhere it is a
private one that is gone as soon as it was read.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import BadValue

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from engine.http import Tls


def context(tls: Tls | None) -> ssl.SSLContext:
    """BadValue, which repeats nothing of a key, where the certificates can't be used."""
    import ssl

    made = ssl.create_default_context()
    if tls is None:
        return made
    if tls.ca:
        try:
            made.load_verify_locations(cadata=pem(tls.ca))
        except (ssl.SSLError, ValueError):
            raise BadValue("no certificate in PEM can be read", "http.tls.ca") from None
    if tls.cert or tls.key:
        with unnamed_file(pem(f"{tls.cert}\n{tls.key}").encode()) as path:
            try:
                made.load_cert_chain(path, password=lambda: tls.passphrase)
            except (ssl.SSLError, ValueError, OSError) as error:
                reason = getattr(error, "reason", None) or ""
                why = "key and certificate do not belong together" if "MISMATCH" in reason else "can't be read as PEM"
                raise BadValue(f"certificate and key: {why}", "http.tls") from None
    return made


def pem(text: str) -> str:
    """As one line of an environment variable has it, too."""
    return text.replace("\\n", "\n")


@contextmanager
def unnamed_file(content: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(memory, content)
            yield f"/proc/self/fd/{memory}"
        finally:
            os.close(memory)
        return
    import tempfile

    handle, path = tempfile.mkstemp()  # only this user may read it
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)
