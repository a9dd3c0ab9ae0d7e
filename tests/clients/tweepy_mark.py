"""Marks one conversation read with tweepy and prints one line of JSON.

    python tweepy_mark.py BASE_URL AUTH_JSON LAST_READ_EVENT_ID RECIPIENT_ID

BASE_URL must be https: the library supports nothing else. A private CA goes into REQUESTS_CA_BUNDLE.
AUTH_JSON is {"bearer"} or
{"consumer_key", "consumer_secret", "access_token", "access_token_secret"}.
"""

import json
import sys

import tweepy


def main(base_url, auth_json, last_read_event_id, recipient_id):
    keys = json.loads(auth_json)
    if "bearer" in keys:
        auth = tweepy.OAuth2BearerHandler(keys["bearer"])
    else:
        auth = tweepy.OAuth1UserHandler(
            keys["consumer_key"],
            keys["consumer_secret"],
            keys["access_token"],
            keys["access_token_secret"],
        )

    # tweepy expects a host, and prepends https:// itself.
    api = tweepy.API(auth, host=base_url.removeprefix("https://"))
    try:
        api.mark_direct_message_read(last_read_event_id, recipient_id)
    except tweepy.HTTPException as error:
        outcome = {
            "ok": False,
            "error": type(error).__name__,
            "status": error.response.status_code,
            "codes": error.api_codes,
            "messages": error.api_messages,
            "rate_limit": rate_limit(error.response),
            "retry_after": error.response.headers.get("retry-after"),
        }
        if isinstance(error, tweepy.TooManyRequests):
            outcome["reset_time"] = error.reset_time
        return outcome
    # A mark returns nothing; the response is in `last_response`.
    return {
        "ok": True,
        "status": api.last_response.status_code,
        "rate_limit": rate_limit(api.last_response),
    }


def rate_limit(response):
    """tweepy has no object for the quota: its users read the headers."""
    if "x-rate-limit-limit" not in response.headers:
        return None
    return {
        name: int(response.headers[f"x-rate-limit-{name}"])
        for name in ("limit", "remaining", "reset")
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
