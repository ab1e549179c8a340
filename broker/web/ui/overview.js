// The first view: what goes through the broker now, and who is connected by which protocol.

import { live, onLive, PROTOCOLS, sum } from './api.js';
import { Mirror, Spark } from './chart.js';
import { bytes, chip, choice, h, number, say } from './dom.js';

const RANGES = [['120', '2 min'], ['300', '5 min'], ['900', '15 min']];
let range = '120';

const total = (values = {}) => Object.values(values).reduce((sum, value) => sum + value, 0);

/** A figure with its name, and below it what it was. */
function figure(words, href) {
  const value = h('b', '–');
  const more = h('small');
  const spark = new Spark();
  const element = h(href ? 'a.figure' : 'div.figure', { href }, h('span', words), value, spark.element, more);
  return { element, value, more, spark };
}

function protocolRow(name) {
  const cells = { connections: h('td.n'), in: h('td.n'), out: h('td.n'), bytesIn: h('td.n.wide'), bytesOut: h('td.n.wide') };
  const spark = new Spark(name);
  const row = h('tr', h('th', { scope: 'row' }, chip(name)), cells.connections, cells.in, cells.out, cells.bytesIn, cells.bytesOut, h('td.sparkline', spark.element));
  return { name, row, cells, spark };
}

/** Shows the view in `main`; returns what ends it. */
export function overview(main) {
  const mirror = new Mirror(PROTOCOLS);
  const now = { in: h('b', '–'), out: h('b', '–') };
  const figures = {
    connections: figure('Connections', '#/clients'),
    sessions: figure('Sessions', '#/clients'),
    subscriptions: figure('Subscriptions', '#/topics'),
    retained: figure('Retained', '#/topics'),
    dropped: figure('Not delivered', '#/health'),
  };
  const table = PROTOCOLS.map(protocolRow);
  const past = { sessions: [], subscriptions: [], retained: [] };

  function draw() {
    if (!live.families) return;
    mirror.draw(live.history, Number(range));
    const last = live.history.at(-1);
    const level = (name) => sum(live.families, name);
    say(now.in, number(total(last?.in)));
    say(now.out, number(total(last?.out)));
    say(figures.connections.value, number(level('connections')));
    say(figures.connections.more, last ? `${bytes(total(last.bytesIn))}/s in, ${bytes(total(last.bytesOut))}/s out` : '');
    figures.connections.spark.draw(live.history.map((point) => total(point.connections)));
    for (const [key, metric] of [['sessions', 'sessions'], ['subscriptions', 'subscriptions'], ['retained', 'retained_messages']]) {
      const value = level(metric);
      say(figures[key].value, number(value));
      past[key].push(value);
      if (past[key].length > 120) past[key].shift();
      figures[key].spark.draw(past[key]);
    }
    say(figures.sessions.more, `${number(sum(live.families, 'sessions', { state: 'disconnected' }))} away`);
    say(figures.subscriptions.more, `${number(level('groups'))} groups and queues`);
    say(figures.retained.more, bytes(level('retained_bytes')));
    const { no_subscribers: unheard = 0, ...dropped } = last?.dropped ?? {};
    say(figures.dropped.value, `${number(total(dropped))}/s`);
    say(figures.dropped.more, `${number(unheard)}/s had no subscriber`);
    const missed = live.history.map(({ dropped: { no_subscribers: _, ...rest } }) => total(rest));
    figures.dropped.spark.element.classList.toggle('bad', missed.some((value) => value > 0));
    figures.dropped.spark.draw(missed);
    for (const { name, row, cells, spark } of table) {
      const isSeen = sum(live.families, 'connections_opened_total', { protocol: name }) + sum(live.families, 'messages_received_total', { protocol: name }) > 0;
      row.classList.toggle('idle', !isSeen);
      say(cells.connections, name === 'http' ? '–' : number(sum(live.families, 'connections', { protocol: name })));
      for (const way of ['in', 'out']) say(cells[way], number(last?.[way][name] ?? 0));
      for (const way of ['bytesIn', 'bytesOut']) say(cells[way], bytes(last?.[way][name] ?? 0));
      spark.draw(live.history.map((point) => (point.in[name] ?? 0) + (point.out[name] ?? 0)));
    }
  }

  main.replaceChildren(
    h('section.hero', { 'aria-labelledby': 'rates' },
      h('div.head',
        h('h1', { id: 'rates' }, 'Messages per second'),
        choice('Time', RANGES, range, (value) => ((range = value), draw()))),
      h('p.rates', h('span', now.in, ' in'), h('span', now.out, ' out')),
      mirror.element),
    h('section.figures', { 'aria-label': 'Figures' }, Object.values(figures).map(({ element }) => element)),
    h('section', { 'aria-labelledby': 'protocols' },
      h('h2', { id: 'protocols' }, 'By protocol'),
      h('div.scroll', h('table.protocols',
        h('thead', h('tr', ['Protocol', 'Connections', 'In /s', 'Out /s'].map((name, at) => h(at ? 'th.n' : 'th', { scope: 'col' }, name)),
          h('th.n.wide', { scope: 'col' }, 'Received /s'), h('th.n.wide', { scope: 'col' }, 'Sent /s'), h('th', { scope: 'col' }, h('span.hidden', 'Last two minutes')))),
        h('tbody', table.map(({ row }) => row))))),
  );
  draw();
  return onLive(draw);
}
