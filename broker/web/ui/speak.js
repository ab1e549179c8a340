// The three protocols as a browser speaks them over WebSocket, small and with every frame in sight.
//
// A speaker connects, subscribes, publishes and tells: `state(name, why)`, `message({topic, text, retained})`
// and `frame(way, text)` with what went over the wire. MQTT is version 5 at QoS 0 and 1.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

class Speaker {
  constructor(subprotocol, login, tell) {
    this.tell = tell;
    this.login = login;
    this.filters = new Set();
    this.state = 'connecting';
    const url = new URL('/ws', location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    this.socket = new WebSocket(url, subprotocol);
    this.socket.binaryType = 'arraybuffer';
    this.socket.onopen = () => this.open();
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = ({ code }) => this.become('off', this.why ?? (code === 1000 ? '' : `closed with ${code}`));
  }

  become(state, why = '') {
    if (this.state === state) return;
    this.state = state;
    clearInterval(this.beat);
    if (state === 'on') {
      this.beat = setInterval(() => this.ping(), 15_000);
      for (const filter of this.filters) this.ask(filter);
    }
    this.tell.state(state, why);
  }

  /** Subscribes now, or as soon as there is a login. */
  subscribe(filter) {
    this.filters.add(filter);
    if (this.state === 'on') this.ask(filter);
  }

  close() {
    if (this.state === 'on') this.goodBye();
    this.socket.close();
  }
}

// JSON

export class Json extends Speaker {
  constructor(login, tell) {
    super('polycast.json.v1', login, tell);
    this.id = 0;
  }

  send(frame) {
    const text = JSON.stringify(frame);
    this.socket.send(text);
    // The secret of a login is not for a screen.
    const shown = frame.type === 'connect' ? JSON.stringify(frame, (name, value) => (/token|password/.test(name) ? '…' : value)) : text;
    if (frame.type !== 'pong') this.tell.frame('out', shown);
  }

  open() {
    const { user, secret } = this.login;
    this.send({ type: 'connect', ...(user ? { username: user, password: secret } : secret ? { token: secret } : {}) });
  }

  receive(text) {
    const frame = JSON.parse(text);
    if (frame.type === 'ping') return this.send({ type: 'pong' });
    if (frame.type !== 'pong') this.tell.frame('in', text);
    if (frame.type === 'connected') this.become('on');
    if (frame.type === 'disconnect') this.why = frame.message;
    if (frame.type !== 'message') return;
    const { topic, data, dataType, retained, ackId } = frame;
    if (ackId !== undefined) this.send({ type: 'ack', ackId });
    this.tell.message({ topic, retained: !!retained, text: dataType === 'json' ? JSON.stringify(data) : data });
  }

  ask(filter) {
    this.send({ type: 'subscribe', id: ++this.id, topic: filter });
  }

  unsubscribe(filter) {
    this.filters.delete(filter);
    if (this.state === 'on') this.send({ type: 'unsubscribe', id: ++this.id, topic: filter });
  }

  publish(topic, text, { qos, retain }) {
    let data = text;
    let dataType;
    try {
      data = JSON.parse(text);
      if (typeof data === 'string') [data, dataType] = [text, 'text'];
    } catch { /* It is text. */ }
    this.send({ type: 'publish', id: ++this.id, topic, data, dataType, qos, ...(retain && { retain }) });
  }

  ping() {
    this.send({ type: 'ping', id: ++this.id });
  }

  goodBye() {
    this.send({ type: 'disconnect' });
  }
}

// STOMP 1.2

const ESCAPES = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', ':': '\\c' };
const UNESCAPES = { '\\\\': '\\', '\\n': '\n', '\\r': '\r', '\\c': ':' };

export class Stomp extends Speaker {
  constructor(login, tell) {
    super('v12.stomp', login, tell);
    this.number = 0;
    this.ids = new Map();
  }

  send(command, headers, body = '') {
    const escape = command === 'CONNECT' ? (text) => text : (text) => String(text).replace(/[\\\n\r:]/g, (char) => ESCAPES[char]);
    const lines = Object.entries(headers).filter(([, value]) => value != null);
    const frame = (pairs) => `${command}\n${pairs.map(([name, value]) => `${name}:${escape(value)}\n`).join('')}\n${body}\0`;
    this.socket.send(frame(lines));
    this.tell.frame('out', frame(lines.map(([name, value]) => [name, name === 'passcode' ? '…' : value])).replace('\0', '^@'));
  }

  open() {
    const { user, secret } = this.login;
    this.send('CONNECT', { 'accept-version': '1.2', host: location.hostname, 'heart-beat': '20000,20000', login: user || null, passcode: secret || null });
  }

  receive(data) {
    const text = typeof data === 'string' ? data : decoder.decode(data);
    if (/^[\r\n]*$/.test(text)) return;
    this.tell.frame('in', text.replace(/\0\s*$/, '^@'));
    const [head, ...rest] = text.replace(/^[\r\n]+/, '').split(/\r?\n\r?\n/);
    const [command, ...lines] = head.split(/\r?\n/);
    const headers = {};
    for (const line of lines) {
      const at = line.indexOf(':');
      headers[line.slice(0, at)] ??= line.slice(at + 1).replace(/\\[\\nrc]/g, (pair) => UNESCAPES[pair]);
    }
    const body = rest.join('\n\n').replace(/\0\s*$/, '');
    if (command === 'CONNECTED') this.become('on');
    if (command === 'ERROR') this.why = headers.message;
    if (command === 'MESSAGE') this.tell.message({ topic: headers.destination.replace(/^\/topic\//, ''), text: body, retained: headers.retained === 'true' });
  }

  ask(filter) {
    const id = `s${++this.number}`;
    this.ids.set(filter, id);
    this.send('SUBSCRIBE', { id, destination: `/topic/${filter}` });
  }

  unsubscribe(filter) {
    this.filters.delete(filter);
    if (this.state === 'on' && this.ids.has(filter)) this.send('UNSUBSCRIBE', { id: this.ids.get(filter) });
    this.ids.delete(filter);
  }

  publish(topic, text, { qos, retain }) {
    this.send('SEND', {
      destination: `/topic/${topic}`, 'content-length': encoder.encode(text).length, 'content-type': 'text/plain',
      retain: retain ? 'true' : null, receipt: qos ? `r${++this.number}` : null,
    }, text);
  }

  ping() {
    this.socket.send('\n');
  }

  goodBye() {
    this.send('DISCONNECT', {});
  }
}

// MQTT 5

const NAMES = { 1: 'CONNECT', 2: 'CONNACK', 3: 'PUBLISH', 4: 'PUBACK', 8: 'SUBSCRIBE', 9: 'SUBACK', 10: 'UNSUBSCRIBE', 11: 'UNSUBACK', 12: 'PINGREQ', 13: 'PINGRESP', 14: 'DISCONNECT' };

const two = (value) => [value >> 8, value & 255];
const words = (text) => {
  const all = encoder.encode(text);
  return [...two(all.length), ...all];
};
const varint = (value) => {
  const out = [];
  do out.push((value & 127) | (value > 127 ? 128 : 0));
  while ((value >>= 7));
  return out;
};

/** Reads a packet's length: where its body begins and ends; null if it is not whole. */
function measure(buffer) {
  let length = 0;
  for (let at = 1, shift = 0; at < buffer.length && at < 5; at++, shift += 7) {
    length |= (buffer[at] & 127) << shift;
    if (buffer[at] < 128) return buffer.length >= at + 1 + length ? { from: at + 1, to: at + 1 + length } : null;
  }
  return null;
}

const dump = (all) => {
  const shown = [...all.slice(0, 96)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return all.length > 96 ? `${shown} … ${all.length} bytes` : shown;
};

export class Mqtt extends Speaker {
  constructor(login, tell) {
    super('mqtt', login, tell);
    this.rest = new Uint8Array();
    this.number = 0;
  }

  send(kind, flags, body, about = '', isSecret = false) {
    const all = Uint8Array.from([(kind << 4) | flags, ...varint(body.length), ...body]);
    this.socket.send(all);
    if (kind !== 12) this.tell.frame('out', `${NAMES[kind]} ${about}\n${isSecret ? '…' : dump(all)}`);
  }

  next() {
    this.number = (this.number % 65535) + 1;
    return two(this.number);
  }

  open() {
    const { user, secret } = this.login;
    const name = `console-${Math.random().toString(36).slice(2, 8)}`;
    const flags = 2 | (user ? 128 : 0) | (secret ? 64 : 0);
    const body = [...words('MQTT'), 5, flags, ...two(60), 0, ...words(name), ...(user ? words(user) : []), ...(secret ? words(secret) : [])];
    this.send(1, 0, body, `version 5, client ${name}`, !!secret);
  }

  receive(data) {
    const got = new Uint8Array(data);
    const buffer = new Uint8Array(this.rest.length + got.length);
    buffer.set(this.rest);
    buffer.set(got, this.rest.length);
    let from = 0;
    for (let found; (found = measure(buffer.subarray(from))); from += found.to) {
      this.packet(buffer[from], buffer.subarray(from + found.from, from + found.to), buffer.subarray(from, from + found.to));
    }
    this.rest = buffer.slice(from);
  }

  packet(first, body, all) {
    const kind = first >> 4;
    if (kind === 13) return;
    if (kind === 3) return this.published(first & 15, body, all);
    const reason = kind === 2 ? body[1] : kind === 14 ? (body[0] ?? 0) : kind === 4 ? (body[2] ?? 0) : body.at(-1);
    const about = reason > 2 || kind === 14 ? `reason 0x${(reason ?? 0).toString(16).padStart(2, '0')}` : '';
    this.tell.frame('in', `${NAMES[kind] ?? kind} ${about}\n${dump(all)}`);
    if (kind === 2 && reason === 0) this.become('on');
    else if (kind === 2) this.why = `refused: 0x${reason.toString(16)}`;
    else if (kind === 14) this.why = `DISCONNECT ${about}`;
  }

  published(flags, body, all) {
    const qos = (flags >> 1) & 3;
    let at = 2 + ((body[0] << 8) | body[1]);
    const topic = decoder.decode(body.subarray(2, at));
    const number = body.subarray(at, at + 2);
    if (qos) at += 2;
    // The properties are passed over: what they say is not shown here.
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      length |= (body[at] & 127) << shift;
      if (body[at++] < 128) break;
    }
    const text = decoder.decode(body.subarray(at + length));
    this.tell.frame('in', `PUBLISH ${topic} QoS ${qos}${flags & 1 ? ' retained' : ''}\n${dump(all)}`);
    if (qos === 1) this.send(4, 0, [...number], `of ${topic}`);
    this.tell.message({ topic, text, retained: !!(flags & 1) });
  }

  ask(filter) {
    this.send(8, 2, [...this.next(), 0, ...words(filter), 0], filter);
  }

  unsubscribe(filter) {
    this.filters.delete(filter);
    if (this.state === 'on') this.send(10, 2, [...this.next(), 0, ...words(filter)], filter);
  }

  publish(topic, text, { qos, retain }) {
    const body = [...words(topic), ...(qos ? this.next() : []), 0, ...encoder.encode(text)];
    this.send(3, (qos << 1) | (retain ? 1 : 0), body, `${topic} QoS ${qos}${retain ? ' retain' : ''}`);
  }

  ping() {
    this.send(12, 0, []);
  }

  goodBye() {
    this.send(14, 0, []);
  }
}
