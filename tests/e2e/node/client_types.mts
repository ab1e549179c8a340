// The types of the JavaScript client as a program uses them: read by a TypeScript compiler.

import { Polycast, PolycastError, matches, type Message } from '../../../broker/web/client/polycast.js';
const client = new Polycast('ws://x/ws', { token: async () => 'a', session: { expiry: 1 } });
new Polycast({ clientId: 'a' });
new Polycast();
client.on('state', (state, about, delay) => { if (state === 'waiting') console.log((about as PolycastError).code, delay); });
const subscription = client.subscribe<{ c: number }>('a/#', { qos: 1 });
for await (const { data } of subscription) console.log(data.c.toFixed());
client.subscribe('a', (message: Message<string>) => message.data.length, { share: 'x', manual: true });
const { receivers } = await client.publish('a', 1, { retain: true });
client.group('g').presence({ n: 1 }, (members) => members.get('a')?.n.toFixed());
matches('a', 'b'); receivers?.toFixed();
// @ts-expect-error
client.publish('a', 1, { qos: 2 });
