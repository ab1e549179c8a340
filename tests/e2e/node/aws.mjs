// The AWS SDK for JavaScript: @connections and AWS IoT's data calls.

import assert from 'node:assert/strict';
import WebSocket from 'ws';
import {
  ApiGatewayManagementApiClient,
  DeleteConnectionCommand,
  GetConnectionCommand,
  GoneException,
  PayloadTooLargeException,
  PostToConnectionCommand,
} from '@aws-sdk/client-apigatewaymanagementapi';
import {
  GetRetainedMessageCommand,
  IoTDataPlaneClient,
  ListRetainedMessagesCommand,
  PublishCommand,
  ResourceNotFoundException,
} from '@aws-sdk/client-iot-data-plane';
import { Inbox, main } from './harness.mjs';

const cases = {};
const options = (port, path, accessKeyId, secretAccessKey) => ({
  endpoint: `http://127.0.0.1:${port}${path}`,
  region: 'eu-west-1',
  credentials: { accessKeyId, secretAccessKey },
  maxAttempts: 1,
});

async function open(port) {
  const inbox = new Inbox();
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, 'json');
  socket.on('message', (data) => inbox.push(JSON.parse(data)));
  socket.on('close', () => inbox.push({ type: 'closed' }));
  socket.on('open', () => socket.send('{"type":"connect"}'));
  const connected = await inbox.next();
  assert.equal(connected.type, 'connected');
  return { inbox, id: connected.connectionId };
}

cases.connections = async (port, key, secret) => {
  const client = new ApiGatewayManagementApiClient(options(port, '/prod', key, secret));
  const { inbox, id } = await open(port);
  await client.send(new PostToConnectionCommand({ ConnectionId: id, Data: JSON.stringify({ hello: 'you' }) }));
  const frame = await inbox.next();
  assert.deepEqual(frame.data, { hello: 'you' });
  await client.send(new PostToConnectionCommand({ ConnectionId: id, Data: new TextEncoder().encode('bytes') }));
  assert.equal((await inbox.next()).data, 'bytes');
  const found = await client.send(new GetConnectionCommand({ ConnectionId: id }));
  assert.ok(found.ConnectedAt instanceof Date && found.LastActiveAt >= found.ConnectedAt);
  assert.equal(found.Identity.SourceIp, '127.0.0.1');
  const large = new PostToConnectionCommand({ ConnectionId: id, Data: 'x'.repeat(131_073) });
  await assert.rejects(client.send(large), PayloadTooLargeException);
  await client.send(new DeleteConnectionCommand({ ConnectionId: id }));
  while ((await inbox.next()).type !== 'closed');
  await assert.rejects(client.send(new PostToConnectionCommand({ ConnectionId: id, Data: 'x' })), GoneException);
  await assert.rejects(client.send(new GetConnectionCommand({ ConnectionId: 'L0SM9cOFvHcCIhw=' })), GoneException);
};

cases.iot = async (port, key, secret, topic) => {
  const client = new IoTDataPlaneClient(options(port, '', key, secret));
  const payload = new TextEncoder().encode('{"t":1}');
  await client.send(
    new PublishCommand({
      topic: `${topic}/x`,
      qos: 1,
      retain: true,
      payload,
      contentType: 'application/json',
      userProperties: JSON.stringify([{ a: '1' }]),
      correlationData: 'YzE=',
      payloadFormatIndicator: 'UTF8_DATA',
    }),
  );
  const kept = await client.send(new GetRetainedMessageCommand({ topic: `${topic}/x` }));
  assert.deepEqual(kept.payload, payload);
  assert.equal(kept.qos, 1);
  assert.ok(Math.abs(kept.lastModifiedTime - Date.now()) < 60_000);
  const listed = await client.send(new ListRetainedMessagesCommand({ maxResults: 200 }));
  assert.ok(listed.retainedTopics.some((row) => row.topic === `${topic}/x` && row.payloadSize === 7));
  await assert.rejects(client.send(new GetRetainedMessageCommand({ topic: `${topic}/y` })), ResourceNotFoundException);
};

await main(cases);
