"""Marks one conversation read with requests-oauthlib and prints one line of JSON.

    python requests_oauthlib_mark.py BASE_URL AUTH_JSON LAST_READ_EVENT_ID RECIPIENT_ID [--query]

BASE_URL is http or https. A private CA goes into REQUESTS_CA_BUNDLE.
AUTH_JSON is {"consumer_key", "consumer_secret", "access_token", "access_token_secret"}.
The parameters go into the form body, or with --query into the URL.
"""

import json
import sys

import requests
from requests_oauthlib import OAuth1Session


def main(base_url, auth_json, last_read_event_id, recipient_id, *flags):
    if flags not in ((), ("--query",)):
        sys.exit(__doc__)
    keys = json.loads(auth_json)
    session = OAuth1Session(
        keys["consumer_key"],
        client_secret=keys["consumer_secret"],
        resource_owner_key=keys["access_token"],
        resource_owner_secret=keys["access_token_secret"],
    )

    parameters = {"last_read_event_id": last_read_event_id, "recipient_id": recipient_id}
    where = "params" if flags else "data"
    response = session.post(
        f"{base_url}/1.1/direct_messages/mark_read.json",
        timeout=60,
        **{where: parameters},
    )
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        # requests does not parse Twitter's errors: its users read the body.
        errors = response.json()["errors"]
        return {
            "ok": False,
            "error": type(error).__name__,
            "status": error.response.status_code,
            "codes": [item["code"] for item in errors],
            "messages": [item["message"] for item in errors],
            "rate_limit": rate_limit(response),
            "retry_after": response.headers.get("retry-after"),
        }
    return {"ok": True, "status": response.status_code, "rate_limit": rate_limit(response)}


def rate_limit(response):
    """requests has no object for the quota: its users read the headers."""
    if "x-rate-limit-limit" not in response.headers:
        return None
    return {
        name: int(response.headers[f"x-rate-limit-{name}"])
        for name in ("limit", "remaining", "reset")
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
