// MQTT.js against Polycast: `node mqttjs.mjs CASE URL VERSION TOPIC`.

import assert from 'node:assert/strict';
import mqtt from 'mqtt';
import { Inbox, main, once } from './harness.mjs';

const open = [];

async function connect(url, version, options = {}) {
  const client = mqtt.connect(url, { protocolVersion: Number(version), reconnectPeriod: 0, ...options });
  client.inbox = new Inbox();
  client.on('message', (topic, payload, packet) => client.inbox.push({ topic, text: payload.toString(), packet }));
  client.on('error', (error) => { throw error; });
  [client.connack] = await once(client, 'connect');
  open.push(client);
  return client;
}

const cases = {};

cases.every_qos = async (url, version, topic) => {
  const client = await connect(url, version);
  await client.subscribeAsync(topic, { qos: 2 });
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(topic, `qos ${qos}`, { qos });
    const message = await client.inbox.next();
    assert.deepEqual([message.text, message.packet.qos], [`qos ${qos}`, qos]);
  }
};

cases.many_open_at_once = async (url, version, topic) => {
  const client = await connect(url, version);
  await client.subscribeAsync(topic, { qos: 2 });
  const numbers = Array.from({ length: 200 }, (_, number) => String(number));
  // MQTT.js does not keep the receive maximum of a broker; 3.1.1 has none.
  const window = client.connack.properties?.receiveMaximum ?? (version === '5' ? 20 : 200);
  for (let at = 0; at < numbers.length; at += window) {
    await Promise.all(numbers.slice(at, at + window).map((text) => client.publishAsync(topic, text, { qos: 2 })));
  }
  assert.deepEqual((await client.inbox.take(200)).map((message) => message.text), numbers);
};

cases.retained = async (url, version, topic) => {
  const client = await connect(url, version);
  await client.publishAsync(topic, 'kept', { qos: 1, retain: true });
  await client.subscribeAsync(topic);
  const message = await client.inbox.next();
  assert.deepEqual([message.text, message.packet.retain], ['kept', true]);
  await client.publishAsync(topic, '', { qos: 1, retain: true });
};

cases.will = async (url, version, topic) => {
  const watcher = await connect(url, version);
  await watcher.subscribeAsync(topic);
  const lost = await connect(url, version, { will: { topic, payload: 'gone', qos: 1, retain: false } });
  lost.stream.destroy();
  assert.equal((await watcher.inbox.next()).text, 'gone');
};

cases.session = async (url, version, topic) => {
  const lasting = { clientId: `js-${topic}`, clean: false, properties: { sessionExpiryInterval: 100 } };
  const first = await connect(url, version, lasting);
  assert.equal(first.connack.sessionPresent, false);
  await first.subscribeAsync(topic, { qos: 1 });
  await first.endAsync();
  await (await connect(url, version)).publishAsync(topic, 'while away', { qos: 1 });
  const second = await connect(url, version, lasting);
  assert.equal(second.connack.sessionPresent, true);
  assert.equal((await second.inbox.next()).text, 'while away');
};

cases.unsubscribe = async (url, version, topic) => {
  const client = await connect(url, version);
  await client.subscribeAsync([topic, `${topic}/mark`]);
  await client.unsubscribeAsync(topic);
  await client.publishAsync(topic, 'no');
  await client.publishAsync(`${topic}/mark`, 'mark');
  assert.equal((await client.inbox.next()).text, 'mark');
};

cases.properties = async (url, version, topic) => {
  if (version !== '5') return;
  const client = await connect(url, version);
  await client.subscribeAsync(topic, { properties: { subscriptionIdentifier: 7 } });
  const properties = {
    contentType: 'text/plain',
    responseTopic: 'answers',
    correlationData: Buffer.from([0, 255]),
    userProperties: { one: ['1', 'again'], two: '2' },
    messageExpiryInterval: 60,
  };
  await client.publishAsync(topic, 'x', { qos: 1, properties });
  const got = (await client.inbox.next()).packet.properties;
  assert.equal(got.subscriptionIdentifier, 7);
  for (const name of Object.keys(properties)) assert.deepEqual(plain(got[name]), plain(properties[name]), name);
};

cases.topic_aliases_of_the_client = async (url, version, topic) => {
  if (version !== '5') return;
  const client = await connect(url, version, { autoUseTopicAlias: true, autoAssignTopicAlias: true });
  await client.subscribeAsync(`${topic}/#`);
  for (const number of [1, 2, 1, 2, 1, 2]) {
    await client.publishAsync(`${topic}/${number}`, String(number));
    const message = await client.inbox.next();
    assert.deepEqual([message.topic, message.text], [`${topic}/${number}`, String(number)]);
  }
};

cases.topic_aliases_of_the_broker = async (url, version, topic) => {
  if (version !== '5') return;
  const client = await connect(url, version, { properties: { topicAliasMaximum: 4 } });
  await client.subscribeAsync(topic);
  for (const text of ['1', '2', '3']) {
    await client.publishAsync(topic, text);
    const message = await client.inbox.next();
    assert.deepEqual([message.topic, message.text], [topic, text]);
  }
};

function plain(value) {
  return JSON.parse(JSON.stringify(value));
}

await main(cases);
