// Marks one conversation read with twitter-api-v2 and prints one line of JSON.
//
//   node twitter_api_v2.cjs BASE_URL AUTH_JSON LAST_READ_EVENT_ID RECIPIENT_ID
//
// BASE_URL must be https: the library supports nothing else. A private CA goes into NODE_EXTRA_CA_CERTS.
// AUTH_JSON is {"bearer"} or
// {"consumer_key", "consumer_secret", "access_token", "access_token_secret"}.
// CommonJS, so that NODE_PATH can name the folder of the library.
const { ApiResponseError, TwitterApi } = require('twitter-api-v2');

async function main([baseUrl, authJson, lastReadEventId, recipientId]) {
  const auth = JSON.parse(authJson);
  const tokens = auth.bearer ?? {
    appKey: auth.consumer_key,
    appSecret: auth.consumer_secret,
    accessToken: auth.access_token,
    accessSecret: auth.access_token_secret,
  };

  // `markDmAsRead` returns the body alone, so a hook stores the quota. The status of a success is
  // not available.
  let rateLimit = null;
  const keepRateLimit = {
    onAfterRequest({ response }) {
      rateLimit = response.rateLimit ?? null;
    },
  };

  const client = new TwitterApi(tokens, { plugins: [keepRateLimit] });
  client.v1.setPrefix(`${baseUrl}/1.1/`);
  try {
    // IDs stay strings: most are too large for a JavaScript number.
    await client.v1.markDmAsRead(lastReadEventId, recipientId);
    return { ok: true, rate_limit: rateLimit };
  } catch (error) {
    if (!(error instanceof ApiResponseError)) throw error;
    const errors = error.errors ?? [];
    return {
      ok: false,
      error: error.constructor.name,
      status: error.code,
      codes: errors.map(({ code }) => code),
      messages: errors.map(({ message }) => message),
      rate_limit: error.rateLimit ?? null,
      retry_after: error.headers['retry-after'] ?? null,
      is_rate_limit_error: error.rateLimitError,
    };
  }
}

main(process.argv.slice(2)).then((outcome) => console.log(JSON.stringify(outcome)));
