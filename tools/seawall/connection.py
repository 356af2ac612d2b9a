"""Connections that are bounded in time as a whole, and that end when somebody wants the process to end.

A socket's timeout bounds each wait, and no more: a server that sends a byte now and then keeps its client for days with
one line of headers. And a wait is not ended by a signal, which reaches the main thread alone.
"""

import queue
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from seawall import interrupt

DRIP_TIMEOUTS = 2
"""Headers have to come whole in so many times the seconds for which a server may be silent."""

_SLICE = 0.5
"""Seconds after which a wait looks whether it is to go on."""


class DripError(TimeoutError):
    """A server sends, but so slowly that it means to keep us."""


class _Socket(socket.socket):
    deadline: float | None = None
    """When all that is being read has to be there, by the monotonic clock."""
    _patience: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._patience = value
        super().settimeout(_SLICE if value is None else min(value, _SLICE))

    def gettimeout(self) -> float | None:
        return self._patience

    def recv_into(self, buffer: Any, *rest: Any) -> int:
        end = None if self._patience is None else time.monotonic() + self._patience
        while True:
            interrupt.check()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise DripError("drips")
            try:
                return super().recv_into(buffer, *rest)
            except TimeoutError:
                if end is not None and time.monotonic() >= end:
                    raise

    def sendall(self, data: Any, *rest: Any) -> None:
        # A request is small, and goes out at once or not at all.
        super().settimeout(self._patience)
        try:
            super().sendall(data, *rest)
        finally:
            super().settimeout(_SLICE if self._patience is None else min(self._patience, _SLICE))


class TlsSocket(_Socket, ssl.SSLSocket):
    """What a context of TLS is to make of a :func:`bounded` socket."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the shape of ssl.SSLSocket
        """Shake hands, unless somebody wants the process to end.

        Raises:
            TimeoutError: the server is silent.
            TransientError: somebody does.
        """
        end = None if self._patience is None else time.monotonic() + self._patience
        while True:
            interrupt.check()
            try:
                return super().do_handshake(block)
            except TimeoutError:
                if end is not None and time.monotonic() >= end:
                    raise


_sockets: weakref.WeakKeyDictionary[Any, _Socket] = weakref.WeakKeyDictionary()
"""Where each answer that is being read comes from."""


def limit(answer: Any, seconds: float) -> None:
    """Let reads of *answer*, urllib3's, fail with :class:`DripError` from so many *seconds* on."""
    source = _sockets.get(answer)
    if source is not None:
        source.deadline = time.monotonic() + seconds


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return bounded(_waited_for(super()._new_conn))

    def getresponse(self) -> Any:
        source = self.sock
        if not isinstance(source, _Socket):
            # TLS inside of TLS, to a proxy, is no socket.
            return super().getresponse()
        source.deadline = None if self.timeout is None else time.monotonic() + DRIP_TIMEOUTS * float(self.timeout)
        try:
            answer = super().getresponse()
        finally:
            source.deadline = None
        _sockets[answer] = source
        return answer


class _Tls(_Plain, HTTPSConnection):
    def connect(self) -> None:
        if self.ssl_context is None:
            self.ssl_context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
            self.ssl_context.sslsocket_class = TlsSocket
        super().connect()


def _waited_for(connect: Callable[[], socket.socket]) -> socket.socket:
    """Return what *connect* returns, unless the process is to end before names and servers have answered."""
    found: queue.SimpleQueue[socket.socket | BaseException] = queue.SimpleQueue()

    def put() -> None:
        try:
            found.put(connect())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            found.put(error)

    threading.Thread(target=put, name="connect", daemon=True).start()
    while True:
        interrupt.check()
        try:
            result = found.get(timeout=_SLICE)
        except queue.Empty:
            continue
        if isinstance(result, BaseException):
            raise result
        return result


def bounded(plain: socket.socket) -> socket.socket:
    """Return the connection of *plain*, which is no more; its waits end when somebody wants the process to end."""
    timeout = plain.gettimeout()
    bounded = _Socket(plain.family, plain.type, plain.proto, plain.detach())
    bounded.settimeout(timeout)
    return bounded


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Tls


_POOLS = {"http": _PlainPool, "https": _TlsPool}


class BoundedAdapter(HTTPAdapter):
    """Has requests use bounded connections, but to SOCKS proxies."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools as requests does, of bounded connections."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools for *proxy*, of bounded connections."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager
