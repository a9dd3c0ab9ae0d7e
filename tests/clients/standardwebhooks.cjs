// Receives events, verifies each with the library standardwebhooks, and prints one line of JSON once so many
// have arrived or, with a time, when that is over.
//
//   node standardwebhooks.cjs PORT CONSUMER_SECRET SECRET COUNT [SECONDS]
//
// SECRET is that of Standard Webhooks, `whsec_…`; `raw` stands for the bytes of CONSUMER_SECRET.
// CommonJS, so that NODE_PATH can name the folder of the libraries.
const http = require('http');
const { Webhook } = require('standardwebhooks');
const { validateWebhook } = require('twitter-autohook');

const [port, consumerSecret, secret, count, seconds] = process.argv.slice(2);

const webhook = secret === 'raw' ? new Webhook(consumerSecret, { format: 'raw' }) : new Webhook(secret);
const errors = [];
const deliveries = new Map();

function finish() {
  console.log(JSON.stringify({ errors, deliveries: [...deliveries] }));
  process.exit();
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (request.method === 'GET') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(validateWebhook(url.searchParams.get('crc_token'), { consumer_secret: consumerSecret })));
    return;
  }
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const id = request.headers['webhook-id'];
    try {
      const event = webhook.verify(Buffer.concat(chunks), request.headers);
      const [read] = event.direct_message_mark_read_events;
      const { name } = event.users[read.sender_id];
      deliveries.set(id, [event.for_user_id, read.sender_id, read.last_read_event_id, name]);
      response.statusCode = 204;
    } catch (error) {
      errors.push(`${id}: ${error.message}`);
      response.statusCode = 400;
    }
    response.end();
    if (deliveries.size === Number(count)) setTimeout(finish, 200);
  });
});
server.listen(Number(port), '127.0.0.1');
if (seconds) setTimeout(finish, Number(seconds) * 1000);
