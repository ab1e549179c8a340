// Topics: what is retained with its value, who has subscribed to what, and whom a topic would reach.

import { ask as api, part, rows } from './api.js';
import { ask, bytes, choice, count, h, note, number, show } from './dom.js';

const PAGE = 100;
let hasTopics;
const state = { list: 'retained', filter: '', cursors: [undefined] };

const LISTS = {
  topics: { path: 'topics', name: 'topics', columns: ['Topic', 'Subscribers', 'Retained'], row: topicRow, empty: 'Nothing was published here lately.' },
  retained: { path: 'retained', name: 'retained', columns: ['Topic', 'Size', 'Type'], row: retainedRow, empty: 'Nothing is retained here.' },
  subscriptions: { path: 'subscriptions', name: 'subscriptions', columns: ['Topic filter', 'Client', 'QoS'], row: subscriptionRow, empty: 'Nobody has subscribed.' },
};

const link = (topic) => `#/topics/${part(topic)}`;

function retainedRow({ topic, size, contentType }) {
  return h('tr', h('th', { scope: 'row' }, h('a.id', { href: link(topic), 'data-key': topic }, topic)), h('td.n', bytes(size)), h('td', contentType ?? h('small', 'not said')));
}

function topicRow({ topic, subscribers, retained }) {
  return h('tr', h('th', { scope: 'row' }, h('a.id', { href: link(topic), 'data-key': topic }, topic)), h('td.n', number(subscribers)), h('td', retained ? 'yes' : h('span.soft', 'no')));
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
    const filter = state.list === 'subscriptions' ? '' : state.filter;
    try {
      const found = await rows(from, name, { cursor: state.cursors.at(-1), wanted: PAGE, filter });
      if (mine !== current) return;
      next = found.cursor;
      show(table, h('table', h('thead', h('tr', columns.map((name) => h(/Size|QoS|Subscribers/.test(name) ? 'th.n' : 'th', { scope: 'col' }, name)))), h('tbody', found.rows.map(row))));
      words.textContent = found.rows.length ? '' : empty;
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
    const lists = [['retained', 'Retained'], hasTopics && ['topics', 'All'], ['subscriptions', 'Subscriptions']].filter(Boolean);
    return choice('List', lists, state.list, (list) => change({ list }));
  }

  // A broker of an earlier version has no list of all topics.
  if (hasTopics === undefined) {
    api('GET', 'topics', { limit: 1 }).then(() => true, (error) => error.status !== 404 && undefined).then((has) => {
      hasTopics = has;
      if (has && current > 0) tools.firstChild.replaceWith(choose());
    });
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
  if (topic) showTopic(beside, topic, load);
  else show(beside, h('p.hint', 'Choose a topic to see its value and whom it reaches.'));
  load();
  return () => void (current = -1);
}

async function showTopic(beside, topic, reload) {
  show(beside, h('h2.id', topic), h('p.hint', 'Loading…'));
  const optional = (asked) => asked.catch((error) => (error.status === 404 ? null : Promise.reject(error)));
  try {
    const [about, kept] = await Promise.all([
      optional(api('GET', `topics/${part(topic)}`)),
      optional(api('GET', `retained/${part(topic)}`)),
    ]);
    const forget = h('button.danger', { type: 'button', onclick: () => remove(topic, beside, reload) }, 'Remove…');
    show(beside,
      h('h2.id', topic),
      about && h('p', `A message here reaches ${about.subscribers ? count(about.subscribers, 'session') : 'no session'}`, about.shared.length ? ` and ${count(about.shared.length, 'shared group')}.` : '.'),
      about?.shared.length ? h('ul', about.shared.map(({ name, members, waiting }) => h('li', h('code', name), ` ${count(members, 'member')}, ${number(waiting)} waiting`))) : null,
      h('h3', 'Retained value'),
      kept ? value(kept) : h('p.hint', 'None.'),
      h('div.buttons', h('a.button', { href: `#/try/${part(topic)}` }, 'Watch it'), kept && forget));
  } catch (error) {
    show(beside, h('h2.id', topic), h('p.hint', error.message));
  }
}

async function remove(topic, beside, reload) {
  if (!(await ask(`Remove what is retained on ${topic}?`, 'Subscribers are not told; who subscribes later does not get it.', 'Remove'))) return;
  try {
    await api('DELETE', `retained/${part(topic)}`);
    note('Removed.');
  } catch (error) {
    note(error.message, true);
  }
  reload();
  showTopic(beside, topic, reload);
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
