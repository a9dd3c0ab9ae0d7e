#!/usr/bin/env python3
"""Measures what docs/scale.md reckons with: bytes of keys in Redis, and what readers of the stream cost it.

    benches/scale/measure.py memory         bytes of a cursor, a quota and an entry, on one Redis and in a cluster
    benches/scale/measure.py reads          instructions of Redis to write an entry, and to give it to a server
    benches/scale/measure.py probes BINARY  instructions of Redis a second, with no server and with one that is idle
    benches/scale/measure.py tail BINARY    instructions of a server for an entry that concerns nobody there
    benches/scale/measure.py restart        seconds of Redis to fork, to save and to load 10 million cursors
    benches/scale/measure.py shares         partitions of the fullest master, by the numbers of both

It starts programs of its own on loopback and ends them: redis-server (or $REDIS_SERVER) and markread (BINARY). What
is counted in instructions runs under valgrind's callgrind, and hardly depends on the load of the machine.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REDIS_SERVER = os.environ.get("REDIS_SERVER", "redis-server")
READER, RECIPIENT, MESSAGE = 2_000_000_000_000_000_000, 1_234_567_890_123_456_789, 10**18
MS = 1_795_757_437_056
# The first eight tags of 64 partitions.
TAGS = [40821, 5469, 3017, 2113, 574, 18834, 8518, 26368]
STREAM = "direct_message_mark_read_events"
PAYLOAD = (
    f'{{"direct_message_mark_read_events":[{{"created_timestamp":"{MS}","sender_id":"{READER}",'
    f'"last_read_event_id":"{MESSAGE}","target":{{"recipient_id":"{RECIPIENT}"}}}}],'
    f'"users":{{"{READER}":{{"id":"{READER}"}},"{RECIPIENT}":{{"id":"{RECIPIENT}"}}}}}}'
)


class Client:
    """A connection to Redis."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def send(self, *commands):
        parts = []
        for command in commands:
            words = [str(word).encode() for word in command]
            parts.append(b"*%d\r\n" % len(words))
            parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind in b"*>~%":
            if rest == b"-1":
                return None
            return [self.reply() for _ in range(int(rest) * (2 if kind == b"%" else 1))]
        return rest

    def all(self, commands):
        """Sends commands in pipelines of 500, and returns the last reply."""
        reply = None
        for start in range(0, len(commands), 500):
            part = commands[start : start + 500]
            self.send(*part)
            for _ in part:
                reply = self.reply()
        return reply

    def run(self, *command):
        return self.all([command])

    def info(self, name):
        text = self.run("INFO", "everything").decode()
        return next(line.split(":")[1] for line in text.splitlines() if line.startswith(f"{name}:"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # The port of a cluster's bus is higher by 10,000.
        port = listener.getsockname()[1]
    return port if port < 50000 else port - 20000


@contextlib.contextmanager
def started(folder, *command):
    with open(Path(folder) / "log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition):
    for _ in range(600):
        with contextlib.suppress(OSError, RuntimeError):
            if (value := condition()) is not None:
                return value
        time.sleep(0.2)
    sys.exit("a program did not start")


def callgrind(folder, *command):
    return ["valgrind", "--tool=callgrind", f"--vgdb-prefix={folder}/vgdb", *command]


def instructions(folder, process):
    """Returns the instructions since the last call."""
    command = ["vgdb", f"--vgdb-prefix={folder}/vgdb", f"--pid={process.pid}", "dump"]
    subprocess.run(command, check=True, capture_output=True)
    newest = max(Path(folder).glob(f"callgrind.out.{process.pid}.*"), key=lambda file: file.stat().st_mtime_ns)
    lines = newest.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(("summary:", "totals:"))))


@contextlib.contextmanager
def redis(*options, counted=False):
    """Starts a Redis that persists nothing; yields its port, folder and process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [REDIS_SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--enable-debug-command", "local", *options]
        command = callgrind(folder, *command) if counted else command
        with started(folder, *command) as process:
            until(lambda: Client(port).run("PING"))
            yield port, folder, process


def used(client):
    time.sleep(1)  # for what Redis does ten times a second, such as to shrink its tables
    return int(client.info("used_memory")) - int(client.info("mem_clients_normal"))


def memory():
    print(f"{'':34} one Redis   cluster   (bytes each, {REDIS_SERVER})")
    kinds = {
        "cursor, 10 conversations a reader": (20_000, cursors(10), 10),
        "cursor, 50 conversations a reader": (4_000, cursors(50), 50),
        "quota": (100_000, quota, 1),
        "stream entry": (100_000, entry, 1),
    }
    for name, (count, command, each) in kinds.items():
        figures = []
        for tags in ([], TAGS):
            with redis("--cluster-enabled", "yes" if tags else "no") as (port, _, _):
                client = Client(port)
                if tags:
                    client.run("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                    until(lambda: client.run("SET", "x", 1))
                client.all([command(number, tags) for number in range(-1000, 0)])
                before = used(client)
                client.all([command(number, tags) for number in range(count)])
                figures.append((used(client) - before) / count / each)
        print(f"{name:34} {figures[0]:9.1f} {figures[1]:9.1f}")


def key(kind, number, tags):
    tag = f"{{{tags[number % len(tags)]}}}:" if tags else ""
    return f"markread:{tag}{kind}:{READER + number}"


def cursors(conversations):
    def command(number, tags):
        fields = []
        for each in range(conversations):
            recipient = RECIPIENT + 7919 * each
            fields += [recipient, MESSAGE + number + each, f"-{recipient}", MS]
        return ["HSET", key("cursors", number, tags), *fields]

    return command


def quota(number, tags):
    return ["SET", key("quota", number, tags), 17 + number % 900, "PX", 900_000]


def entry(number, tags):
    stream = f"{STREAM}:{{{tags[number % len(tags)]}}}" if tags else STREAM
    return ["XADD", stream, "*", "payload", PAYLOAD]


def reads():
    with redis(counted=True) as (port, folder, process):
        writer = Client(port)
        writer.all([entry(number, []) for number in range(2000)])
        print("instructions of Redis an entry           alone  and read  a reader costs")
        for size in (1, 4, 16, 100, 1000):
            rounds = max(10, 1000 // size)
            alone = written(writer, None, folder, process, size, rounds)
            reader = Client(port)
            reader.run("HELLO", 3)
            reader.run("CLIENT", "TRACKING", "ON")
            read = written(writer, reader, folder, process, size, rounds)
            print(f"{size:5} entries for each read {alone:15.0f} {read:9.0f} {read - alone:12.0f}")


def written(writer, reader, folder, process, size, rounds):
    def read(after):
        reader.send(["XREAD", "COUNT", 1000, "STREAMS", STREAM, after])
        reply = reader.reply()
        return reply[1][-1][0].decode() if reply else after

    commands = [entry(0, [])] * size
    place = writer.all(commands).decode()
    if reader:
        place = read(place)
    instructions(folder, process)
    for _ in range(rounds):
        writer.all(commands)
        if reader:
            reader.reply()  # the invalidation
            place = read(place)
    return instructions(folder, process) / rounds / size


@contextlib.contextmanager
def server(folder, port, binary, *options, counted=False):
    listen, ops = (f"127.0.0.1:{free_port()}" for _ in range(2))
    secret = Path(folder) / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    command = [binary, "serve", "--listen", listen, "--ops-listen", ops]
    command += ["--redis-url", f"redis://127.0.0.1:{port}", "--jwt-secret-file", str(secret), *options]
    command = callgrind(folder, *command) if counted else command
    with started(folder, *command) as process:
        ready = [binary, "healthcheck", "--listen", listen]
        until(lambda: subprocess.run(ready, capture_output=True).returncode == 0 or None)
        yield process, listen, secret


def probes(binary, seconds=15):
    for partitions in (1, 64, 256):
        cluster = partitions > 1
        options = ["--redis-mode", "cluster", "--partitions", str(partitions)] if cluster else []
        with redis("--cluster-enabled", "yes" if cluster else "no", counted=True) as (port, folder, process):
            client = Client(port)
            if cluster:
                client.run("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                until(lambda client=client: client.run("SET", "x", 1))
            client.all([entry(number, TAGS if cluster else []) for number in range(2000)])
            idle = rate(folder, process, seconds)
            with server(folder, port, binary, *options) as (_, listen, secret):
                served = rate(folder, process, seconds)
                with watching(binary, folder, listen, secret):
                    watched = rate(folder, process, seconds)
            print(
                f"instructions of Redis a second, {partitions} partitions: {idle:.0f}; for an idle server "
                f"{served - idle:.0f} more, with a watcher {watched - idle:.0f}"
            )


def rate(folder, process, seconds):
    """Returns the instructions a second, once what has just begun has settled."""
    time.sleep(5)
    instructions(folder, process)
    start = time.monotonic()
    time.sleep(seconds)
    return instructions(folder, process) / (time.monotonic() - start)


@contextlib.contextmanager
def watching(binary, folder, listen, secret):
    """Runs a watcher whom no event concerns."""
    sign = [binary, "token", "--user", "5", "--jwt-secret-file", str(secret)]
    token = subprocess.run(sign, capture_output=True, check=True).stdout
    (Path(folder) / "token").write_bytes(token)
    watch = [binary, "watch", "--address", f"http://{listen}", "--token-file", f"{folder}/token"]
    with started(folder, *watch):
        yield


def tail(binary):
    with redis() as (port, folder, _), server(folder, port, binary, counted=True) as (process, listen, secret):
        client = Client(port)
        with watching(binary, folder, listen, secret):
            idle = rate(folder, process, 10)
            for size, count in ((1, 500), (1000, 20_000)):
                instructions(folder, process)
                start = time.monotonic()
                for first in range(0, count, size):
                    client.all([entry(0, [])] * size)
                    time.sleep(0.02 if size == 1 else 1)
                time.sleep(2)
                counted = instructions(folder, process) - idle * (time.monotonic() - start)
                print(f"instructions of a server an entry, {size} at once: {counted / count:.0f}")


def restart(readers=1_000_000):
    fill = """
        for reader = ARGV[1], ARGV[1] + 999 do
            local fields = {}
            for each = 1, 10 do
                local recipient = '12345678901' .. (10000000 + each * 7919)
                fields[#fields + 1] = recipient
                fields[#fields + 1] = '10000000000' .. (10000000 + reader)
                fields[#fields + 1] = '-' .. recipient
                fields[#fields + 1] = '1795757437056'
            end
            redis.call('HSET', 'markread:cursors:20000000000' .. (10000000 + reader), unpack(fields))
        end"""
    with redis() as (port, _, _):
        client = Client(port)
        client.all([["EVAL", fill, 0, first] for first in range(0, readers, 1000)])
        gigabytes = int(client.info("used_memory")) / 1e9
        print(f"{readers * 10} cursors in {gigabytes:.2f} GB")
        client.run("BGSAVE")
        until(lambda: client.info("rdb_bgsave_in_progress") == "0" or None)
        print(f"fork: {int(client.info('latest_fork_usec')) / 1000 / gigabytes:.1f} ms a GB")
        print(f"snapshot beside calls: {int(client.info('rdb_last_bgsave_time_sec')) / gigabytes:.0f} s a GB")
        start = time.monotonic()
        client.run("DEBUG", "RELOAD", "NOSAVE")
        print(f"load: {(time.monotonic() - start) / gigabytes:.1f} s a GB")


def shares():
    all_masters = (3, 6, 10, 20, 24, 32, 64, 100)
    print("most partitions of a master / the mean, by masters")
    print("partitions" + "".join(f"{masters:>6}" for masters in all_masters))
    for partitions in (64, 128, 256, 512, 1024):
        slots = [(2 * each + 1) * 16384 // (2 * partitions) for each in range(partitions)]
        row = ""
        for masters in all_masters:
            # As `redis-cli --cluster create` deals the slots out.
            ends = [round((each + 1) * 16384 / masters - 1) for each in range(masters)]
            counts = [0] * masters
            for slot in slots:
                counts[next(each for each, end in enumerate(ends) if slot <= end)] += 1
            row += f"{max(counts) / (partitions / masters):6.2f}" if partitions >= masters else "     -"
        print(f"{partitions:10}{row}")


if __name__ == "__main__":
    tasks = {"memory": memory, "reads": reads, "probes": probes, "tail": tail}
    tasks |= {"restart": restart, "shares": shares}
    if len(sys.argv) < 2 or sys.argv[1] not in tasks:
        sys.exit(__doc__)
    tasks[sys.argv[1]](*sys.argv[2:])
