"""Certificates: TLS of the gateway, with files that may be replaced while it runs.

- Each new connection gets the current files.
- Certificate and key are used only after they were checked together.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from rapo.config import GatewayConfig
from rapo.errors import ConfigError
from services.gateway.reloading import ReloadingFile, read_small


class Certificates:
    """Certificate, key and (for mTLS) client CA. Raises `ConfigError` if they cannot be used
    together."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        paths = [certificate, key, *([client_ca] if client_ca is not None else [])]
        self._mutual = client_ca is not None
        self.file = ReloadingFile(paths, lambda: _read(certificate, key, client_ca))

    def credentials(self) -> grpc.ServerCredentials:
        """For the server's port. gRPC asks for the files' content at each handshake, so a renewal
        needs no restart."""
        current = self.file.value

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal current
            if self.file.value is current:
                return None
            current = self.file.value
            return current

        return grpc.dynamic_ssl_server_credentials(current, renewed, require_client_authentication=self._mutual)


def certificates(settings: GatewayConfig) -> Certificates | None:
    """None without TLS. Raises `ConfigError` for half a pair, a client CA without TLS, or files
    that cannot be used."""
    if (settings.certificate is None) != (settings.key is None):
        raise ConfigError("serve.gateway.certificate and serve.gateway.key belong together; give both or none")
    if settings.certificate is None or settings.key is None:
        if settings.client_ca is not None:
            raise ConfigError("serve.gateway.client_ca needs serve.gateway.certificate and serve.gateway.key, too")
        return None
    return Certificates(settings.certificate, settings.key, settings.client_ca)


def _read(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    chain = read_small(certificate, "serve.gateway.certificate")
    secret = read_small(key, "serve.gateway.key")
    try:
        # gRPC would take anything and refuse every handshake instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"serve.gateway.certificate = {certificate} and serve.gateway.key = {key}: not a PEM certificate and its "
            f"own key without a password ({error})"
        ) from error
    # The two files are often replaced one after the other: what was checked must be what is used.
    if chain != read_small(certificate, "serve.gateway.certificate") or secret != read_small(key, "serve.gateway.key"):
        raise ConfigError(f"serve.gateway.certificate = {certificate} changed while it was read")
    authorities = None
    if client_ca is not None:
        authorities = read_small(client_ca, "serve.gateway.client_ca")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=authorities.decode())
        except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(f"serve.gateway.client_ca = {client_ca}: not a PEM certificate ({error})") from error
    return grpc.ssl_server_certificate_configuration([(secret, chain)], root_certificates=authorities)


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    raise ValueError("the key has a password")
