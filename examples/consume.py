"""Consumes mark-read events as one of a group, each event by one consumer.

    python examples/consume.py REDIS_URL CONSUMER [EVENTS]

What another consumer had taken and not finished within IDLE_MS is taken over: it is dead, or stuck.
Ends after so many events; without a number, never.
"""

import itertools
import json
import sys

import redis

STREAM, GROUP, IDLE_MS = "direct_message_mark_read_events", "receipts", 2000


def entries(server, consumer):
    """What the dead have left, then what is new, for ever."""
    while True:
        _, left, *_ = server.xautoclaim(STREAM, GROUP, consumer, min_idle_time=IDLE_MS, count=100)
        yield from left
        new = server.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=100, block=500)
        for _, batch in new or []:
            yield from batch


def handle(payload):
    """Here a service would notify the recipient. It may see an event twice, never not at all."""
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
        # Only now is it done: a consumer that dies before leaves it to the others.
        server.xack(STREAM, GROUP, entry)


if __name__ == "__main__":
    main(*sys.argv[1:])
