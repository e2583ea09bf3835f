"""A real broker behind locks: TLS with and without client certificates, SASL by password and by token, and ACLs."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from jwt.algorithms import RSAAlgorithm

from tests.parts.kafka import KafkaBroker
from tests.parts.ports import free_port

PASSWORD = "correct-horse"
ISSUER = "https://issuer.test"
AUDIENCE = "kafka"
_JAAS = "org.apache.kafka.common.security"
_LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "PASSWORD": "SASL_PLAINTEXT",
    "LOCKED": "SASL_SSL",
    "TOKEN": "SASL_PLAINTEXT",
}
_PROPERTIES = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},{listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}
controller.quorum.voters=1@127.0.0.1:{controller_port}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
ssl.keystore.type=PEM
ssl.keystore.location={directory}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/ca.pem
listener.name.mutual.ssl.client.auth=required
listener.name.password.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.password.plain.sasl.jaas.config={jaas}.plain.PlainLoginModule required user_reader="{password}" \
user_stranger="{password}";
listener.name.password.scram-sha-256.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
listener.name.locked.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.locked.scram-sha-512.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
listener.name.token.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.token.oauthbearer.sasl.jaas.config={jaas}.oauthbearer.OAuthBearerLoginModule required;
listener.name.token.oauthbearer.sasl.server.callback.handler.class=\
{jaas}.oauthbearer.OAuthBearerValidatorCallbackHandler
sasl.oauthbearer.jwks.endpoint.url=file://{directory}/jwks.json
sasl.oauthbearer.expected.audience={audience}
sasl.oauthbearer.expected.issuer={issuer}
listener.name.token.sasl.oauthbearer.jwt.validator.class={jaas}.oauthbearer.BrokerJwtValidator
"""


class Authority:
    """Signs certificates; its own is ``ca.pem`` in ``directory``."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(**{**dict.fromkeys(_USAGES, False), "key_cert_sign": True, "crl_sign": True}),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, addresses: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Certificate and key as PEM files, and both in ``<name>.pem``."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        files[0].write_bytes(certificate)
        files[1].write_bytes(secret)
        (self._directory / f"{name}.pem").write_bytes(secret + certificate)
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class SecuredKafka(KafkaBroker):
    """One broker with a listener for each kind of lock. Whoever comes by the plain port may do everything; ``reader``
    by any other may read what ``allow`` opens; ``stranger`` may nothing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port, controller_port = free_port(), free_port()
        self._ports = {name: free_port() for name in _LISTENERS}
        self.authority = Authority(directory, "the authority")
        self.authority.issue("broker", addresses=("127.0.0.1",))
        self.certificate = self.authority.issue("reader")
        self.signing_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(RSAAlgorithm.to_jwk(self.signing_key.public_key()))
        (directory / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "1", "use": "sig"}]}))
        listeners = ",".join(f"{name}://127.0.0.1:{own}" for name, own in self._ports.items())
        super().__init__(
            directory,
            port=port,
            properties=_PROPERTIES.format(
                port=port,
                controller_port=controller_port,
                listeners=listeners,
                protocols=",".join(f"{name}:{protocol}" for name, protocol in _LISTENERS.items()),
                directory=directory,
                jaas=_JAAS,
                password=PASSWORD,
                audience=AUDIENCE,
                issuer=ISSUER,
            ),
            jvm_flags=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{directory}/jwks.json"],
            format_flags=[
                flag
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
                for flag in ("--add-scram", f"{mechanism}=[name=reader,password={PASSWORD}]")
            ],
        )

    def at(self, listener: str) -> str:
        """The address of a listener: TLS, MUTUAL, PASSWORD, LOCKED or TOKEN."""
        return f"127.0.0.1:{self._ports[listener]}"

    def allow(self, user: str, topic: str, *operations: AclOperation) -> None:
        """Give a user rights on a topic; READ and DESCRIBE if none are named. Blocks."""
        self._add(user, topic, operations or (AclOperation.READ, AclOperation.DESCRIBE), AclPermissionType.ALLOW)

    def forbid(self, user: str, topic: str) -> None:
        """Let a user read a topic no more. Blocks."""
        self._add(user, topic, (AclOperation.READ,), AclPermissionType.DENY)

    def _add(self, user: str, topic: str, operations: Sequence[AclOperation], permission: AclPermissionType) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        literal = ResourcePatternType.LITERAL
        rules = [
            AclBinding(ResourceType.TOPIC, topic, literal, f"User:{user}", "*", operation, permission)
            for operation in operations
        ]
        for done in admin.create_acls(rules).values():
            done.result(20)


@contextlib.contextmanager
def secured() -> Iterator[SecuredKafka]:
    """A secured broker of one's own. Raises PartMissing."""
    with tempfile.TemporaryDirectory(prefix="kafka-secured-") as directory:
        own = SecuredKafka(Path(directory))
        try:
            own.start()
            yield own
        finally:
            own.kill()
