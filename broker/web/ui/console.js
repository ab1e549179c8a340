// The console: one message, and how each of the three protocols sees it.

import { credentials } from './api.js';
import { chip, choice, h, show } from './dom.js';
import { Json, Mqtt, Stomp } from './speak.js';

const SPEAKERS = { mqtt: Mqtt, stomp: Stomp, json: Json };
const KEPT = 60;

/** What was typed stays while other views are looked at. */
const typed = { filter: 'try/#', topic: 'try/hello', text: '{"celsius": 21.5}', by: 'mqtt', qos: 0, retain: false, login: null };

/** One protocol: its connection, what it got, and the frames. */
class Pane {
  constructor(name) {
    this.name = name;
    this.words = h('span.state', { role: 'status' }, 'off');
    this.button = h('button', { type: 'button', onclick: () => (this.speaker ? this.stop() : this.start()) }, 'Connect');
    this.messages = h('ol.messages', { 'aria-label': `Messages by ${name.toUpperCase()}`, 'aria-live': 'polite' });
    this.frames = h('ol.frames', { 'aria-label': `Frames of ${name.toUpperCase()}` });
    this.element = h(`section.pane.${name}`, { 'aria-label': name.toUpperCase() },
      h('header', chip(name), this.words, this.button),
      this.messages,
      h('details', { open: true }, h('summary', 'On the wire'), this.frames));
    this.empty();
  }

  empty() {
    show(this.messages, h('li.hint', 'What it receives stands here.'));
    show(this.frames);
  }

  start() {
    this.words.textContent = 'connecting';
    this.button.textContent = 'Disconnect';
    const speaker = new SPEAKERS[this.name](typed.login ?? credentials(), {
      state: (state, why) => this.speaker === speaker && this.changed(state, why),
      message: (message) => this.got(message),
      frame: (way, text) => this.frame(way, text),
    });
    this.speaker = speaker;
    if (typed.filter) speaker.subscribe(typed.filter);
  }

  changed(state, why) {
    this.words.textContent = state === 'on' ? 'connected' : why ? `off: ${why}` : 'off';
    this.words.classList.toggle('bad', state !== 'on' && !!why);
    if (state === 'on') return;
    this.speaker = null;
    this.button.textContent = 'Connect';
  }

  stop() {
    const { speaker } = this;
    this.changed('off', '');
    speaker?.close();
  }

  got({ topic, text, retained }) {
    this.messages.querySelector('.hint')?.remove();
    const time = new Date().toLocaleTimeString('en', { hour12: false });
    this.messages.prepend(h('li', h('time', time), h('code.topic', topic), retained && h('em', 'retained'), h('span.text', text)));
    while (this.messages.children.length > KEPT) this.messages.lastChild.remove();
  }

  frame(way, text) {
    this.frames.prepend(h(`li.${way}`, h('span.hidden', way === 'in' ? 'received' : 'sent'), h('pre', text)));
    while (this.frames.children.length > KEPT) this.frames.lastChild.remove();
  }
}

/** The view; `filter` is what to subscribe to first. */
export function tryIt(main, filter) {
  if (filter) typed.filter = typed.topic = filter;
  const panes = Object.keys(SPEAKERS).map((name) => new Pane(name));
  const all = (doIt) => panes.forEach(doIt);

  function subscribe(event) {
    event.preventDefault();
    const old = typed.filter;
    typed.filter = event.target.elements.filter.value.trim();
    for (const { speaker } of panes) {
      if (old && old !== typed.filter) speaker?.unsubscribe(old);
      if (typed.filter) speaker?.subscribe(typed.filter);
    }
  }

  function publish(event) {
    event.preventDefault();
    const pane = panes.find(({ name }) => name === typed.by);
    if (!pane.speaker) pane.start();
    const send = () => pane.speaker?.publish(typed.topic, typed.text, typed);
    if (pane.speaker.state === 'on') return send();
    // Written before there is a login, it goes with the login.
    const { state } = pane.speaker.tell;
    const { tell } = pane.speaker;
    tell.state = (now, why) => (state(now, why), (tell.state = state), now === 'on' && send());
  }

  const publisher = h('form.tools.publish', { onsubmit: publish },
    choice('Publish by', Object.keys(SPEAKERS).map((name) => [name, name.toUpperCase()]), typed.by, (by) => (typed.by = by)),
    h('label', 'Topic', h('input', { name: 'topic', value: typed.topic, required: true, autocomplete: 'off', spellcheck: 'false', oninput: ({ target }) => (typed.topic = target.value) })),
    h('label.grow', 'Message', h('input', { name: 'text', value: typed.text, autocomplete: 'off', spellcheck: 'false', oninput: ({ target }) => (typed.text = target.value) })),
    h('label', 'QoS', h('select', { onchange: ({ target }) => (typed.qos = Number(target.value)) }, [0, 1].map((qos) => h('option', { value: qos, selected: qos === typed.qos }, String(qos))))),
    h('label.check', h('input', { type: 'checkbox', checked: typed.retain, onchange: ({ target }) => (typed.retain = target.checked) }), 'Retain'),
    h('button.main', { type: 'submit' }, 'Publish'));
  const subscriber = h('form.tools', { onsubmit: subscribe },
    h('label.grow', 'All three subscribe to', h('input', { name: 'filter', value: typed.filter, autocomplete: 'off', spellcheck: 'false' })),
    h('button', { type: 'submit' }, 'Subscribe'),
    h('button', { type: 'button', onclick: () => all((pane) => pane.empty()) }, 'Clear'));

  main.replaceChildren(
    h('div.head', h('h1', 'Try it'), h('p.hint', 'Three connections of this page, one topic: publish by one protocol and see it arrive in all.')),
    publisher, subscriber, login(() => all((pane) => (pane.stop(), pane.start()))),
    h('div.panes', panes.map(({ element }) => element)),
  );
  all((pane) => pane.start());
  return () => all((pane) => pane.stop());
}

/** Who to be, if not who is signed in. */
function login(again) {
  const { user = '', secret = '' } = typed.login ?? {};
  return h('details.login',
    h('summary', 'Connect as somebody else'),
    h('form.tools', {
      onsubmit: (event) => {
        event.preventDefault();
        const { user, secret } = event.target.elements;
        typed.login = user.value || secret.value ? { user: user.value, secret: secret.value } : null;
        again();
      },
    },
    h('label', 'User, if it is a password', h('input', { name: 'user', value: user, autocomplete: 'off' })),
    h('label.grow', 'Token or password', h('input', { name: 'secret', type: 'password', value: secret, autocomplete: 'off' })),
    h('button', { type: 'submit' }, 'Connect again')));
}
