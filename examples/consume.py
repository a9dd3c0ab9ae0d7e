"""Consumes mark-read events as a member of a consumer group, which gives each event to one consumer.

    python examples/consume.py REDIS_URL CONSUMER [EVENTS]

CONSUMER is a name that no other running consumer has; give a restarted one its name again. Every event
in the stream is handled at least once, whatever happens to this process or to Redis. Ends after EVENTS
events, or never without that number.
"""

import json
import random
import sys
import time

import redis

STREAM, GROUP = "direct_message_mark_read_events", "receipts"
# The work on a batch must take less than IDLE_MS: what a consumer has not finished by then is given to
# another, since its consumer may be dead.
BATCH, IDLE_MS = 100, 2000
# Pauses, in seconds, before Redis is tried again.
SHORTEST, LONGEST = 0.1, 5


def handle(event):
    """Replace with your work, such as a notification. It may get an event twice, but misses none."""
    print(f'{event["name"]} read up to {event["last_read_event_id"]} of {event["recipient_id"]}', flush=True)


def parse(fields):
    """Returns what `handle` needs. Fails if the entry is not an event: anyone can add to a stream."""
    payload = json.loads(fields[b"payload"])
    event = payload["direct_message_mark_read_events"][0]
    reader = event["sender_id"]
    return {
        "name": payload["users"][reader].get("name", reader),
        "last_read_event_id": event["last_read_event_id"],
        "recipient_id": event["target"]["recipient_id"],
    }


def process(server, entry, fields):
    """Handles an entry, and returns whether it was an event that is done."""
    try:
        event = parse(fields)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        log(f"skipped {entry.decode()}, which is not an event: {type(error).__name__}")
        server.xack(STREAM, GROUP, entry)
        return False
    try:
        handle(event)
    except Exception as error:
        # Not acknowledged, so that some consumer gets it again after IDLE_MS.
        log(f"failed on {entry.decode()}: {error!r}")
        return False
    # Acknowledged after the work: if this consumer dies before that, another takes the event over.
    server.xack(STREAM, GROUP, entry)
    return True


def batches(server, consumer):
    """Yields lists of entries without end, some empty: first what this consumer took before and did not
    finish, then what others did not finish, and new entries."""
    try:
        # From the beginning of the stream. After a FLUSHALL the group is gone, and all that is there is new.
        server.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    last = "0"
    while unfinished := read(server, consumer, last):
        yield unfinished
        last = unfinished[-1][0]
    cursor = "0-0"
    while True:
        cursor, left, *_ = server.xautoclaim(STREAM, GROUP, consumer, IDLE_MS, cursor, count=BATCH)
        yield left
        yield read(server, consumer, ">", block=500)


def read(server, consumer, after, **how):
    """Returns entries of this consumer after an ID, or new ones (`>`)."""
    streams = server.xreadgroup(GROUP, consumer, {STREAM: after}, count=BATCH, **how)
    return streams[0][1] if streams else []


def log(line):
    print(line, file=sys.stderr, flush=True)


def main(url, consumer, events=None):
    # Not decoded, since entries may hold any bytes. No retries of the library: what a lost answer held is
    # read again below. The timeouts are for a Redis that vanished without closing its connections.
    no_retries = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    server = redis.Redis.from_url(url, retry=no_retries, socket_timeout=5, socket_connect_timeout=5)
    done, pause = 0, SHORTEST
    while True:
        try:
            for batch in batches(server, consumer):
                pause = SHORTEST
                for entry, fields in batch:
                    done += process(server, entry, fields)
                    if events and done >= int(events):
                        return
        except redis.RedisError as error:
            # Redis is away or another now (a restart, a failover), or the group is gone (NOGROUP).
            log(f"trying again: {error}")
            # Random, so that many consumers do not come back at once.
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LONGEST)


if __name__ == "__main__":
    # Names may contain what the terminal cannot show.
    sys.stdout.reconfigure(errors="backslashreplace")
    main(*sys.argv[1:])
