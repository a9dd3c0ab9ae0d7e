"""Fixtures: keys, certificates, and the Secrets that the values in ci/ name."""

import base64
import subprocess

import pytest

import chart

JWT_SECRET = b"a secret of at least thirty-two bytes\n"

OAUTH1 = b"""[[credential]]
consumer_key = "app"
consumer_secret = "app-secret"
access_token = "1-phone"
access_token_secret = "phone-secret"
user_id = "1"
"""


WEBHOOKS = b"""[[webhook]]
name = "chat"
url = "https://chat.example.com/webhooks/twitter"
secret_file = "chat-secret"
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Creates a CA, two certificates that it signed, and a key pair for tokens, with openssl."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(command, *arguments):
        command = ["openssl", *command.split(), *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)

    def certificate(name, subject, *arguments):
        new = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj {subject}"
        openssl(f"{new} -keyout {name}.key -out {name}.crt", *arguments)

    def signed_certificate(name, names):
        subject_names = ["-addext", f"subjectAltName={names}"]
        no_ca = ["-addext", "basicConstraints=critical,CA:FALSE"]
        certificate(
            name, f"/CN={name}", *subject_names, *no_ca, "-CA", "ca.crt", "-CAkey", "ca.key"
        )

    certificate("ca", "/CN=ca")
    signed_certificate("tls", f"DNS:localhost,DNS:r-markread.{chart.NAMESPACE}.svc,IP:127.0.0.1")
    signed_certificate("client", "DNS:chat.example.com")
    openssl("genrsa -out jwt.key 2048")
    openssl("rsa -in jwt.key -pubout -out public-key.pem")
    openssl("rsa -in jwt.key -noout -modulus -out modulus")
    return {file.name: file.read_bytes() for file in folder.iterdir()} | {"folder": folder}


@pytest.fixture
def secrets(keys):
    """Returns the Secrets that the values in ci/ name."""
    pair = {name: keys[name] for name in ["tls.crt", "tls.key", "ca.crt"]}
    return {
        "markread-jwt": {"jwt-secret": JWT_SECRET},
        "markread-jwt-key": {"public-key.pem": keys["public-key.pem"]},
        "markread-oauth1": {"credentials.toml": OAUTH1},
        "markread-redis": {"username": b"default", "password": b"redis-password"},
        "markread-tls": pair,
        "markread-client-ca": pair,
        "markread-redis-ca": pair,
        "markread-redis-client": pair,
        "markread-webhooks": {
            "webhooks.toml": WEBHOOKS,
            "chat-secret": b"a consumer secret",
        },
        "markread-relay-redis": {"username": b"default", "password": b"redis-password"},
        "chat-webhook": {"secret": b"a consumer secret"},
        "archive-webhook": pair
        | {
            "consumer-secret": b"another consumer secret",
            "previous-consumer-secret": b"an old consumer secret",
            "standard-secret": b"whsec_" + base64.b64encode(bytes(32)),
        },
        "markread-sentinel": {"username": b"default", "password": b"sentinel-password"},
        "markread-sentinel-ca": pair,
        "markread-sentinel-client": pair,
    }
