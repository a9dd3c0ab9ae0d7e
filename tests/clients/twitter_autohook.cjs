// Receives events with twitter-autohook, Twitter's own library for webhooks of the Account Activity API, and
// prints one line of JSON once so many have arrived or, with a time, when that is over.
//
//   node twitter_autohook.cjs PORT CONSUMER_SECRET COUNT [SECONDS]
//
// The library answers checks and verifies `x-twitter-webhooks-signature`. It writes what it cannot verify to
// console.error, and does not answer it, or nevertheless passes it on: so the errors are counted.
// CommonJS, so that NODE_PATH can name the folder of the library.
const { Autohook } = require('twitter-autohook');

const [port, secret, count, seconds] = process.argv.slice(2);

const errors = [];
console.error = (error) => errors.push(String(error.message ?? error));

const unused = { token: 'unused', token_secret: 'unused', consumer_key: 'unused', env: 'unused' };
const autohook = new Autohook({ ...unused, consumer_secret: secret, port });
const deliveries = new Map();
let checks = 0;

function finish() {
  console.log(JSON.stringify({ checks, errors, deliveries: [...deliveries] }));
  process.exit();
}

autohook.on('event', (event, request) => {
  const [read] = event.direct_message_mark_read_events;
  const words = [event.for_user_id, read.sender_id, read.last_read_event_id, event.users[read.sender_id].name];
  deliveries.set(request.headers['webhook-id'], words);
  // The library answers after this.
  if (deliveries.size === Number(count)) setTimeout(finish, 200);
});
autohook.startServer();
autohook.server.on('request', (request) => {
  checks += request.method === 'GET' ? 1 : 0;
});
if (seconds) setTimeout(finish, Number(seconds) * 1000);
