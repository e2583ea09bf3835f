"""Certificates for tests: self-signed, for 127.0.0.1 and localhost, good or spoiled in one way; and clients' own."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


def make_certificate(
    folder: Path,
    *,
    name: str,
    begins: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
    password: bytes | None = None,
) -> tuple[Path, Path]:
    """``cert.pem`` and ``key.pem`` in ``folder``; ``begins`` and ``ends`` count from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    key_file.write_bytes(key.private_bytes(*private))
    return cert_file, key_file


@dataclass(frozen=True)
class Authority:
    """Signs certificates for clients. ``cert_file`` is what those who trust it hold."""

    cert_file: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    def client(self, name: str, *, ends: datetime.timedelta = DAY) -> Path:
        """A client's certificate and key in one file beside the authority's; ``ends`` counts from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = (
            _begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), self.name, key, ends=ends)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        file = self.cert_file.with_name(f"{name}.pem")
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + _plain(key))
        return file


def make_authority(folder: Path, *, name: str) -> Authority:
    """An authority of this name, its certificate in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signed = (
        _begun(subject, subject, key, ends=DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return Authority(file, subject, key)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ends: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + ends)
    )


def _plain(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def trusting(cert_file: Path) -> ssl.SSLContext:
    """A client's context that trusts this certificate alone."""
    return ssl.create_default_context(cafile=str(cert_file))
