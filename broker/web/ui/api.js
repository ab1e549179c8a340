// The HTTP API as the views use it, and the live figures that are read from it once a second.

const EVERY_MS = 1000;
/** Seconds that the charts can look back. */
const KEPT = 900;
const KEY = 'polycast-login';

/** An answer that is no success. `status` is 0 if there was none. */
export class Refused extends Error {
  constructor(status, problem = {}) {
    super(problem.detail ?? problem.title ?? 'the broker does not answer');
    this.status = status;
    this.code = problem.code;
  }
}

const login = { ...JSON.parse(sessionStorage.getItem(KEY) ?? '{}') };

/** What was signed in with: a token or key, and with it a user for a password. */
export const credentials = () => login;

/** Signs in, for this tab, or out. */
export function sign({ user = '', secret = '' } = {}) {
  Object.assign(login, { user, secret });
  if (secret) sessionStorage.setItem(KEY, JSON.stringify(login));
  else sessionStorage.removeItem(KEY);
}

function authorization() {
  if (!login.secret) return {};
  if (!login.user) return { Authorization: `Bearer ${login.secret}` };
  const pair = new TextEncoder().encode(`${login.user}:${login.secret}`);
  return { Authorization: `Basic ${btoa(String.fromCharCode(...pair))}` };
}

/** Asks the API: `ask('GET', 'clients', { limit: 50 })`. JSON comes as what it says, the rest as text. */
export async function ask(method, path, query = {}) {
  const search = new URLSearchParams(Object.entries(query).filter(([, value]) => value != null && value !== ''));
  let answer;
  try {
    const signal = AbortSignal.timeout(10_000);
    answer = await fetch(`/api/v1/${path}?${search}`, { method, headers: authorization(), signal, cache: 'no-store' });
  } catch {
    throw new Refused(0);
  }
  const isJson = /json/.test(answer.headers.get('content-type') ?? '');
  const content = isJson ? await answer.json().catch(() => ({})) : await answer.text();
  // Not ready is an answer as well.
  if (!answer.ok && !(path === 'health/ready' && answer.status === 503)) {
    const refused = new Refused(answer.status, isJson ? content : {});
    // Whoever may not do one thing goes on with the others; without the figures there is nothing to see.
    if (answer.status === 401 || (answer.status === 403 && path === 'metrics')) dispatchEvent(new CustomEvent('signin', { detail: refused }));
    throw refused;
  }
  return content;
}

/** Reads lines of JSON while they come, until there are no more or `signal` ends it. */
export async function stream(path, query, signal, each) {
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}?${new URLSearchParams(query)}`, { headers: authorization(), signal, cache: 'no-store' });
  } catch {
    throw new Refused(0);
  }
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
  let rest = '';
  for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line) each(JSON.parse(line));
  }
}

/** One part of a path. */
export const part = encodeURIComponent;

/**
 * All pages of a list until there are `wanted` rows: a page may have fewer than were asked for, if a filter
 * passes over many.
 */
export async function rows(path, name, { cursor, wanted = 50, ...query }) {
  const found = [];
  for (let pages = 0; pages < 40; pages++) {
    const page = await ask('GET', path, { ...query, cursor, limit: wanted - found.length });
    found.push(...page[name]);
    cursor = page.cursor;
    if (!cursor || found.length >= wanted) break;
  }
  return { rows: found, cursor };
}

/** Prometheus' text as a map of names to samples. */
export function parse(text) {
  const families = new Map();
  for (const line of text.split('\n')) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const [, name, inside = '', value] = found;
    const labels = {};
    for (const [, key, text] of inside.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[key] = text;
    if (!families.has(name)) families.set(name, []);
    families.get(name).push({ labels, value: Number(value) });
  }
  return families;
}

/** The sum of a metric over all its series that have these labels. */
export function sum(families, name, labels = {}) {
  const wanted = Object.entries(labels);
  let total = 0;
  for (const sample of families.get(`polycast_${name}`) ?? []) {
    if (wanted.every(([key, value]) => sample.labels[key] === value)) total += sample.value;
  }
  return total;
}

/** The sums of a metric by one of its labels. */
export function by(families, name, label) {
  const sums = {};
  for (const { labels, value } of families.get(`polycast_${name}`) ?? []) {
    sums[labels[label]] = (sums[labels[label]] ?? 0) + value;
  }
  return sums;
}

export const PROTOCOLS = ['mqtt', 'stomp', 'json', 'sse', 'http'];

/** What is known now, and what was known once a second before. */
export const live = {
  /** The last metrics, or null. */
  families: null,
  health: null,
  /** Since when the broker has not answered, or null. */
  silentSince: null,
  /** `{ at, in: {mqtt: 1.5, …}, out, bytesIn, bytesOut, connections, dropped }`; rates in units a second. */
  history: [],
  /** Counters of a minute ago, for what has happened lately. */
  minuteAgo: [],
};

const listeners = new Set();

/** Is told after each reading; returns what ends it. */
export function onLive(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

let last = null;

function read(families, at) {
  const now = {
    at,
    in: by(families, 'messages_received_total', 'protocol'),
    out: by(families, 'messages_delivered_total', 'protocol'),
    bytesIn: by(families, 'bytes_received_total', 'protocol'),
    bytesOut: by(families, 'bytes_sent_total', 'protocol'),
    dropped: by(families, 'messages_dropped_total', 'reason'),
  };
  const connections = by(families, 'connections', 'protocol');
  // After a restart counters begin again.
  const rate = (name) => {
    const secs = (at - last.at) / 1000;
    const difference = ([key, value]) => [key, Math.max(0, value - (last[name][key] ?? 0)) / secs];
    return Object.fromEntries(Object.entries(now[name]).map(difference));
  };
  if (last && at > last.at) {
    const names = ['in', 'out', 'bytesIn', 'bytesOut', 'dropped'];
    live.history.push({ at, connections, ...Object.fromEntries(names.map((name) => [name, rate(name)])) });
    if (live.history.length > KEPT) live.history.shift();
  }
  last = now;
  live.minuteAgo.push({ at, families });
  while (live.minuteAgo[0].at < at - 60_000) live.minuteAgo.shift();
}

/** How much a counter rose in the last minute. */
export function lately(name, labels) {
  const [first] = live.minuteAgo;
  if (!first || !live.families) return 0;
  return Math.max(0, sum(live.families, name, labels) - sum(first.families, name, labels));
}

async function turn() {
  try {
    const [text, health] = await Promise.all([ask('GET', 'metrics'), ask('GET', 'health/ready')]);
    live.families = parse(text);
    live.health = health;
    live.silentSince = null;
    read(live.families, Date.now());
  } catch (error) {
    if (error.status === 401 || error.status === 403) return false;
    live.silentSince ??= Date.now();
    last = null;
  }
  for (const listener of [...listeners]) listener();
  return true;
}

let running = 0;

/** Reads the figures from now on, while somebody looks; stops when it is not allowed to. */
export async function watch() {
  const turnNumber = ++running;
  while (turnNumber === running) {
    if (!document.hidden && !(await turn())) return;
    await new Promise((next) => setTimeout(next, EVERY_MS));
  }
}

/** Stops reading. */
export const unwatch = () => void running++;
