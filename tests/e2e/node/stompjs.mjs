// @stomp/stompjs over WebSocket against Polycast: `node stompjs.mjs CASE URL VERSION TOPIC`.

import assert from 'node:assert/strict';
import { Client, Versions } from '@stomp/stompjs';
import { WebSocket } from 'ws';
import { Inbox, main } from './harness.mjs';

Object.assign(globalThis, { WebSocket });

function connect(url, version, options = {}) {
  const client = new Client({
    brokerURL: url,
    reconnectDelay: 0,
    stompVersions: new Versions([version]),
    ...options,
  });
  client.inbox = new Inbox();
  client.errors = new Inbox();
  client.closed = new Inbox();
  client.onStompError = client.errors.push;
  client.onWebSocketClose = client.closed.push;
  return new Promise((resolve, reject) => {
    client.onConnect = (frame) => { client.frame = frame; resolve(client); };
    client.onWebSocketError = reject;
    client.activate();
  });
}

let receipts = 0;

/** Waits for the receipt of what `act` sends with the headers that it gets. */
function received(client, act) {
  const receipt = `r-${++receipts}`;
  return new Promise((resolve) => {
    client.watchForReceipt(receipt, resolve);
    act({ receipt });
  });
}

async function subscribe(client, destination, headers = {}) {
  let subscription;
  await received(client, (asked) => {
    subscription = client.subscribe(destination, client.inbox.push, { ...headers, ...asked });
  });
  return subscription;
}

const cases = {};

cases.send_and_subscribe = async (url, version, topic) => {
  const client = await connect(url, version);
  assert.equal(client.connectedVersion, version);
  await subscribe(client, `/topic/${topic}`);
  // stompjs escapes only in 1.2.
  const custom = version === '1.2' ? 'a:b\nc\\d' : 'plain';
  client.publish({ destination: `/topic/${topic}`, body: 'hello ü', headers: { custom } });
  const message = await client.inbox.next();
  assert.deepEqual([message.body, message.headers.destination], ['hello ü', `/topic/${topic}`]);
  assert.equal(message.headers.custom, custom);
};

cases.binary_bodies = async (url, version, topic) => {
  const client = await connect(url, version);
  await subscribe(client, `/topic/${topic}`);
  const binaryBody = new Uint8Array([0, 255, 0, 128, 10]);
  client.publish({ destination: `/topic/${topic}`, binaryBody, headers: { 'content-type': 'application/octet-stream' } });
  assert.deepEqual([...(await client.inbox.next()).binaryBody], [...binaryBody]);
};

cases.ack_and_nack = async (url, version, topic) => {
  if (version === '1.0') return;
  const client = await connect(url, version);
  await subscribe(client, `/queue/${topic}`, { ack: 'client-individual' });
  client.publish({ destination: `/queue/${topic}`, body: 'work' });
  (await client.inbox.next()).nack();
  const again = await client.inbox.next();
  assert.deepEqual([again.body, again.headers.redelivered], ['work', 'true']);
  await received(client, (headers) => again.ack(headers));
};

cases.transaction = async (url, version, topic) => {
  const client = await connect(url, version);
  await subscribe(client, `/topic/${topic}`);
  for (const end of ['abort', 'commit']) {
    const transaction = client.begin();
    client.publish({ destination: `/topic/${topic}`, body: end, headers: { transaction: transaction.id } });
    transaction[end]();
  }
  assert.equal((await client.inbox.next()).body, 'commit');
};

cases.unsubscribe = async (url, version, topic) => {
  const client = await connect(url, version);
  const subscription = await subscribe(client, `/topic/${topic}`);
  await subscribe(client, `/topic/${topic}/mark`);
  await received(client, (headers) => subscription.unsubscribe(headers));
  client.publish({ destination: `/topic/${topic}`, body: 'no' });
  client.publish({ destination: `/topic/${topic}/mark`, body: 'mark' });
  assert.equal((await client.inbox.next()).body, 'mark');
};

cases.heart_beats = async (url, version, topic) => {
  if (version === '1.0') return;
  const client = await connect(url, version, { heartbeatIncoming: 1000, heartbeatOutgoing: 1000 });
  assert.match(client.frame.headers['heart-beat'], /^[1-9]\d*,[1-9]\d*$/);
  await new Promise((resolve) => setTimeout(resolve, 4000));
  assert.ok(client.connected, 'still connected after four silent seconds');
  await subscribe(client, `/topic/${topic}`);
};

cases.error_closes = async (url, version, topic) => {
  const client = await connect(url, version);
  client.publish({ destination: `/topic/${topic}/#`, body: '', headers: { receipt: 'bad' } });
  const error = await client.errors.next();
  assert.equal(error.headers['receipt-id'], 'bad');
  assert.ok(error.headers.message);
  await client.closed.next();
};

cases.request_and_reply = async (url, version, topic) => {
  const service = await connect(url, version);
  await subscribe(service, `/queue/${topic}`);
  const asker = await connect(url, version);
  await subscribe(asker, '/temp-queue/answers');
  asker.publish({
    destination: `/queue/${topic}`,
    body: 'question',
    headers: { 'reply-to': '/temp-queue/answers', 'correlation-id': '7' },
  });
  const question = await service.inbox.next();
  service.publish({
    destination: question.headers['reply-to'],
    body: 'answer',
    headers: { 'correlation-id': question.headers['correlation-id'] },
  });
  const answer = await asker.inbox.next();
  assert.deepEqual([answer.body, answer.headers['correlation-id']], ['answer', '7']);
};

cases.subscribed_by_others = async (url, version, topic) => {
  const unknown = new Inbox();
  const client = await connect(url, version, { onUnhandledMessage: unknown.push });
  await subscribe(client, `/topic/${topic}/own`);
  const api = url.replace('ws:', 'http:').replace('/stomp', '/api/v1');
  const ask = async (method, path, body) => {
    const answer = await fetch(api + path, { method, body: body && JSON.stringify(body) });
    return [answer.status, answer.status === 204 ? null : await answer.json()];
  };
  const { session } = client.frame.headers;
  const [, { clients }] = await ask('GET', '/clients?limit=1000');
  const me = encodeURIComponent(clients.find((row) => row.connectionId === session).clientId);
  const [, { results }] = await ask('POST', `/clients/${me}/subscriptions`, { topics: [`${topic}/given`] });
  assert.deepEqual(results, [{ topic: `${topic}/given`, status: 200, qos: 0 }]);
  assert.equal((await ask('PUT', `/clients/${me}/groups/${topic}`))[0], 204);
  await ask('POST', '/publish', { topic: `${topic}/given`, data: 'to you' });
  const message = await unknown.next();
  assert.deepEqual([message.headers.subscription, message.body], ['server-1', 'to you']);
  await ask('POST', '/publish', { group: topic, data: 'to all' });
  assert.deepEqual((await unknown.next()).headers.subscription, 'server-2');
  await ask('POST', '/publish', { topic: `${topic}/own`, data: 'as ever' });
  assert.equal((await client.inbox.next()).body, 'as ever');
  // The client can end what others began.
  await received(client, (asked) => client.unsubscribe('server-1', asked));
  const [, { subscriptions }] = await ask('GET', `/clients/${me}/subscriptions`);
  assert.deepEqual(subscriptions.map((row) => row.topic), [`${topic}/own`, `$group/${topic}`]);
};

await main(cases);
