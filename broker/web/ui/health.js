// Health: what is wrong now and what to do about it, and what was wrong since the page is open.

import { by, lately, live, onLive, sum } from './api.js';
import { bytes, count, h, number, show, span } from './dom.js';

/** What happened while the page was open, the newest first. */
const log = [];
let open = new Map();

const DAY = 86_400;

/** Each check is `[name, level, what is, what to do]`; levels are `ok`, `note`, `warn` and `alarm`. */
function checks() {
  const { families, health, silentSince } = live;
  const found = [];
  const add = (name, level, is, todo = '') => found.push({ name, level, is, todo });
  if (silentSince) {
    add('Broker', 'alarm', `no answer for ${span((Date.now() - silentSince) / 1000)}`, 'Look whether the process runs and whether its HTTP port is reached. The page goes on trying.');
    return found;
  }
  if (!families) return found;
  const state = health?.status ?? 'ok';
  add('Broker', state === 'ok' ? 'ok' : state === 'degraded' ? 'alarm' : 'warn', health?.reason ?? (state === 'ok' ? `takes clients, ${count(health?.connections ?? 0, 'connection')}` : state), state === 'stopping' ? 'It is going down: no new clients are taken.' : state === 'degraded' ? 'Publishes that must be stored are refused. Make room on the disk, or raise limits.store_size.' : '');
  disk(add, families);
  delivery(add);
  doors(add, families);
  certificate(add, families);
  return found;
}

const PROMISES = {
  fsync: ', and all that was acknowledged is there',
  interval: ', synced now and then: the last moment before a power cut may be lost',
  none: ', synced when the system likes: what came before a power cut may be lost',
};

function disk(add, families) {
  if (!families.has('polycast_storage_size_bytes')) return add('Store', 'note', 'nothing is kept on disk', 'store.persistence is none: sessions, queues and retained messages end with the broker.');
  const size = bytes(sum(families, 'storage_size_bytes'));
  const isFull = sum(families, 'storage_full') > 0;
  const [durability] = families.get('polycast_storage_info') ?? [];
  const how = PROMISES[durability?.labels.durability] ?? '';
  add('Store', isFull ? 'alarm' : 'ok', isFull ? `full at ${size}` : `${size} on the disk${how}`, isFull ? 'Make room on the disk, or raise limits.store_size. Until then what must be stored is refused.' : '');
  const damaged = sum(families, 'storage_damaged_total');
  if (damaged) add('Records', 'alarm', `${count(damaged, 'record')} could not be read`, 'Run polycast data verify on a stopped broker, and look at the disk.');
}

const DROPS = {
  queue_full: ['queues were full', 'A receiver is away or too slow for what is published: see Queued among the clients.'],
  slow_consumer: ['to clients that read too slowly', 'Only QoS 0 is dropped. Clients on a bad network, or that do too much per message.'],
  too_large: ['larger than their receivers take', 'A client asked for a smaller maximum packet size than what is published.'],
  not_authorized: ['to clients that must not get them', 'The access rules filter a subscription.'],
  rejected: ['refused by their receivers for good', 'A client said so; look at its log.'],
};

function delivery(add) {
  const lost = Object.entries(DROPS).map(([reason, words]) => [lately('messages_dropped_total', { reason }), ...words]).filter(([amount]) => amount > 0);
  for (const [amount, words, todo] of lost) add('Delivery', 'warn', `${count(amount, 'message')} in the last minute ${amount === 1 ? words.replace('their', 'its') : words}`, todo);
  if (!lost.length) add('Delivery', 'ok', 'nothing was dropped in the last minute');
  const pauses = lately('publisher_pauses_total');
  if (pauses > 0) add('Publishers', 'note', `held up ${count(pauses, 'time')} in the last minute`, 'Receivers lag behind their publishers by a little: this is how they are slowed down.');
}

function doors(add, families) {
  // Browsers open connections that they then do not use: those are no alarm.
  const unused = lately('connections_refused_total', { reason: 'http' });
  const refused = lately('connections_refused_total') - unused;
  const logins = lately('login_refused_total') + lately('authentications_refused_total');
  if (refused > 0) add('Connections', 'warn', `${count(refused, 'connection')} refused in the last minute`, 'By reason in polycast_connections_refused_total; limits.connections and its neighbours say how many may come.');
  else add('Connections', 'ok', unused ? `all were accepted; ${number(unused)} by HTTP asked nothing or broke off` : 'all that came were accepted');
  if (logins > 0) add('Logins', 'warn', `${number(logins)} were refused in the last minute`, 'Wrong or expired credentials: the log names each client and why.');
  const slow = lately('connections_closed_total', { reason: 'slow_consumer' });
  if (slow > 0) add('Slow clients', 'warn', `${count(slow, 'connection')} closed in the last minute`, 'They took nothing for limits.slow_consumer_timeout.');
  const bans = sum(families, 'bans');
  if (bans > 0) add('Bans', 'note', `${count(bans, 'ban')} in force`, 'Made by an operator, or by the broker for flapping and failed logins.');
}

function certificate(add, families) {
  const ends = sum(families, 'cert_expiry_timestamp_seconds');
  if (!ends) return;
  const left = ends - Date.now() / 1000;
  add('Certificate', left < 2 * DAY ? 'alarm' : left < 14 * DAY ? 'warn' : 'ok', left > 0 ? `ends in ${span(left)}` : 'has ended', left < 14 * DAY ? 'Put a new one in its place; it is read again by itself.' : '');
}

/** Looks at everything, notes what is new and what is over, and says how many alarms there are. */
export function examine() {
  const found = checks();
  const bad = found.filter(({ level }) => level === 'warn' || level === 'alarm');
  const key = ({ name, todo }) => `${name} ${todo}`;
  const now = new Map(bad.map((check) => [key(check), check]));
  for (const [id, check] of now) if (!open.has(id)) log.unshift({ at: new Date(), ...check });
  for (const [id, check] of open) if (!now.has(id)) log.unshift({ at: new Date(), ...check, level: 'over', is: 'is over' });
  log.length = Math.min(log.length, 100);
  open = now;
  return { found, alarms: bad.length, isAlarm: bad.some(({ level }) => level === 'alarm') };
}

const MARKS = { ok: '✓', note: 'i', warn: '!', alarm: '!', over: '✓' };
const WORDS = { ok: 'good', note: 'to know', warn: 'warning', alarm: 'alarm', over: 'over' };

const mark = (level) => h(`i.mark.${level}`, { role: 'img', 'aria-label': WORDS[level] }, MARKS[level]);

/** The view. */
export function health(main) {
  const list = h('ul.checks');
  const past = h('ul.log');
  const figures = h('dl.figures2');

  function draw() {
    show(list, checks().map(({ name, level, is, todo }) => h(`li.${level}`, mark(level), h('b', name), h('span', is), todo && h('small', todo))));
    show(past, log.length ? log.map(({ at, name, level, is }) => h('li', mark(level), h('time', at.toLocaleTimeString()), h('span', `${name}: ${is}`))) : h('li.hint', 'Nothing since this page was opened.'));
    if (live.families) show(figures, inside(live.families).map(([name, value]) => h('div', h('dt', name), h('dd', value))));
  }

  main.replaceChildren(
    h('div.head', h('h1', 'Health')), list,
    h('div.columns',
      h('section', { 'aria-labelledby': 'past' }, h('h2', { id: 'past' }, 'What happened'), past),
      h('section', { 'aria-labelledby': 'inside' }, h('h2', { id: 'inside' }, 'Inside'), figures)),
    h('p.hint', 'All figures: ', h('a', { href: '/metrics' }, '/metrics'), ', for Prometheus.'),
  );
  draw();
  return onLive(draw);
}

function inside(families) {
  const total = (name, labels) => number(sum(families, name, labels));
  const size = (name) => bytes(sum(families, name));
  const flushes = sum(families, 'storage_flush_seconds_count');
  const memory = (families.get('process_resident_memory_bytes') ?? [])[0];
  const began = (families.get('process_start_time_seconds') ?? [])[0];
  const closed = Object.entries(by(families, 'connections_closed_total', 'reason')).sort(([, a], [, b]) => b - a).slice(0, 4);
  return [
    ['Version', families.get('polycast_build_info')?.[0].labels.version ?? '–'],
    began && ['Running for', span(Date.now() / 1000 - began.value)],
    memory && ['Memory', bytes(memory.value)],
    ['Connections ended', closed.map(([reason, value]) => `${reason.replaceAll('_', ' ')} ${number(value)}`).join(', ') || 'none'],
    ['Half open', total('half_open_connections')],
    ['Topics whose receivers are remembered', total('route_cache_topics')],
    ['Idempotency keys', total('idempotency_keys')],
    families.has('polycast_storage_size_bytes') && ['Stored messages', total('storage_messages')],
    families.has('polycast_storage_size_bytes') && ['Waiting for the disk', size('storage_waiting_bytes')],
    flushes > 0 && ['A flush takes', `${((sum(families, 'storage_flush_seconds_sum') / flushes) * 1000).toFixed(1)} ms on average`],
    ['HTTP requests in progress', total('http_requests_in_progress')],
    ['Event streams', total('http_streams')],
  ].filter(Boolean);
}
