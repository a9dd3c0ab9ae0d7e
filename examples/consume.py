"""Consumes mark-read events as a member of a consumer group, which gives each event to one consumer.

    python examples/consume.py REDIS_URL CONSUMER [EVENTS]

Takes over events that another consumer received but did not finish within IDLE_MS: that consumer is
dead or stuck. Ends after EVENTS events, or never without that number.
"""

import itertools
import json
import sys

import redis

STREAM, GROUP, IDLE_MS = "direct_message_mark_read_events", "receipts", 2000


def entries(server, consumer):
    """Yields events that dead consumers left, then new ones, without end."""
    while True:
        _, left, *_ = server.xautoclaim(STREAM, GROUP, consumer, min_idle_time=IDLE_MS, count=100)
        yield from left
        new = server.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=100, block=500)
        for _, batch in new or []:
            yield from batch


def handle(payload):
    """Replace with your work, such as a notification. It may get an event twice, but misses none."""
    event = payload["direct_message_mark_read_events"][0]
    reader = payload["users"][event["sender_id"]]
    name = reader.get("name", event["sender_id"])
    print(f'{name} read up to {event["last_read_event_id"]} of {event["target"]["recipient_id"]}')


def main(url, consumer, events=None):
    server = redis.Redis.from_url(url, decode_responses=True)
    try:
        server.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    for entry, fields in itertools.islice(entries(server, consumer), int(events) if events else None):
        handle(json.loads(fields["payload"]))
        # Acknowledged after the work: if this consumer dies before that, another takes the event over.
        server.xack(STREAM, GROUP, entry)


if __name__ == "__main__":
    main(*sys.argv[1:])
