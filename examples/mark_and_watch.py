"""Marks a message as read, and watches the event as the other user's devices would.

    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. \
        proto/markread/v1/mark_read.proto
    markread serve --dev &
    PYTHONPATH=. python examples/mark_and_watch.py
"""

import sys

import grpc
from markread.v1 import mark_read_pb2, mark_read_pb2_grpc

READER, RECIPIENT, MESSAGE = 2244994945, 3805104374, 8754578330382663743


def credentials(user):
    return [("x-user-id", str(user))]


def main(address="127.0.0.1:50051"):
    with grpc.insecure_channel(address) as channel:
        service = mark_read_pb2_grpc.MarkReadServiceStub(channel)
        watch = mark_read_pb2.WatchMarkReadEventsRequest()
        updates = service.WatchMarkReadEvents(watch, metadata=credentials(RECIPIENT))
        # The first message is a heartbeat: the watch is open, and could be resumed from its ID.
        next(updates)

        mark = mark_read_pb2.MarkReadRequest(last_read_event_id=MESSAGE, recipient_id=RECIPIENT)
        marked = service.MarkRead(mark, metadata=credentials(READER), timeout=5)
        print("advanced:", marked.advanced)

        for message in updates:
            if message.WhichOneof("update") == "event":
                print(f"{message.event.sender_id} read up to {message.event.last_read_event_id}")
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
