// Types of polycast.js.

/** What went wrong. */
export class PolycastError extends Error {
  constructor(code: string, message?: string, details?: unknown);
  /**
   * For programs: the broker's code or reason (`notAuthorized`, `topicInvalid`, `takenOver`, …), or
   * `closed` (the client is closed), `lost` (the connection broke), `timeout`, `queueFull`, `tooLarge`.
   */
  code: string;
  /** For a subscription: its results. */
  details?: unknown;
}

/** Whether a topic filter wants a topic. */
export function matches(filter: string, topic: string): boolean;

/** The part of a `WebSocket` class that is needed. */
export type WebSocketClass = new (url: string, protocol: string) => unknown;

export interface Options {
  /** The client's own name. Without one the broker chooses, and the client keeps what it chose. */
  clientId?: string;
  /** A token, or what gets one: it is called for each login, and when the token is about to end. */
  token?: string | (() => string | Promise<string>);
  username?: string;
  password?: string;
  /** How long subscriptions and unacknowledged messages are kept while the client is away, in seconds. */
  session?: { expiry: number };
  /** Whether the first login forgets an older session of this `clientId`. */
  cleanStart?: boolean;
  /** Messages of QoS 1 that may wait for this client at a time. */
  inFlight?: number;
  /** The first wait before another attempt is random between 0 and this, each further one doubles it [250 ms]. */
  minDelay?: number;
  /** The most that it is doubled to [30000 ms]. */
  maxDelay?: number;
  /** Time to connect and log in [15000 ms]. */
  connectTimeout?: number;
  /** Messages that may wait to be published or for their answer; beyond, `publish` fails with `queueFull` [1000]. */
  queue?: number;
  /** Of these, how many are sent before an answer has come [256]. */
  window?: number;
  /** The class to use where there is no global one: in Node before 22, that of the package `ws`. */
  WebSocket?: WebSocketClass;
}

export interface PublishOptions {
  /** 1 (the default): the promise settles when the broker has the message safe. 0: when it is written. */
  qos?: 0 | 1;
  /** Kept for later subscribers; with `''` as data what was kept is deleted. */
  retain?: boolean;
  headers?: Record<string, string | string[]>;
  contentType?: string;
  dataType?: 'json' | 'text' | 'base64';
  correlationId?: string;
  replyTo?: string;
  /** Seconds after which it is of no more interest. */
  expiresIn?: number;
  /** The same key again is answered alike and published once. At QoS 1 the client makes one if there is none. */
  idempotencyKey?: string;
  /** Time after which to give up, in milliseconds; without one, the message waits for the broker. */
  timeout?: number;
}

export interface Published {
  /** Sessions and shared groups that it went to; not there at QoS 0. */
  receivers?: number;
}

export interface Message<T = any> {
  topic: string;
  /** JSON, a string, or for bytes a `Uint8Array`. */
  data: T;
  dataType: 'json' | 'text' | 'base64';
  contentType?: string;
  headers?: Record<string, string | string[]>;
  correlationId?: string;
  correlationIdBase64?: string;
  replyTo?: string;
  expiresIn?: number;
  qos?: 0 | 1;
  ackId?: number | string;
  retained?: boolean;
  redelivered?: boolean;
  deliveryCount?: number;
  group?: string;
  user?: string;
  broadcast?: boolean;
  /** Says that it is done; only with `manual`, as it is said by itself otherwise. */
  ack(): void;
  /** Says that it is not taken: it comes again, or with `requeue: false` it is dropped. */
  nack(options?: { requeue?: boolean }): void;
}

export interface SubscribeOptions {
  /** 0 (the default): messages come once. 1: each is acknowledged when its handler is done. */
  qos?: 0 | 1;
  /** Name of a group that shares the messages: each goes to one member. */
  share?: string;
  /** Not what this client publishes. */
  noLocal?: boolean;
  /** Which retained messages come first. */
  retained?: 'send' | 'new' | 'none';
  /** Whether the handler says `message.ack()` itself. */
  manual?: boolean;
  /** Messages that wait for `for await`; beyond, the oldest of QoS 0 is dropped and `gap` says so [1000]. */
  buffer?: number;
}

/** A subscription, kept through reconnects until it is ended. Iterate over it if it has no handler. */
export interface Subscription<T = any> extends AsyncIterable<Message<T>> {
  filter: string;
  /** Settles when the broker has granted it; fails if it refuses. */
  ready: Promise<{ qos: number }>;
  unsubscribe(): void;
}

/** Called for each message. If it fails, the message is not acknowledged and comes again, a few times. */
export type Handler<T = any> = (message: Message<T>) => unknown;

export interface Group {
  /** Subscribes to what is sent to the group. */
  join<T = any>(handler?: Handler<T>, options?: SubscribeOptions): Subscription<T>;
  publish(data: unknown, options?: PublishOptions): Promise<Published>;
  presence<T = any>(me: T | null, listener?: (members: Map<string, T>) => void, options?: PresenceOptions): Presence<T>;
}

export interface PresenceOptions {
  /** How often this client says that it is there; others wait three times as long [10000 ms]. */
  every?: number;
  /** Its name among the members [the client identifier]. */
  member?: string;
}

export interface Presence<T = any> {
  /** Who is there, by name. */
  members: Map<string, T>;
  /** Changes what others see. */
  update(me: T): void;
  leave(): void;
}

export type State = 'connecting' | 'connected' | 'waiting' | 'closed';

/** The broker's `connected` frame. */
export interface Connected {
  connectionId: string;
  clientId: string;
  user?: string;
  sessionPresent: boolean;
  limits: Record<string, number>;
  [field: string]: unknown;
}

export interface Events {
  /** With `connected` comes what the broker granted, with `waiting` why and for how long, with `closed` why. */
  state: (state: State, about?: Connected | PolycastError, delay?: number) => void;
  /** Every message, subscribed to or not: those for the user, for everyone and for this connection, too. */
  message: (message: Message) => void;
  /** So many messages of QoS 0 were lost because they were not read fast enough. */
  gap: (dropped: number) => void;
  /** The token ends soon. Without a `token` function, call `refresh`. */
  expiring: (frame: { expiresAt: number; expiresIn: number }) => void;
  /** What nobody waits for went wrong: a handler, a publish at QoS 0, a subscription after a reconnect. */
  error: (error: unknown) => void;
}

/** A connection that comes back by itself. */
export class Polycast {
  /** Connects. `url` is the broker's, `ws://…/ws`; without one, the broker that this module came from. */
  constructor(url?: string | URL, options?: Options);
  constructor(options: Options);
  readonly state: State;
  readonly clientId: string | undefined;
  readonly info: Connected | null;
  /** Settles when the client is connected; fails when it is closed for good. */
  ready(): Promise<Connected>;
  /** Listens to an event; returns what ends it. */
  on<E extends keyof Events>(event: E, listener: Events[E]): () => void;
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Published>;
  /** To everyone who is connected. */
  broadcast(data: unknown, options?: PublishOptions): Promise<Published>;
  /** To all connections of a user; `topic` is one below the user's own. */
  toUser(user: string, data: unknown, options?: PublishOptions & { topic?: string }): Promise<Published>;
  subscribe<T = any>(filter: string, handler: Handler<T>, options?: SubscribeOptions): Subscription<T>;
  subscribe<T = any>(filter: string, options?: SubscribeOptions): Subscription<T>;
  group(name: string): Group;
  /** Says that this client is there (`null`: only looks on), and who else is. */
  presence<T = any>(
    name: string,
    me: T | null,
    listener?: (members: Map<string, T>) => void,
    options?: PresenceOptions,
  ): Presence<T>;
  /** Shows a new token of the same user. */
  refresh(token: string): Promise<{ expiresAt?: number }>;
  /** Ends the connection in peace; with `endSession` the session, too. */
  close(options?: { endSession?: boolean }): Promise<void>;
}
