// Polycast's client for browsers and Node. Its types are in polycast.d.ts, its guide in docs/javascript.md.

/** After this the next wait begins small again. */
const STEADY_MS = 5000;
/** Deliveries after which a message that its handler never takes is dropped. */
const TRIES = 5;

/** What went wrong; `code` is for programs. */
export class PolycastError extends Error {
  constructor(code, message, details) {
    super(message || code);
    this.name = 'PolycastError';
    this.code = code;
    this.details = details;
  }
}

/** Whether a topic filter wants a topic. */
export function matches(filter, topic) {
  const wanted = filter.replace(/^\$share\/[^/]*\//, '').split('/');
  const levels = topic.split('/');
  if (topic[0] === '$' && wanted[0] !== levels[0]) return false;
  for (let i = 0; i < wanted.length; i++) {
    if (wanted[i] === '#') return true;
    if (i >= levels.length || (wanted[i] !== '+' && wanted[i] !== levels[i])) return false;
  }
  return wanted.length === levels.length;
}

export class Polycast {
  #options;
  #socket;
  #listeners = {};
  /** Subscriptions by filter: what was asked for, and who listens. */
  #wanted = new Map();
  /** Filters that a kept session may still have. */
  #unwanted = new Set();
  /** Requests that wait to be sent, and by id those that wait for their answer. */
  #queue = [];
  #open = new Map();
  #lastId = 0;
  #attempt = 0;
  #since = 0;
  #refused = 0;
  #timers = {};
  #leaving = new Set();
  /** `connecting`, `connected`, `waiting` or `closed`. */
  state = 'closed';
  /** The broker's last `connected` frame. */
  info = null;

  constructor(url, options = {}) {
    if (typeof url === 'object' && !(url instanceof URL)) [url, options] = [undefined, url];
    url = new URL(url ?? '/ws', import.meta.url);
    url.protocol = url.protocol.replace('http', 'ws');
    this.#options = {
      minDelay: 250, maxDelay: 30000, queue: 1000, window: 256, connectTimeout: 15000,
      WebSocket: globalThis.WebSocket, ...options, url,
    };
    if (!this.#options.WebSocket) throw new TypeError('options.WebSocket is needed here');
    this.clientId = options.clientId;
    globalThis.addEventListener?.('online', this.#online);
    this.#connect();
  }

  /** Listens to an event; returns what ends it. */
  on(event, listener) {
    (this.#listeners[event] ??= new Set()).add(listener);
    return () => this.#listeners[event].delete(listener);
  }

  /** Settles when the client is connected, or fails when it is closed for good. */
  ready() {
    return new Promise((resolve, reject) => {
      const look = (state, error) => {
        if (state === 'connected') resolve(this.info);
        else if (state === 'closed') reject(error ?? new PolycastError('closed'));
        else return;
        off?.();
      };
      const off = this.on('state', look);
      look(this.state);
    });
  }

  publish(topic, data, options = {}) {
    return this.#publish({ topic }, data, options);
  }

  broadcast(data, options = {}) {
    return this.#publish({ type: 'broadcast' }, data, options);
  }

  toUser(user, data, options = {}) {
    return this.#publish({ user }, data, options);
  }

  /** With a handler it is called for each message; without, iterate over what is returned. */
  subscribe(filter, handler, options) {
    if (typeof handler === 'object') [handler, options] = [undefined, handler];
    const { share, ...rest } = options ?? {};
    return this.#subscribe(share ? `$share/${share}/${filter}` : filter, handler, rest);
  }

  group(name) {
    return {
      join: (handler, options) => this.subscribe(`$group/${name}`, handler, options),
      publish: (data, options = {}) => this.#publish({ group: name }, data, options),
      presence: (me, listener, options) => this.presence(name, me, listener, options),
    };
  }

  /** Each member renews a retained message on `presence/NAME/MEMBER`, and is gone when that expires. */
  presence(name, me, listener, { every = 10000, member } = {}) {
    const members = new Map();
    const timers = new Map();
    const gone = (id) => timers.delete(id) && members.delete(id) && listener?.(members);
    const seen = this.subscribe(`presence/${name}/+`, ({ topic, data, expiresIn }) => {
      const id = topic.slice(topic.lastIndexOf('/') + 1);
      clearTimeout(timers.get(id));
      if (data === '') return gone(id);
      timers.set(id, setTimeout(gone, (expiresIn ?? (3 * every) / 1000) * 1000, id));
      const isNews = JSON.stringify(members.get(id)) !== JSON.stringify(data);
      members.set(id, data);
      if (isNews) listener?.(members);
    });
    const publish = (data, expiresIn) => {
      if (this.state !== 'connected' || data == null) return;
      member ??= this.clientId;
      this.publish(`presence/${name}/${member}`, data, { qos: 0, retain: true, expiresIn });
    };
    const say = () => publish(me, Math.ceil((3 * every) / 1000));
    const beat = setInterval(say, every);
    const off = this.on('state', say);
    say();
    const leave = () => {
      off();
      for (const timer of [beat, ...timers.values()]) clearTimeout(timer);
      if (me != null) publish('');
      this.#leaving.delete(leave);
      seen.unsubscribe();
    };
    this.#leaving.add(leave);
    return {
      members,
      update: (changed) => ((me = changed), say()),
      leave,
    };
  }

  refresh(token) {
    return this.#request({ type: 'refresh', token }, { now: true });
  }

  async close({ endSession } = {}) {
    for (const leave of this.#leaving) leave();
    if (this.state === 'connected') {
      const frame = endSession ? { session: { expiry: 0 } } : {};
      this.#send({ type: 'disconnect', ...frame });
    }
    this.#end(new PolycastError('closed', 'closed by the program'));
  }

  #online = () => this.state === 'waiting' && this.#connect();

  async #connect() {
    this.#drop();
    this.#become('connecting');
    const { url, token, WebSocket, connectTimeout } = this.#options;
    let socket;
    try {
      const shown = typeof token === 'function' ? await token() : token;
      if (this.state !== 'connecting' || this.#socket) return;
      socket = this.#socket = new WebSocket(String(url), 'polycast.json.v1');
      socket.onopen = () => this.#login(shown);
    } catch (error) {
      return this.#lost(undefined, error);
    }
    socket.onmessage = ({ data }) => this.#socket === socket && this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#lost(socket, new PolycastError('lost', `closed with ${code}`));
    socket.onerror = () => {};
    this.#timers.login = setTimeout(() => this.#lost(socket, new PolycastError('timeout')), connectTimeout);
  }

  #login(token) {
    const { session, username, password, inFlight } = this.#options;
    // A session goes on where it was; only a first connection may be asked to begin anew.
    const cleanStart = this.info ? undefined : this.#options.cleanStart;
    const { clientId } = this;
    this.#send({ type: 'connect', clientId, token, username, password, session, inFlight, cleanStart });
  }

  #send(frame) {
    this.#socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  #lost(socket, error) {
    if (this.#socket !== socket || this.state === 'closed') return;
    this.#socket = undefined;
    this.#drop(socket);
    if (this.state === 'connected' && Date.now() - this.#since > STEADY_MS) this.#attempt = 0;
    // What was sent and not answered is sent again; keys make sure that it is done once.
    const again = [...this.#open.values()].filter((request) => request.again || request.drop(error));
    this.#queue.unshift(...again);
    this.#open.clear();
    const { minDelay, maxDelay } = this.#options;
    const delay = Math.random() * Math.min(maxDelay, minDelay * 2 ** this.#attempt++);
    this.#timers.retry = setTimeout(() => this.#connect(), delay);
    this.#become('waiting', error, delay);
  }

  #drop(socket) {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #end(error) {
    const socket = this.#socket;
    globalThis.removeEventListener?.('online', this.#online);
    this.#socket = undefined;
    this.#become('closed', error);
    this.#drop(socket);
    for (const request of [...this.#open.values(), ...this.#queue]) request.drop(error);
    this.#open.clear();
    this.#queue = [];
    for (const { takers, denied } of this.#wanted.values()) {
      denied(error);
      for (const taker of takers) taker.end();
    }
    this.#wanted.clear();
  }

  #become(state, ...about) {
    if (this.state === state) return;
    this.state = state;
    this.#emit('state', state, ...about);
  }

  #emit(event, ...values) {
    for (const listener of [...(this.#listeners[event] ?? [])]) {
      try {
        listener(...values);
      } catch (error) {
        console.error(error);
      }
    }
  }

  #receive(frame) {
    this.#beat();
    switch (frame.type) {
      case 'message': return this.#message(frame);
      case 'ack': return this.#answered(frame);
      case 'error': return this.#answered(frame, new PolycastError(frame.code, frame.message, frame.results));
      case 'ping': return this.#send('{"type":"pong"}');
      case 'connected': return this.#connected(frame);
      case 'expiring': return this.#expiring(frame);
      case 'disconnect': return this.#dismissed(frame);
      case 'gap': return this.#emit('gap', frame.dropped);
    }
  }

  #connected(frame) {
    clearTimeout(this.#timers.login);
    const isBack = this.info && frame.sessionPresent;
    this.info = frame;
    this.clientId = frame.clientId;
    this.#refused = 0;
    this.#since = Date.now();
    if (isBack) for (const topic of this.#unwanted) this.#ask({ type: 'unsubscribe', topic });
    this.#unwanted.clear();
    // Again even if the session has them: what changed while it was away is said so, too.
    for (const wanted of this.#wanted.values()) this.#want(wanted, isBack);
    this.#become('connected', frame);
    this.#pump();
    this.#beat();
  }

  /** Asks for a sign of life when there was none for a while, and gives up when none comes. */
  #beat() {
    const { pingIntervalMs = 25000, pongTimeoutMs = 10000 } = this.info ?? {};
    clearTimeout(this.#timers.beat);
    this.#timers.beat = setTimeout(() => {
      const socket = this.#socket;
      if (this.state !== 'connected') return;
      this.#send('{"type":"ping"}');
      this.#timers.beat = setTimeout(() => this.#lost(socket, new PolycastError('timeout')), pongTimeoutMs);
    }, pingIntervalMs);
  }

  async #expiring(frame) {
    this.#emit('expiring', frame);
    const { token } = this.#options;
    if (typeof token !== 'function') return;
    try {
      await this.refresh(await token());
    } catch (error) {
      this.#emit('error', error);
    }
  }

  /** The broker's last frame. Who can get a new token tries it, a few times. */
  #dismissed({ reason, message, reconnect }) {
    const error = new PolycastError(reason, message);
    const renews = typeof this.#options.token === 'function' && ['unauthorized', 'expired'].includes(reason);
    if (reconnect || (renews && this.#refused++ < 3)) this.#lost(this.#socket, error);
    else this.#end(error);
  }

  #message(frame) {
    const { dataType, ackId } = frame;
    delete frame.type;
    if (dataType === 'base64') frame.data = Uint8Array.from(atob(frame.data), (char) => char.charCodeAt(0));
    const socket = this.#socket;
    let isOpen = ackId !== undefined;
    const settle = (type, more) => {
      // Of another connection: it comes again by itself.
      if (isOpen && this.#socket === socket) this.#send({ type, ackId, ...more });
      isOpen = false;
    };
    frame.ack = () => settle('ack');
    frame.nack = ({ requeue = true } = {}) => settle('nack', { requeue });
    this.#emit('message', frame);
    const takers = [];
    for (const { filter, takers: all } of this.#wanted.values()) {
      if (matches(filter, frame.topic)) takers.push(...all);
    }
    this.#hand(frame, takers);
  }

  async #hand(frame, takers) {
    const done = await Promise.allSettled(takers.map(async (taker) => taker.take(frame)));
    const failed = done.find(({ status }) => status === 'rejected');
    if (failed) {
      if (failed.reason) this.#emit('error', failed.reason);
      frame.nack({ requeue: (frame.deliveryCount ?? 1) < TRIES });
    } else if (!takers.some(({ manual }) => manual)) frame.ack();
  }

  #publish(target, data, { timeout, qos = 1, ...options }) {
    if (ArrayBuffer.isView(data) || data instanceof ArrayBuffer) {
      const bytes = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
      data = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
      options.dataType = 'base64';
    }
    const frame = { type: 'publish', ...target, ...options, data: data ?? null, qos };
    if (qos) frame.idempotencyKey ??= globalThis.crypto?.randomUUID?.() ?? `${Math.random()}${Date.now()}`;
    return this.#request(frame, { again: true, timeout });
  }

  #ask(frame) {
    this.#request(frame, { now: true }).catch((error) => this.#socket && this.#emit('error', error));
  }

  /** Queues a request. `now`: on this connection, and before what waits; `again`: on the next one, too. */
  #request(frame, { now, again, timeout }) {
    return new Promise((resolve, reject) => {
      let timer;
      const request = { frame, again };
      request.done = (value) => (clearTimeout(timer), resolve(value));
      request.drop = (error) => (clearTimeout(timer), reject(error));
      const refuse = (code, message) => request.drop(new PolycastError(code, message));
      if (this.state === 'closed') return refuse('closed', 'the client is closed');
      if (now) return this.#socket ? this.#write(request) : refuse('lost', 'not connected');
      if (this.#queue.length + this.#open.size >= this.#options.queue) {
        return refuse('queueFull', `more than ${this.#options.queue} messages wait`);
      }
      if (timeout) {
        timer = setTimeout(() => {
          this.#queue = this.#queue.filter((other) => other !== request);
          this.#open.delete(request.id);
          refuse('timeout', `no answer within ${timeout} ms`);
        }, timeout);
      }
      this.#queue.push(request);
      this.#pump();
    });
  }

  #pump() {
    while (this.state === 'connected' && this.#queue.length && this.#open.size < this.#options.window) {
      this.#write(this.#queue.shift());
    }
  }

  #write(request) {
    const { frame } = request;
    const isAnswered = frame.qos !== 0 || frame.type === 'subscribe';
    request.id = ++this.#lastId;
    const text = JSON.stringify(isAnswered ? { ...frame, id: request.id } : frame);
    const most = this.info?.limits?.frameBytes;
    if (text.length * 3 > most && new TextEncoder().encode(text).length > most) {
      return request.drop(new PolycastError('tooLarge', `the broker takes frames of ${most} bytes at most`));
    }
    if (isAnswered) this.#open.set(request.id, request);
    this.#send(text);
    if (!isAnswered) request.done({});
  }

  #answered(frame, error) {
    const request = this.#open.get(frame.id);
    if (!request) return error && this.#emit('error', error);
    this.#open.delete(frame.id);
    error ? request.drop(error) : request.done(frame);
    this.#pump();
  }

  #subscribe(filter, handler, { manual, buffer = 1000, ...options }) {
    const taker = handler ? { take: handler, end() {} } : new Inbox(buffer, (lost) => this.#emit('gap', lost));
    taker.manual = manual;
    let wanted = this.#wanted.get(filter);
    const isNew = !wanted || JSON.stringify(wanted.options) !== JSON.stringify(options);
    if (!wanted) this.#wanted.set(filter, (wanted = { filter, takers: new Set() }));
    wanted.takers.add(taker);
    this.#unwanted.delete(filter);
    if (isNew) {
      const { granted, denied } = wanted;
      wanted.options = options;
      wanted.ready = new Promise((granted, denied) => Object.assign(wanted, { granted, denied }));
      wanted.ready.then(granted, denied ?? (() => {}));
      if (this.state === 'connected') this.#want(wanted, false);
    }
    return {
      filter,
      ready: wanted.ready,
      unsubscribe: () => this.#leave(wanted, taker),
      [Symbol.asyncIterator]: () => ({
        next: () => taker.next(),
        return: async () => (this.#leave(wanted, taker), { done: true }),
      }),
    };
  }

  async #want(wanted, isBack) {
    const { filter: topic, options, granted, denied } = wanted;
    // What was kept is not sent again to who was only away for a moment.
    const retained = isBack ? 'new' : options.retained;
    try {
      granted((await this.#request({ type: 'subscribe', topic, ...options, retained }, { now: true })).results[0]);
    } catch (error) {
      // On the next connection it is asked for again.
      if (!this.#socket) return;
      if (this.#wanted.get(topic) === wanted) this.#wanted.delete(topic);
      for (const taker of wanted.takers) taker.end(error);
      denied(error);
      this.#emit('error', error);
    }
  }

  #leave(wanted, taker) {
    taker.end();
    wanted.takers.delete(taker);
    const { filter } = wanted;
    if (wanted.takers.size || this.#wanted.get(filter) !== wanted) return;
    this.#wanted.delete(filter);
    if (this.state === 'connected') this.#ask({ type: 'unsubscribe', topic: filter });
    else this.#unwanted.add(filter);
  }
}

/** Messages of a `for await`. Who asks for the next has dealt with the one before. */
class Inbox {
  #items = [];
  #current;
  #waiting;
  #ended;

  constructor(most, lost) {
    this.most = most;
    this.lost = lost;
  }

  take(message) {
    return new Promise((done, back) => {
      this.#items.push({ message, done, back });
      // The broker holds back what waits for an ack; the rest is bounded here.
      if (this.#items.length > this.most) this.#items.shift().done(this.lost(1));
      this.#serve();
    });
  }

  next() {
    this.#current?.done();
    this.#current = undefined;
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#serve();
    });
  }

  end(error) {
    this.#ended ??= { error };
    this.#current?.done();
    for (const { back } of this.#items.splice(0)) back();
    this.#serve();
  }

  #serve() {
    if (!this.#waiting || (!this.#items.length && !this.#ended)) return;
    const { resolve, reject } = this.#waiting;
    this.#waiting = undefined;
    if (this.#ended) return this.#ended.error ? reject(this.#ended.error) : resolve({ done: true });
    this.#current = this.#items.shift();
    resolve({ value: this.#current.message, done: false });
  }
}
