"""A TLS handshake, for what it tells of a server; nothing is sent over the connection."""

import os
import socket
import ssl
import time
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from seawall.observation import TlsFacts

_DAY = 24 * 3600.0


def shake_hands(host: str, port: int, timeout: float) -> TlsFacts | None:
    """Return what a handshake with the server at *host* and *port* tells; None where no TLS is spoken there.

    Certificates are trusted as for every other request of this tool: by ``REQUESTS_CA_BUNDLE``, else by certifi.
    """
    context = ssl.create_default_context()
    authorities = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    try:
        if Path(authorities).is_dir():
            context.load_verify_locations(capath=authorities)
        else:
            context.load_verify_locations(cafile=authorities)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection((host, port), timeout) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
            expires = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            return TlsFacts(
                version=secured.version() or "",
                protocol=secured.selected_alpn_protocol() or "",
                days_left=(expires - time.time()) / _DAY,
            )
    except ssl.SSLCertVerificationError as error:
        return TlsFacts(problem=error.verify_message or "verification failed")
    except OSError:
        return None
