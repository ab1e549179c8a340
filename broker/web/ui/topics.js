// Topics: what is retained with its value, who has subscribed to what, and whom a topic would reach.

import { ask as api, part, rows } from './api.js';
import { follow } from './follow.js';
import { ask, bytes, chip, choice, count, h, note, number, show } from './dom.js';

const PAGE = 100;
/** Receivers that a topic names one by one. */
const RECEIVERS = 8;
const state = { list: 'topics', filter: '', cursors: [undefined] };

const LISTS = {
  topics: { path: 'topics', name: 'topics', columns: ['Topic', 'Subscribers', 'Retained'], row: topicRow, empty: 'Nothing was published here lately.' },
  retained: { path: 'retained', name: 'retained', columns: ['Topic', 'Size', 'Type'], row: retainedRow, empty: 'Nothing is retained here.' },
  groups: { path: 'groups', name: 'groups', columns: ['Group or queue', 'Members', 'Waiting'], row: groupRow, empty: 'Nobody shares a subscription, and there is no queue.' },
  subscriptions: { path: 'subscriptions', name: 'subscriptions', columns: ['Topic filter', 'Client', 'QoS'], row: subscriptionRow, empty: 'Nobody has subscribed.' },
};

const link = (topic) => `#/topics/${part(topic)}`;

function retainedRow({ topic, size, contentType }) {
  return h('tr', h('th', { scope: 'row' }, h('a.id', { href: link(topic), 'data-key': topic }, topic)), h('td.n', bytes(size)), h('td', contentType ?? h('small', 'not said')));
}

function topicRow({ topic, subscribers, retained }) {
  return h('tr', h('th', { scope: 'row' }, h('a.id', { href: link(topic), 'data-key': topic }, topic)), h('td.n', number(subscribers)), h('td', retained ? 'yes' : h('span.soft', 'no')));
}

function groupRow({ name, members, waiting, durable }) {
  return h('tr', h('th', { scope: 'row' }, h('code', name), durable && h('small', 'on disk')), h('td.n', members ? number(members) : h('b.bad', '0')), h('td.n', waiting ? h('b', number(waiting)) : '0'));
}

function subscriptionRow({ topic, filter, share, clientId, qos }) {
  return h('tr',
    h('th', { scope: 'row' }, h('code', filter ?? topic), share && h('small', `shared by ${share}`)),
    h('td', clientId && h('a.id', { href: `#/clients/${part(clientId)}`, 'data-key': `${clientId} ${filter}` }, clientId)),
    h('td.n', String(qos)));
}

/** The view; with a topic, that topic beside the list. */
export function topics(main, topic) {
  const table = h('div.scroll');
  const words = h('p.hint', { role: 'status' });
  const back = h('button', { type: 'button', onclick: () => (state.cursors.pop(), load()) }, '← Back');
  const on = h('button', { type: 'button', onclick: () => (state.cursors.push(next), load()) }, 'Next page →');
  const beside = h('section.beside', { 'aria-live': 'polite', 'aria-label': 'The topic' });
  let next;
  let current = 0;

  async function load() {
    const mine = ++current;
    const { path: from, name, columns, row, empty } = LISTS[state.list];
    const filter = state.list === 'subscriptions' || state.list === 'groups' ? '' : state.filter;
    try {
      const found = await rows(from, name, { cursor: state.cursors.at(-1), wanted: PAGE, filter });
      if (mine !== current) return;
      next = found.cursor;
      // The broker's own figures would be half of the list.
      const shown = state.list === 'topics' && !filter ? found.rows.filter(({ topic }) => !topic.startsWith('$SYS/')) : found.rows;
      show(table, h('table', h('thead', h('tr', columns.map((name) => h(/Size|QoS|Subscribers|Members|Waiting/.test(name) ? 'th.n' : 'th', { scope: 'col' }, name)))), h('tbody', shown.map(row))));
      words.textContent = shown.length < found.rows.length ? 'Without the broker’s own: $SYS/# shows them.' : shown.length ? '' : empty;
      back.disabled = state.cursors.length === 1;
      on.disabled = !next;
    } catch (error) {
      if (mine !== current) return;
      show(table);
      words.textContent = error.code === 'filterInvalid' ? 'This is not a topic filter yet: + stands for one level, # for all that follow.' : `The list cannot be read: ${error.message}`;
    }
  }

  const change = (values) => (Object.assign(state, values, { cursors: [undefined] }), load());
  let typing;
  const tools = h('form.tools', { onsubmit: submit },
    choose(),
    h('label.grow', 'Topic or filter',
      h('input', {
        type: 'search', name: 'filter', value: topic ?? state.filter, placeholder: 'sensors/#', autocomplete: 'off', spellcheck: 'false',
        oninput: ({ target }) => (clearTimeout(typing), (typing = setTimeout(() => change({ filter: target.value }), 200))),
      })),
    h('button', { type: 'submit' }, 'Look up'));

  function choose() {
    const lists = [['topics', 'All'], ['retained', 'Retained'], ['subscriptions', 'Subscriptions'], ['groups', 'Groups']];
    return choice('List', lists, state.list, (list) => change({ list }));
  }

  function submit(event) {
    event.preventDefault();
    const text = new FormData(event.target).get('filter').trim();
    if (text && !/[+#]/.test(text)) location.hash = link(text);
    else change({ filter: text });
  }

  main.replaceChildren(
    h('div.head', h('h1', 'Topics')),
    tools,
    h('div.columns', h('div', words, table, h('div.pages', back, on)), beside),
  );
  const following = topic && follow({ topic });
  if (topic) showTopic(beside, topic, load, following.element);
  else show(beside, h('p.hint', 'Choose a topic to see its value and whom it reaches.'));
  load();
  return () => {
    current = -1;
    following?.end();
  };
}

/** Who gets a message, by which subscription and rule, and as what frame. */
function reasons({ publish, receivers, frames, cursor }) {
  const shown = Object.entries(frames).filter(([, frame]) => frame);
  return [
    !publish.allowed && h('p.bad', 'Who has no login may not publish here: ', h('code', publish.rule)),
    h('ul.receivers', receivers.map(({ clientId, protocol, outcome, subscriptions, qos, rule }) =>
      h('li', h('a.id', { href: `#/clients/${part(clientId)}` }, clientId), chip(protocol === 'none' ? null : protocol), h(`span${outcome === 'delivered' ? '' : '.bad'}`, outcome),
        h('small', 'by ', h('code', subscriptions.join(', ')), ` at QoS ${qos}; ${rule}`)))),
    cursor && h('p.hint', 'and others.'),
    shown.length ? h('details', h('summary', `As frames of ${shown.map(([name]) => name.toUpperCase()).join(', ')}`), shown.map(([name, frame]) => h('pre.value', { tabindex: '0' }, `${name.toUpperCase()}\n${frame}`))) : null,
  ];
}

async function showTopic(beside, topic, reload, following) {
  show(beside, h('h2.id', topic), h('p.hint', 'Loading…'));
  const optional = (asked) => asked.catch((error) => ([403, 404].includes(error.status) ? null : Promise.reject(error)));
  try {
    const [about, kept, why] = await Promise.all([
      optional(api('GET', `topics/${part(topic)}`)),
      optional(api('GET', `retained/${part(topic)}`)),
      optional(api('GET', 'explain', { topic, limit: RECEIVERS })),
    ]);
    const forget = h('button.danger', { type: 'button', onclick: () => remove(topic, beside, reload, following) }, 'Remove…');
    show(beside,
      h('h2.id', topic),
      about && h('p', `A message here reaches ${about.subscribers ? count(about.subscribers, 'session') : 'no session'}`, about.shared.length ? ` and ${count(about.shared.length, 'shared group')}.` : '.'),
      about?.shared.length ? h('ul', about.shared.map(({ name, members, waiting }) => h('li', h('code', name), ` ${count(members, 'member')}, ${number(waiting)} waiting`))) : null,
      why && reasons(why),
      h('h3', 'Retained value'),
      kept ? value(kept) : h('p.hint', 'None.'),
      h('div.buttons', h('a.button', { href: `#/try/${part(topic)}` }, 'Watch it'), kept && forget),
      h('h3', 'What happens here now'), following);
  } catch (error) {
    show(beside, h('h2.id', topic), h('p.hint', error.message));
  }
}

async function remove(topic, beside, reload, following) {
  if (!(await ask(`Remove what is retained on ${topic}?`, 'Subscribers are not told; who subscribes later does not get it.', 'Remove'))) return;
  try {
    await api('DELETE', `retained/${part(topic)}`);
    note('Removed.');
  } catch (error) {
    note(error.message, true);
  }
  reload();
  showTopic(beside, topic, reload, following);
}

/** A payload as it is best read. */
function value({ data, dataType, contentType, qos, headers, expiresAt }) {
  const text = dataType === 'json' ? JSON.stringify(data, null, 2) : dataType === 'base64' ? hex(data) : data;
  const words = [contentType ?? (dataType === 'base64' ? 'bytes' : dataType), `QoS ${qos}`, expiresAt && `until ${new Date(expiresAt).toLocaleString()}`];
  return [
    h(`pre.value.${dataType}`, { tabindex: '0' }, text),
    h('p.hint', words.filter(Boolean).join(' · ')),
    headers ? h('dl', Object.entries(headers).map(([name, value]) => h('div', h('dt', name), h('dd', [].concat(value).join(', '))))) : null,
  ];
}

/** The first bytes as a hex dump. */
function hex(base64) {
  const all = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const lines = [];
  for (let at = 0; at < Math.min(all.length, 1024); at += 16) {
    const row = [...all.slice(at, at + 16)];
    const text = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '·')).join('');
    lines.push(`${at.toString(16).padStart(4, '0')}  ${row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ').padEnd(48)} ${text}`);
  }
  if (all.length > 1024) lines.push(`… ${number(all.length - 1024)} more bytes`);
  return lines.join('\n');
}
