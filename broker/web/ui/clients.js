// Clients: a list with search and pages, and one client with what it has and how to end it.

import { ask as api, part, rows } from './api.js';
import { follow } from './follow.js';
import { ago, ask, bytes, chip, h, note, number, show, span } from './dom.js';

const PAGE = 50;
const AGAIN_MS = 3000;

/** What the list shows stays when a client was looked at. */
const wanted = { search: '', protocol: '', away: false, cursors: [undefined] };

/** The list of clients. */
export function clients(main) {
  const body = h('tbody');
  const words = h('p.hint', { role: 'status' });
  const back = h('button', { type: 'button', onclick: () => turn(-1) }, '← Back');
  const on = h('button', { type: 'button', onclick: () => turn(1) }, 'Next page →');
  let next;
  let current = 0;
  let timer;

  async function load() {
    clearTimeout(timer);
    const mine = ++current;
    const { search, protocol, away, cursors } = wanted;
    const query = { cursor: cursors.at(-1), wanted: PAGE, search, protocol };
    try {
      const found = away ? await rows('sessions', 'sessions', query) : await rows('clients', 'clients', query);
      if (mine !== current) return;
      next = found.cursor;
      show(body, found.rows.map(row));
      const from = (cursors.length - 1) * PAGE;
      words.textContent = found.rows.length
        ? `${number(from + 1)} to ${number(from + found.rows.length)}${next ? ', and there are more' : ''}`
        : search || protocol ? 'No client is like this.' : away ? 'There is no session.' : 'Nobody is connected.';
      back.disabled = cursors.length === 1;
      on.disabled = !next;
    } catch (error) {
      if (mine === current) words.textContent = `The list cannot be read: ${error.message}`;
    }
    if (mine === current) timer = setTimeout(() => (document.hidden ? (timer = setTimeout(load, AGAIN_MS)) : load()), AGAIN_MS);
  }

  function turn(way) {
    if (way > 0) wanted.cursors.push(next);
    else wanted.cursors.pop();
    load();
  }

  function search(change) {
    Object.assign(wanted, change, { cursors: [undefined] });
    load();
  }

  let typing;
  main.replaceChildren(
    h('div.head', h('h1', 'Clients'), words),
    h('form.tools', { role: 'search', onsubmit: (event) => event.preventDefault() },
      h('label.grow', 'Client identifier or user',
        h('input', {
          type: 'search', value: wanted.search, autocomplete: 'off', spellcheck: 'false', placeholder: 'any part of it',
          oninput: ({ target }) => (clearTimeout(typing), (typing = setTimeout(() => search({ search: target.value }), 150))),
        })),
      h('label', 'Protocol',
        h('select', { onchange: ({ target }) => search({ protocol: target.value }) },
          [['', 'all'], ['mqtt', 'MQTT'], ['stomp', 'STOMP'], ['json', 'JSON'], ['sse', 'SSE']].map(([value, name]) =>
            h('option', { value, selected: value === wanted.protocol }, name)))),
      h('label.check', h('input', { type: 'checkbox', checked: wanted.away, onchange: ({ target }) => search({ away: target.checked }) }), 'Also sessions that are away')),
    h('div.scroll', h('table.clients',
      h('caption.hidden', 'Clients, the oldest session first'),
      h('thead', h('tr', h('th', { scope: 'col' }, 'Client'), h('th', { scope: 'col' }, 'Protocol'), h('th.wide', { scope: 'col' }, 'From'),
        h('th.wide', { scope: 'col' }, 'Connected for'), h('th.n.less', { scope: 'col' }, 'Subscriptions'), h('th.n', { scope: 'col' }, 'Queued'), h('th.n', { scope: 'col' }, 'In flight'))),
      body)),
    h('div.pages', back, on),
  );
  load();
  return () => {
    current = -1;
    clearTimeout(timer);
  };
}

function row(client) {
  const { clientId, user, protocol, transport, address } = client;
  return h('tr', { class: client.connected ? null : 'idle' },
    h('th', { scope: 'row' }, h('a.id', { href: `#/clients/${part(clientId)}`, 'data-key': clientId }, clientId), user && h('small', user)),
    h('td', chip(protocol)),
    h('td.wide', address ?? '–', transport && h('span.soft', ` ${transport}`)),
    h('td.wide', ago(client.connectedAt)),
    h('td.n.less', number(client.subscriptions)),
    h('td.n', client.queued ? h('b', number(client.queued)) : '0'),
    h('td.n', number(client.inFlight)));
}

/** One client. */
export function client(main, id) {
  const head = h('div.facts');
  const subscriptions = h('tbody');
  const words = h('p.hint', { role: 'status' });
  const kick = h('button.danger', { type: 'button', onclick: () => end(false) }, 'Disconnect…');
  const forget = h('button.danger', { type: 'button', onclick: () => end(true) }, 'End the session…');
  const following = follow({ clientId: id });
  const more = h('button', { type: 'button', hidden: true, onclick: () => ((wantedRows += 200), load()) }, 'More subscriptions');
  let wantedRows = 100;
  let timer;
  let isOver = false;

  async function load() {
    clearTimeout(timer);
    try {
      const [found, list] = await Promise.all([
        api('GET', `clients/${part(id)}`),
        rows(`clients/${part(id)}/subscriptions`, 'subscriptions', { wanted: wantedRows }),
      ]);
      if (isOver) return;
      show(head, facts(found));
      kick.disabled = !found.connected;
      show(subscriptions, list.rows.map((row) => subscription(row, found)));
      more.hidden = !list.cursor;
      words.textContent = list.rows.length ? '' : 'It has subscribed to nothing.';
    } catch (error) {
      if (isOver) return;
      kick.disabled = forget.disabled = true;
      words.textContent = error.status === 404 ? 'This client is gone, and its session with it.' : `It cannot be read: ${error.message}`;
      if (error.status === 404) return;
    }
    timer = setTimeout(load, AGAIN_MS);
  }

  async function end(endSession) {
    const text = endSession
      ? 'Its subscriptions are removed and what waits for it is dropped. If it comes back, it begins anew.'
      : 'It may come back at once. Its session stays, with what waits for it.';
    if (!(await ask(endSession ? `End the session of ${id}?` : `Disconnect ${id}?`, text, endSession ? 'End the session' : 'Disconnect'))) return;
    try {
      await api('DELETE', endSession ? `sessions/${part(id)}` : `clients/${part(id)}`);
      note(endSession ? `The session of ${id} has ended.` : `${id} was disconnected.`);
    } catch (error) {
      note(error.message, true);
    }
    load();
  }

  main.replaceChildren(
    h('p.crumbs', h('a', { href: '#/clients' }, '← Clients')),
    h('div.head', h('h1.id', id), h('div.buttons', kick, forget)),
    head,
    h('section', { 'aria-labelledby': 'subscribed' },
      h('h2', { id: 'subscribed' }, 'Subscriptions'), words,
      h('div.scroll', h('table', h('thead', h('tr', ['Topic filter', 'Shared by', 'QoS', 'Kept'].map((name) => h('th', { scope: 'col' }, name)))), subscriptions)), more),
    h('section', { 'aria-labelledby': 'followed' }, h('h2', { id: 'followed' }, 'What it does now'), following.element),
  );
  load();
  return () => {
    isOver = true;
    following.end();
    clearTimeout(timer);
  };
}

/** How long a subscription stays is its session's matter first. */
const kept = (session) => (session.durable ? 'on disk' : session.expirySecs ? 'in memory' : 'with the connection');

const subscription = ({ filter, share, qos, durable, noLocal, topic }, session) =>
  h('tr', h('th', { scope: 'row' }, h('code', filter ?? topic), noLocal && h('small', 'not its own')), h('td', share ?? '–'), h('td', String(qos)), h('td', durable ? kept(session) : 'in memory'));

/** What is known of a client, as pairs; what waits for it stands first. */
function facts(found) {
  const { protocol, transport, address, user, connectionId } = found;
  const pair = (name, ...value) => h('div', h('dt', name), h('dd', ...value));
  return [
    h('dl.big',
      pair('In flight', h('b', number(found.inFlight))),
      pair('Queued', h('b', number(found.queued)), h('small', bytes(found.queuedBytes))),
      pair('Subscriptions', h('b', number(found.subscriptions)))),
    h('dl',
      pair('State', chip(protocol), found.connected ? ` for ${ago(found.connectedAt)}` : found.endsAt ? ` until ${new Date(found.endsAt).toLocaleString()}` : ''),
      pair('From', address ? `${address} by ${transport}` : '–'),
      pair('User', user ?? 'anonymous'),
      pair('Last active', found.lastActiveAt ? `${ago(found.lastActiveAt)} ago` : '–'),
      pair('Session', found.expirySecs ? `kept for ${found.expirySecs >= 4294967295 ? 'ever' : span(found.expirySecs)} after the connection, ${found.durable ? 'on disk' : 'in memory'}` : 'ends with the connection'),
      pair('Connection', h('code', connectionId ?? '–'))),
  ];
}


