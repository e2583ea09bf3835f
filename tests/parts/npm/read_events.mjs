// Reads records with the npm package eventsource, over a cut and its own reconnect: URL TOKEN COUNT CUT_AFTER_BYTES.
// Prints one line of JSON: the records as received, and how often the connection was opened.
import { createRequire } from 'node:module';

const { EventSource } = createRequire(`${process.env.NODE_PATH}/`)('eventsource');
const [url, token, count, cutAfterBytes] = process.argv.slice(2);
const records = [];
let opens = 0;

// The first connection breaks after some bytes, in the middle of an event: the package has to come back by itself.
function broken(body) {
  let left = Number(cutAfterBytes);
  return body.pipeThrough(
    new TransformStream({
      transform(chunk, controller) {
        controller.enqueue(chunk.subarray(0, left));
        left -= chunk.length;
        if (left <= 0) controller.error(new TypeError('the connection was cut'));
      },
    }),
  );
}

const source = new EventSource(url, {
  fetch: async (input, init) => {
    const answer = await fetch(input, {
      ...init,
      headers: { ...init.headers, Authorization: `Bearer ${token}` },
    });
    opens += 1;
    if (opens > 1) return answer;
    const cut = new Response(broken(answer.body), { status: answer.status, headers: answer.headers });
    // The package looks at the address after redirects; a made-up Response has none.
    Object.defineProperty(cut, 'url', { value: answer.url });
    return cut;
  },
});
source.onmessage = (event) => {
  records.push({ id: event.lastEventId, ...JSON.parse(event.data) });
  if (records.length >= Number(count)) {
    source.close();
    process.stdout.write(JSON.stringify({ opens, records }));
    process.exit(0);
  }
};
setTimeout(() => {
  process.stderr.write(`only ${records.length} records after ${opens} connections`);
  process.exit(1);
}, 60000);
