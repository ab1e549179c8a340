// Node's `ws` speaking the JSON subprotocol: `node ws.mjs CASE URL TOPIC`.

import assert from 'node:assert/strict';
import { WebSocket } from 'ws';
import { Inbox, main, once } from './harness.mjs';

async function connect(url, subprotocol = 'json', fields = {}) {
  const socket = new WebSocket(url, subprotocol ? [subprotocol] : []);
  const inbox = new Inbox();
  socket.on('message', (data, isBinary) => {
    assert.equal(isBinary, false);
    inbox.push(JSON.parse(data));
  });
  await once(socket, 'open');
  const client = { socket, inbox, send: (frame) => socket.send(JSON.stringify(frame)) };
  client.send({ type: 'connect', id: 0, ...fields });
  client.connected = await inbox.next();
  assert.equal(client.connected.type, 'connected');
  return client;
}

const cases = {};

cases.publish_and_subscribe = async (url, topic) => {
  const client = await connect(url);
  client.send({ type: 'subscribe', id: 1, topic });
  assert.equal((await client.inbox.next()).id, 1);
  client.send({ type: 'publish', topic, data: { celsius: 21.5 } });
  const message = await client.inbox.next();
  assert.deepEqual([message.type, message.topic, message.data], ['message', topic, { celsius: 21.5 }]);
};

cases.every_subprotocol = async (url) => {
  for (const name of ['polycast.json.v1', 'json', '']) {
    const client = await connect(url, name);
    assert.equal(client.socket.protocol, name);
    client.socket.close();
    await once(client.socket, 'close');
  }
};

cases.first_of_the_list = async (url) => {
  const socket = new WebSocket(url, ['unknown', 'json', 'mqtt']);
  await once(socket, 'open');
  assert.equal(socket.protocol, 'json');
};

cases.unknown_only = async (url) => {
  const socket = new WebSocket(url, ['unknown']);
  const [, response] = await once(socket, 'unexpected-response');
  assert.equal(response.statusCode, 400);
};

cases.acknowledged = async (url, topic) => {
  const client = await connect(url);
  client.send({ type: 'subscribe', id: 1, topic, qos: 1 });
  await client.inbox.next();
  client.send({ type: 'publish', id: 2, topic, data: 'work', qos: 1 });
  const frames = await client.inbox.take(2);
  const message = frames.find((frame) => frame.type === 'message');
  client.send({ type: 'ack', id: 3, ackId: message.ackId });
  const answer = await client.inbox.next();
  assert.deepEqual([answer.id, answer.type === 'error'], [3, false]);
};

cases.ping_and_close = async (url) => {
  const client = await connect(url);
  client.socket.ping('beat');
  const [beat] = await once(client.socket, 'pong');
  assert.equal(beat.toString(), 'beat');
  client.socket.close(1000, 'done');
  const [code] = await once(client.socket, 'close');
  assert.equal(code, 1000);
};

cases.groups = async (url, topic) => {
  const [one, two] = [await connect(url), await connect(url)];
  one.send({ type: 'join', id: 1, group: topic });
  await one.inbox.next();
  two.send({ type: 'publish', group: topic, data: 'hello' });
  assert.equal((await one.inbox.next()).data, 'hello');
};

await main(cases);
