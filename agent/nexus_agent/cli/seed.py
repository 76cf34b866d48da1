"""What `nexus-agent dev` puts into its Nexus: values made up on the spot, or those of a .env or JSON file."""

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nexus_agent import exactjson
from nexus_agent.errors import BadRequest, BadSettings
from nexus_agent.exactjson import DecimalText
from nexus_agent.model import SecretType, is_key
from nexus_local.services import Service
from nexus_local.store import Store

_ACTOR = "dev"


@dataclass(frozen=True, slots=True)
class Seed:
    """Values by key, kept out of every repr: secrets as text, file secrets, configs as JSON text, flags."""

    texts: dict[str, str] = field(default_factory=dict, repr=False)
    files: dict[str, str] = field(default_factory=dict, repr=False)
    configs: dict[str, str] = field(default_factory=dict, repr=False)
    flags: dict[str, bool] = field(default_factory=dict)

    def write(self, store: Store, service: Service) -> None:
        """Put everything into a service at once, so that configs may refer to whatever comes with them."""
        with store.batch(service):
            for key, value in self.texts.items():
                store.set_secret(service, key, value, SecretType.TEXT, "", _ACTOR)
            for key, value in self.files.items():
                store.set_secret(service, key, value, SecretType.FILE, "", _ACTOR)
            for key, active in self.flags.items():
                store.set_flag(service, key, active, _ACTOR)
            for key, text in self.configs.items():
                store.set_config(service, key, text.encode(), _ACTOR)


def invented() -> Seed:
    """A small shop's values, with a real certificate."""
    import secrets

    return Seed(
        texts={"stripe.secret_key": f"sk_test_{secrets.token_hex(12)}", "db:password": secrets.token_urlsafe(18)},
        files={"TLS_CERT": _certificate()},
        configs={
            "database.host": '"db.internal"',
            "api.timeout_ms": "1500",
            "database.url": '"postgresql://app:{{secret:db:password}}@{{config:database.host}}:5432/app"',
        },
        flags={"new.checkout": True},
    )


def from_file(path: Path) -> Seed:
    """The values of a .json file (texts are secrets, all else configs) or of a .env file (all secrets).

    Raises `BadSettings`, naming the file and the key, and never a value.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{path}: cannot be read: {error.strerror}", "correct --from") from None
    values = _json(path, raw) if path.suffix == ".json" else _dotenv(path, raw)
    wrong = [key for key in values if not is_key(key)]
    if wrong:
        raise BadSettings(
            f"{path}: no keys of Nexus: {', '.join(map(repr, wrong))}",
            "a key begins with a letter, ends with a letter or digit, and has only letters, digits and _ . : - in it",
        )
    texts = {key: value for key, value in values.items() if _is_text(value)}
    configs = {key: exactjson.dump(value) for key, value in values.items() if not _is_text(value)}
    return Seed(texts={key: str(value) for key, value in texts.items()}, configs=configs)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, DecimalText)


def _json(path: Path, raw: bytes) -> dict[str, object]:
    try:
        document = exactjson.load(raw)
    except BadRequest as error:
        raise BadSettings(f"{path}: {error.detail}", "write one JSON object") from None
    if not isinstance(document, dict):
        raise BadSettings(f"{path}: is no JSON object", 'write {"KEY": "value", …}')
    return document


def _dotenv(path: Path, raw: bytes) -> dict[str, object]:
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSettings(f"{path}: is not UTF-8", "save it as UTF-8") from None
    broken = [binding.original.line for binding in parse_stream(io.StringIO(text)) if binding.error]
    if broken:
        raise BadSettings(f"{path}:{broken[0]}: is no NAME=VALUE", "correct the line")
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    empty = [name for name, value in values.items() if value is None]
    if empty:
        raise BadSettings(f"{path}: no value for {', '.join(empty)}", "write NAME=VALUE, or NAME= for an empty one")
    return dict(values)


def _certificate() -> str:
    """A self-signed certificate for `localhost`, valid for a day, with its private key thrown away."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
