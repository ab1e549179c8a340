// The JavaScript client in Node: `node client.mjs CASE URL TOPIC`.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';
import { Polycast as Client, PolycastError, matches } from '../../../broker/web/client/polycast.js';
import { main } from './harness.mjs';
import { survive, until } from './survive.js';

class Polycast extends Client {
  constructor(url, options) {
    super(url, { WebSocket, minDelay: 20, maxDelay: 200, ...options });
  }
}

/** A broker in the test's hand: `on(frame, send, socket)` answers; a login is answered by itself. */
async function pretended(on, connected = {}) {
  const http = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => http.once('listening', done));
  const broker = { logins: [], url: `ws://127.0.0.1:${http.address().port}/ws`, sockets: [] };
  new WebSocketServer({ server: http }).on('connection', (socket) => {
    broker.sockets.push(socket);
    const send = (frame) => socket.send(JSON.stringify(frame));
    socket.on('message', (data) => {
      const frame = JSON.parse(data);
      if (frame.type !== 'connect') return on(frame, send, socket, broker);
      broker.logins.push({ ...frame, at: Date.now() });
      if (on(frame, send, socket, broker)) return;
      send({ type: 'connected', clientId: 'auto-1', sessionPresent: false, pingIntervalMs: 25000, ...connected });
    });
  });
  return broker;
}

const cases = {};

cases.callback = async (url, topic) => {
  const client = new Polycast(url);
  const got = new Promise((resolve) => client.subscribe(`${topic}/+`, resolve));
  const { receivers } = await client.publish(`${topic}/a`, { celsius: 21.5 }, { headers: { trace: '4bf9' } });
  const message = await got;
  assert.equal(receivers, 1);
  assert.deepEqual([message.topic, message.data, message.headers], [`${topic}/a`, { celsius: 21.5 }, { trace: '4bf9' }]);
  await client.close();
};

cases.iterator = async (url, topic) => {
  const client = new Polycast(url);
  const subscription = client.subscribe(topic, { qos: 1 });
  await subscription.ready;
  for (const text of ['one', 'two', 'three']) client.publish(topic, text);
  const seen = [];
  for await (const { data } of subscription) if (seen.push(data) === 3) break;
  assert.deepEqual(seen, ['one', 'two', 'three']);
  // The loop is over, and so is the subscription.
  assert.equal((await client.publish(topic, 'four')).receivers, 0);
  await client.close();
};

cases.bytes = async (url, topic) => {
  const client = new Polycast(url);
  const got = new Promise((resolve) => client.subscribe(topic, resolve));
  await client.publish(topic, new Uint8Array([0, 255, 7]));
  assert.deepEqual((await got).data, new Uint8Array([0, 255, 7]));
  await client.close();
};

cases.refused = async (url) => {
  const client = new Polycast(url);
  const errors = [];
  client.on('error', (error) => errors.push(error.code));
  await assert.rejects(client.publish('a/+', 1), { name: 'PolycastError', code: 'topicInvalid' });
  await assert.rejects(client.subscribe('a/#/b').ready, { code: 'filterInvalid' });
  await client.ready();
  await assert.rejects(client.publish('a', 'x'.repeat(2 ** 20)), { code: 'tooLarge' });
  assert.deepEqual(errors, ['filterInvalid']);
  await client.close();
  await assert.rejects(client.publish('a', 1), { code: 'closed' });
  await assert.rejects(client.ready(), PolycastError);
};

cases.shared = async (url, topic) => {
  const [a, b] = [new Polycast(url), new Polycast(url)];
  const seen = [];
  const options = { share: 'workers', qos: 1 };
  await Promise.all([a, b].map((client) => client.subscribe(topic, (message) => seen.push(message.data), options).ready));
  await Promise.all([1, 2, 3, 4].map((n) => a.publish(topic, n)));
  await until(() => seen.length === 4);
  assert.deepEqual(seen.sort(), [1, 2, 3, 4]);
  await Promise.all([a.close(), b.close()]);
};

cases.not_taken_comes_again = async (url, topic) => {
  const client = new Polycast(url);
  const counts = [];
  client.on('error', () => {});
  client.subscribe(topic, (message) => {
    counts.push(message.deliveryCount ?? 1);
    if (counts.length < 3) throw new Error('not now');
  }, { qos: 1 });
  await client.publish(topic, 'work');
  await until(() => counts.length === 3);
  assert.deepEqual(counts, [1, 2, 3]);
  await client.close();
};

cases.group_and_presence = async (url, topic) => {
  const [ann, bob] = [new Polycast(url), new Polycast(url)];
  const heard = [];
  const group = bob.group(topic);
  await group.join(({ data, group }) => heard.push([data, group])).ready;
  await ann.group(topic).publish('hello');
  await until(() => heard.length === 1);
  assert.deepEqual(heard, [['hello', topic]]);
  const names = (presence) => [...presence.members.values()].map(({ name }) => name).sort().join();
  const seenByAnn = ann.group(topic).presence({ name: 'ann' }, undefined, { every: 200 });
  const seenByBob = group.presence({ name: 'bob' }, undefined, { every: 200 });
  await until(() => names(seenByAnn) === 'ann,bob' && names(seenByBob) === 'ann,bob');
  seenByAnn.update({ name: 'anna' });
  await until(() => names(seenByBob) === 'anna,bob');
  await bob.close();
  await until(() => names(seenByAnn) === 'anna');
  await ann.close();
};

cases.presence_ends_by_itself = async (url, topic) => {
  const [ann, bob] = [new Polycast(url), new Polycast(url)];
  const presence = ann.presence(topic, null);
  // Somebody who says once that it is there, and never again.
  await bob.publish(`presence/${topic}/b`, { name: 'bob' }, { retain: true, expiresIn: 1 });
  await until(() => presence.members.size === 1);
  await until(() => presence.members.size === 0);
  await Promise.all([ann.close(), bob.close()]);
};

cases.queue_is_bounded = async () => {
  const client = new Polycast('ws://127.0.0.1:9/ws', { queue: 3 });
  const results = [1, 2, 3, 4].map((n) => client.publish('t', n));
  await assert.rejects(results[3], { code: 'queueFull' });
  await client.close();
  for (const result of results.slice(0, 3)) await assert.rejects(result, { code: 'closed' });
};

cases.gives_up_in_time = async () => {
  const client = new Polycast('ws://127.0.0.1:9/ws');
  await assert.rejects(client.publish('t', 1, { timeout: 50 }), { code: 'timeout' });
  await client.close();
};

cases.full_jitter = async () => {
  const random = Math.random;
  const asked = [];
  Math.random = () => (asked.push(1), 0.5);
  const client = new Polycast('ws://127.0.0.1:9/ws', { minDelay: 16, maxDelay: 100 });
  const delays = [];
  client.on('state', (state, _, delay) => state === 'waiting' && delays.push(delay));
  await until(() => delays.length === 5);
  Math.random = random;
  assert.deepEqual(delays, [8, 16, 32, 50, 50]);
  await client.close();
};

cases.token_is_renewed = async () => {
  const shown = [];
  const broker = await pretended((frame, send, socket, broker) => {
    if (frame.type === 'connect' && broker.logins.length === 1) {
      send({ type: 'disconnect', reason: 'unauthorized', message: 'expired', reconnect: false });
      socket.close(4401);
      return true;
    }
    if (frame.type === 'connect') setTimeout(() => send({ type: 'expiring', expiresAt: 1, expiresIn: 60 }), 10);
    if (frame.type === 'refresh') {
      shown.push(frame.token);
      send({ type: 'ack', id: frame.id, expiresAt: 2 });
    }
    return false;
  });
  let count = 0;
  const client = new Polycast(broker.url, { token: async () => `token-${++count}` });
  await until(() => shown.length === 1);
  assert.deepEqual(broker.logins.map(({ token }) => token), ['token-1', 'token-2']);
  assert.deepEqual(shown, ['token-3']);
  await client.close();
};

cases.who_closes_while_a_token_is_got_stays_closed = async () => {
  const broker = await pretended(() => false);
  for (const end of ['resolve', 'reject']) {
    let got;
    const client = new Polycast(broker.url, { token: () => new Promise((resolve, reject) => (got = { resolve, reject })) });
    await client.close();
    got[end](new Error('no token'));
    // Time for whatever would come after it.
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    assert.equal(client.state, 'closed', end);
  }
  assert.equal(broker.logins.length, 0);
};

cases.a_bad_token_is_the_end = async () => {
  const broker = await pretended((frame, send) => {
    send({ type: 'disconnect', reason: 'unauthorized', message: 'no', reconnect: false });
    return true;
  });
  await assert.rejects(new Polycast(broker.url, { token: 'bad' }).ready(), { code: 'unauthorized', message: 'no' });
  await assert.rejects(new Polycast(broker.url, { token: () => 'bad' }).ready(), { code: 'unauthorized' });
  assert.equal(broker.logins.length, 5);
};

cases.silence_is_noticed = async () => {
  const pings = [];
  const broker = await pretended((frame) => void pings.push(frame.type), { pingIntervalMs: 30, pongTimeoutMs: 30 });
  const client = new Polycast(broker.url);
  const errors = [];
  client.on('state', (state, error) => state === 'waiting' && errors.push(error.code));
  await until(() => broker.logins.length === 2);
  assert.deepEqual([pings.slice(0, 2), errors[0]], [['connect', 'ping'], 'timeout']);
  await client.close();
};

cases.an_answer_that_is_lost_is_asked_for_with_the_same_key = async () => {
  const keys = [];
  const broker = await pretended((frame, send, socket) => {
    if (frame.type !== 'publish') return false;
    keys.push(frame.idempotencyKey);
    if (keys.length === 1) socket.terminate();
    else send({ type: 'ack', id: frame.id, receivers: 1 });
    return false;
  });
  const client = new Polycast(broker.url);
  assert.equal((await client.publish('t', 1)).receivers, 1);
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
  await client.close();
};

cases.a_resumed_session_gets_no_retained_messages_again = async () => {
  const asked = [];
  const broker = await pretended((frame, send, socket, broker) => {
    if (frame.type === 'connect' && broker.logins.length === 2) {
      send({ type: 'connected', clientId: 'auto-1', sessionPresent: true });
      return true;
    }
    if (frame.type === 'subscribe') {
      asked.push([frame.topic, frame.retained]);
      send({ type: 'ack', id: frame.id, results: [{ qos: 0 }] });
      if (asked.length === 2) socket.terminate();
    }
    if (frame.type === 'unsubscribe') asked.push(['-', frame.topic]);
    return false;
  });
  const client = new Polycast(broker.url, { session: { expiry: 60 } });
  client.subscribe('a', () => {});
  const b = client.subscribe('b', () => {});
  client.on('state', (state) => {
    // It may wait for no time at all.
    if (state !== 'waiting') return;
    b.unsubscribe();
    client.subscribe('c', () => {});
  });
  await until(() => asked.length === 5);
  assert.deepEqual(asked, [['a', undefined], ['b', undefined], ['-', 'b'], ['a', 'new'], ['c', 'new']]);
  assert.equal(broker.logins[1].clientId, 'auto-1');
  await client.close();
};

cases.filters_match_as_in_the_broker = async () => {
  const yes = [['a/#', 'a'], ['a/#', 'a/b/c'], ['+/b', 'a/b'], ['#', 'a'], ['$share/g/a/+', 'a/b'], ['$SYS/#', '$SYS/x']];
  const no = [['a/+', 'a'], ['a/+', 'a/b/c'], ['#', '$SYS/x'], ['+/x', '$SYS/x'], ['a', 'a/b'], ['a/b', 'a']];
  for (const [filter, topic] of yes) assert.ok(matches(filter, topic), `${filter} ${topic}`);
  for (const [filter, topic] of no) assert.ok(!matches(filter, topic), `${filter} ${topic}`);
};

/** Run by a test of its own, which kills and starts the broker as the story says. */
cases.survive = (url, topic) => survive({ Polycast }, url, topic, {}, console.log);

await main(cases);
