// Following: what happens to a client or on a topic while somebody looks, as the broker tells it.

import { stream } from './api.js';
import { chip, h } from './dom.js';

/** Lines that are shown, the newest first. */
const KEPT = 200;
const SECONDS = 600;

/** A part of a view that follows `{ clientId }` or `{ topic }`; `end` stops it. */
export function follow(wanted) {
  const lines = h('ol.trace', { 'aria-label': 'What happens', tabindex: '0' });
  const words = h('span.hint', { role: 'status' });
  const button = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => (running ? stop('Stopped.') : start()) }, 'Follow');
  const box = h('div', { hidden: true }, lines);
  let running = null;

  function stop(text) {
    running?.abort();
    running = null;
    button.textContent = 'Follow';
    button.setAttribute('aria-pressed', 'false');
    words.textContent = text;
  }

  async function start() {
    const mine = new AbortController();
    running = mine;
    button.textContent = 'Stop';
    button.setAttribute('aria-pressed', 'true');
    words.textContent = 'Waiting for something to happen…';
    lines.replaceChildren();
    box.hidden = false;
    let end = 'It has ended: a trace goes on for ten minutes.';
    try {
      await stream('trace', { ...wanted, seconds: SECONDS }, mine.signal, (event) => {
        if (event.event === 'end') return;
        words.textContent = 'The newest first; payloads are not shown.';
        lines.prepend(line(event));
        if (lines.childElementCount > KEPT) lines.lastChild.remove();
      });
    } catch (error) {
      end = error.message;
    }
    if (running === mine) stop(end);
  }

  const element = h('section.follow', { 'aria-label': 'Follow' }, h('div.buttons', button, words), box);
  return { element, end: () => stop('') };
}

/** One event: what, who, and what else is known of it. */
function line({ at, event, clientId, topic, filter, protocol, ...more }) {
  const text = said(more).join(' · ');
  return h('li',
    h('time', at ? new Date(at).toLocaleTimeString() : ''),
    h('b', event === 'lost' ? 'more than is shown' : event),
    protocol && chip(protocol),
    h('span', clientId && h('span.id', clientId), ' ', (topic ?? filter) && h('code', topic ?? filter)),
    text && h('small', text));
}

/** What is known, in words: `qos 1`, `retain`; what is not so goes without saying. */
function said(values) {
  const known = Object.entries(values).filter(([, value]) => value != null && value !== '' && value !== false);
  return known.flatMap(([name, value]) => (value === true ? name : typeof value === 'object' ? said(value) : `${name} ${value}`));
}
