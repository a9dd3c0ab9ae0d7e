"""Services that a server depends on: Redis, an issuer of tokens and its keys."""

import base64
import http.server
import json
import subprocess
import threading
from contextlib import contextmanager

from pod import free_port, wait_until


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def redis(directory, *options):
    """Runs a Redis and yields its port."""
    port = free_port()
    listen = f"--port 0 --tls-port {port}" if "--tls-cert-file" in options else f"--port {port}"
    command = f"redis-server {listen} --bind 127.0.0.1 --appendonly yes --dir".split()
    with open(directory / "redis.log", "w") as log:
        process = subprocess.Popen([*command, directory, *options], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(directory, keys):
    """Runs a cluster of one node with TLS and a password, which has all slots, and yields its port."""
    options = [*REDIS_PASSWORD, *tls_options(keys), "--cluster-enabled", "yes", "--tls-cluster", "yes"]
    with redis(directory, *options, "--cluster-announce-ip", "127.0.0.1") as port:
        wait_until("the node", lambda: redis_cli(port, keys, "PING") == "PONG")
        assert redis_cli(port, keys, "CLUSTER", "ADDSLOTSRANGE", "0", "16383") == "OK"
        wait_until("the cluster", lambda: "cluster_state:ok" in redis_cli(port, keys, "CLUSTER", "INFO"))
        yield port


@contextmanager
def sentinel(directory, keys, master):
    """Runs a Sentinel with TLS and a password, which watches the Redis at a port, and yields its own."""
    port = free_port()
    options = [
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ntls-replication yes",
        "requirepass sentinel-password",
        f"sentinel monitor messages 127.0.0.1 {master} 1",
        "sentinel auth-pass messages redis-password",
        *(f"{name.removeprefix('--')} {file}" for name, file in pairs(tls_options(keys))),
    ]
    config = directory / "sentinel.conf"
    config.write_text("\n".join(options) + "\n")
    with open(directory / "sentinel.log", "w") as log:
        process = subprocess.Popen(
            ["redis-server", config, "--sentinel"], cwd=directory, stdout=log, stderr=log
        )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def pairs(words):
    return zip(words[::2], words[1::2], strict=True)


def redis_cli(port, keys, *command):
    """Returns what a Redis with TLS and the password answers."""
    tls = ["--tls", "--cacert", keys["folder"] / "ca.crt"]
    tls += ["--cert", keys["folder"] / "tls.crt", "--key", keys["folder"] / "tls.key"]
    call = ["redis-cli", "--no-auth-warning", "-a", REDIS_PASSWORD[1], "-p", str(port), *tls, *command]
    return subprocess.run(call, capture_output=True, text=True, timeout=20).stdout.strip()


@contextmanager
def jwks(keys):
    """Serves a JWK set and yields its URL."""
    modulus = int(keys["modulus"].decode().strip().partition("=")[2], 16)
    key = {
        "kty": "RSA",
        "kid": "k",
        "alg": "RS256",
        "use": "sig",
        "n": base64url(modulus.to_bytes(256, "big")),
        "e": "AQAB",
    }
    answer = json.dumps({"keys": [key]}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()


def tls_options(keys):
    files = {
        "--tls-cert-file": "tls.crt",
        "--tls-key-file": "tls.key",
        "--tls-ca-cert-file": "ca.crt",
    }
    return [text for option, file in files.items() for text in (option, keys["folder"] / file)]


REDIS_PASSWORD = ["--requirepass", "redis-password"]


def signed(keys):
    """Returns a token of user 1, signed with the private half of the server's public key."""
    header = {"alg": "RS256", "kid": "k"}
    claims = {"sub": "1", "exp": 4102444800, "iss": "https://login.example.com", "aud": "markread"}
    text = ".".join(base64url(json.dumps(each).encode()) for each in (header, claims))
    sign = ["openssl", "dgst", "-sha256", "-sign", keys["folder"] / "jwt.key"]
    done = subprocess.run(sign, input=text.encode(), check=True, capture_output=True, timeout=20)
    return f"{text}.{base64url(done.stdout)}".encode()
