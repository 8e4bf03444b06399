"""TLS of the server: certificate, key and, where asked for, the clients' certificates; all can be loaded again."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from jaxpaged.errors import ConfigError
from jaxpaged_server.settings import ServerConfig

_MAX_BYTES = 4 * 1024**2
_SIGNATURE = tuple[tuple[int, int, int], ...]


class ServerTls:
    """An SSL context for the listener, and what it was loaded from.

    certfile, keyfile: PEM; without a key file the key is in the certificate's. ca_certs: who signs the clients'.
    cert_reqs: 0 no client is asked, 1 one that shows a certificate is checked, 2 every one must. Raises ConfigError
    for files that cannot be read, are not PEM, do not belong together, or have a passphrase.
    """

    def __init__(
        self,
        *,
        certfile: Path,
        keyfile: Path | None = None,
        ca_certs: Path | None = None,
        cert_reqs: int = 0,
        ciphers: str | None = None,
    ) -> None:
        self._certfile, self._keyfile, self._ca_certs = certfile, keyfile, ca_certs
        self._ciphers, self._cert_reqs = ciphers, cert_reqs
        self._seen = self._signature()
        self.context = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    @classmethod
    def of(cls, config: ServerConfig) -> ServerTls | None:
        """As the options ask for it; None where they ask for plain HTTP. Raises ConfigError."""
        if config.ssl_certfile is None:
            return None
        return cls(
            certfile=Path(config.ssl_certfile),
            keyfile=None if config.ssl_keyfile is None else Path(config.ssl_keyfile),
            ca_certs=None if config.ssl_ca_certs is None else Path(config.ssl_ca_certs),
            cert_reqs=config.ssl_cert_reqs,
            ciphers=config.ssl_ciphers,
        )

    def reload(self) -> None:
        """Load the files again: connections made from now on get the new certificate, those under way stay.

        Raises ConfigError, and then the old certificate stays. Signers of clients' certificates are added; one that is
        gone from its file is trusted until the server starts again.
        """
        seen = self._signature()
        self._load(
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        )  # a trial: a pair that does not fit must not reach the one in use
        self._load(self.context)
        self._seen = seen

    def reload_if_changed(self) -> bool:
        """Load the files again where one of them is another than at the last look; returns whether. Raises ConfigError.

        After an error it does not try again before the files have changed once more.
        """
        seen = self._signature()
        if seen == self._seen:
            return False
        self._seen = seen
        self.reload()
        return True

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        if self._ciphers is not None:
            try:
                context.set_ciphers(self._ciphers)
            except ssl.SSLError:
                limit = "OpenSSL knows none of these ciphers"
                raise ConfigError(name="ssl_ciphers", value=self._ciphers, limit=limit) from None
        self._load_pair(context)
        if self._ca_certs is not None:
            _readable("ssl_ca_certs", self._ca_certs)
            try:
                context.load_verify_locations(cafile=self._ca_certs)
            except ssl.SSLError:
                raise _bad("ssl_ca_certs", self._ca_certs, "there are no certificates in PEM in it") from None
        context.verify_mode = ssl.VerifyMode(self._cert_reqs)
        return context

    def _load_pair(self, context: ssl.SSLContext) -> None:
        certificate = _readable("ssl_certfile", self._certfile)
        key_name, key_file = "ssl_certfile", self._certfile
        if self._keyfile is not None:
            key_name, key_file = "ssl_keyfile", self._keyfile
        key = _readable(key_name, key_file)
        if b"-----BEGIN CERTIFICATE-----" not in certificate:
            raise _bad("ssl_certfile", self._certfile, "there is no certificate in PEM in it")
        if b"PRIVATE KEY-----" not in key:
            fix = "Give ssl_keyfile" if self._keyfile is None else ""
            raise _bad(key_name, key_file, "there is no private key in PEM in it", fix)
        try:
            # without a function OpenSSL would ask the terminal for a passphrase, and wait
            context.load_cert_chain(self._certfile, self._keyfile, password=_no_passphrase)
        except _PassphraseError:
            fix = "Write it without one: openssl pkey -in KEY -out NEW"
            raise _bad(key_name, key_file, "the key has a passphrase", fix) from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                limit = f"it does not belong to the certificate {self._certfile}"
                raise _bad(key_name, key_file, limit, "Give the key that the certificate was made for") from None
            limit = f"certificate and key cannot be used: {error.reason or error}"
            raise _bad("ssl_certfile", self._certfile, limit) from None

    def _signature(self) -> _SIGNATURE:
        """What tells whether a file is another: its number, size and time of change."""
        found: list[tuple[int, int, int]] = []
        for path in (self._certfile, self._keyfile, self._ca_certs):
            try:
                status = os.stat(path) if path is not None else None
            except OSError:
                status = None
            found.append((0, 0, 0) if status is None else (status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


class _PassphraseError(Exception):
    """The key is encrypted."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _readable(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _bad(name, path, f"it cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_BYTES:
        raise _bad(name, path, f"it has more than {_MAX_BYTES:,} bytes")
    return content


def _bad(name: str, path: Path, limit: str, fix: str = "") -> ConfigError:
    return ConfigError(name=name, value=str(path), limit=limit, fix=fix)
