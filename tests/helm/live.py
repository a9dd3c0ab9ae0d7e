"""A server on a Redis with a consumer group, after a call of each kind, a relay with a receiver, and a
Prometheus that scrapes both. All of it is on loopback, in a temporary directory, and ends with the test."""

import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager

from promql import ROOT

BINARY = os.environ.get("MARKREAD_TEST_BINARY", ROOT / "target/debug/markread")
STREAM = "direct_message_mark_read_events"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def wait_for(what, ask, seconds=30):
    """Calls `ask` until its answer is not empty, and returns that."""
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := ask():
                return answer
            problem = "no answer"
        except (OSError, urllib.error.URLError, subprocess.CalledProcessError) as error:
            problem = error
        assert time.monotonic() < end, f"{what}: {problem}"
        time.sleep(0.2)


@contextmanager
def process(log, *command):
    with open(log, "w") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    except BaseException:
        print(log.read_text(encoding="utf-8"))
        raise
    finally:
        started.kill()
        started.wait()


@contextmanager
def server(directory):
    """Runs a server and a relay, makes a call of each kind, and yields the addresses of their operators' ports."""
    redis, grpc, ops, relay_ops = (str(free_port()) for _ in range(4))
    secret, token = directory / "secret", directory / "token"
    secret.write_text("a secret of at least thirty-two bytes")
    token.write_text(run(BINARY, "token", "--user", "5", "--jwt-secret-file", secret))
    no_files = ("--save", "", "--appendonly", "no", "--dir", directory)
    redis_server = ("redis-server", "--port", redis, "--bind", "127.0.0.1", *no_files)
    # fmt: off
    serve = (
        BINARY, "serve", "--redis-url", f"redis://127.0.0.1:{redis}", "--jwt-secret-file", secret,
        "--listen", f"127.0.0.1:{grpc}", "--ops-listen", f"127.0.0.1:{ops}",
    )
    # fmt: on
    with process(directory / "redis.log", *redis_server):
        create = ("redis-cli", "-p", redis, "XGROUP", "CREATE", STREAM, "receipts", "0", "MKSTREAM")
        wait_for("redis-server", lambda: "OK" in run(*create))
        with process(directory / "serve.log", *serve), ExitStack() as stack:
            wait_for("markread", lambda: get(f"http://127.0.0.1:{ops}/readyz"))
            stack.enter_context(relay(directory, f"redis://127.0.0.1:{redis}", relay_ops))
            client = ("--address", f"http://127.0.0.1:{grpc}", "--token-file", token)
            run(BINARY, "mark", *client, "--recipient", "7", "--last-read-event-id", "9")
            run(BINARY, "state", *client, "--recipient", "7", "--recipient", "8")
            run(BINARY, "state", *client, "--recipient", "7")
            # No event: it becomes a dead letter.
            run("redis-cli", "-p", redis, "XADD", STREAM, "*", "other", "1")
            # The server reads the length of the stream once a second.
            time.sleep(2)
            for outcome in ["delivered", "dead_lettered"]:
                line = re.compile(f'^markread_relay_outcomes_total{{.*"{outcome}".*}} 1$', re.MULTILINE)
                wait_for(outcome, lambda: line.search(get(f"http://127.0.0.1:{relay_ops}/metrics")))
            yield f"127.0.0.1:{ops}", f"127.0.0.1:{relay_ops}"


@contextmanager
def relay(directory, redis, ops):
    """Runs a relay with a webhook, to which user 7 is subscribed, and its receiver."""
    port = free_port()
    consumer_secret, webhooks = directory / "consumer-secret", directory / "webhooks.toml"
    consumer_secret.write_text("a consumer secret")
    url = f"http://127.0.0.1:{port}/"
    webhooks.write_text(f'[[webhook]]\nname = "chat"\nurl = "{url}"\nsecret_file = "consumer-secret"\n')
    run(BINARY, "webhook", "subscribe", "chat", "7", "--redis-url", redis)
    # fmt: off
    receive = (
        BINARY, "webhook", "receive", "--listen", f"127.0.0.1:{port}", "--secret-file", consumer_secret,
    )
    deliver = (
        BINARY, "relay", "--webhooks", webhooks, "--allow-http", "--allow-private", "--redis-url", redis,
        "--ops-listen", f"127.0.0.1:{ops}",
    )
    # fmt: on
    with process(directory / "receive.log", *receive), process(directory / "relay.log", *deliver):
        wait_for("the relay", lambda: get(f"http://127.0.0.1:{ops}/readyz"))
        yield


@contextmanager
def prometheus(directory, targets, rules):
    """Runs a Prometheus with the rules, which scrapes the targets each second. Yields its query
    function."""
    port = free_port()
    labels = {"namespace": "chat"}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": "markread", "static_configs": [{"targets": targets, "labels": labels}]}
        ],
    }
    # JSON is YAML.
    (directory / "prometheus.yml").write_text(json.dumps(config))
    # fmt: off
    command = (
        "prometheus", f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}",
    )
    # fmt: on

    def ask(path, **parameters):
        query = urllib.parse.urlencode(parameters)
        answer = json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}?{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    with process(directory / "prometheus.log", *command):
        wait_for("prometheus", lambda: get(f"http://127.0.0.1:{port}/-/ready"))
        yield ask
