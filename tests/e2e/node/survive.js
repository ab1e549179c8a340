// A story of the JavaScript client that is told in Node and in a browser: a broker that is killed.
//
// `say(line)` tells the test what to do (`kill`, `start`); the story goes on when the client notices.

/** Publishes 40 messages around a kill -9 and looks whether each came, and was published once. */
export async function survive({ Polycast }, url, topic, options, say) {
  const seen = [];
  const states = [];
  const client = new Polycast(url, { minDelay: 20, maxDelay: 200, session: { expiry: 600 }, ...options });
  client.on('state', (state) => states.push(state));
  const state = (wanted) => until(() => client.state === wanted);
  const subscription = client.subscribe(`${topic}/#`, (message) => void seen.push(message), { qos: 1 });
  await subscription.ready;
  const { clientId } = client;
  const publish = (from, to) =>
    Promise.all(Array.from({ length: to - from }, (_, at) => client.publish(`${topic}/n`, from + at)));
  await publish(0, 10);

  // Some are on their way when it dies.
  const early = publish(10, 20);
  say('kill');
  await state('waiting');
  const late = publish(20, 40);
  say('start');
  const receivers = [...(await early), ...(await late)].map((ack) => ack.receivers);
  check(receivers.every((count) => count === 1), `receivers ${receivers}`);
  await until(() => new Set(seen.map((message) => message.data)).size === 40);

  const first = seen.filter((message) => !message.redelivered).map((message) => message.data);
  check(new Set(first).size === first.length, `published twice: ${first}`);
  check(client.clientId === clientId && client.info.sessionPresent, 'the session was not resumed');
  check(states.includes('connecting'), `states ${states}`);
  await client.close({ endSession: true });
  check(client.state === 'closed', client.state);
}

/** Waits for a condition. */
export async function until(condition, patience = 15000) {
  const end = Date.now() + patience;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`did not happen: ${condition}`);
    await new Promise((next) => setTimeout(next, 5));
  }
}

export function check(is, what) {
  if (!is) throw new Error(what);
}
