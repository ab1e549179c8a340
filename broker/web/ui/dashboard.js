// The dashboard: which view is shown, who is signed in, and the state of the broker at the top.

import { credentials, live, onLive, sign, unwatch, watch } from './api.js';
import { client, clients } from './clients.js';
import { tryIt } from './console.js';
import { h, say, show, span } from './dom.js';
import { examine, health } from './health.js';
import { overview } from './overview.js';
import { topics } from './topics.js';

const main = document.getElementById('main');
const VIEWS = {
  '': ['Overview', overview],
  clients: ['Clients', (main, id) => (id ? client(main, id) : clients(main))],
  topics: ['Topics', topics],
  try: ['Try it', tryIt],
  health: ['Health', health],
};

let leave = () => {};
let isAsked = false;

/** Shows what the address says: `#/clients/ID`. */
function go(event) {
  const [, name = '', ...rest] = location.hash.split('/');
  const [title, view] = VIEWS[name] ?? VIEWS[''];
  leave();
  document.title = `${title} · Polycast`;
  for (const link of document.querySelectorAll('#views a')) {
    const isHere = link.hash === `#/${name}`;
    if (isHere) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (isAsked) return;
  let argument;
  try {
    argument = decodeURIComponent(rest.join('/'));
  } catch { /* Not an address of ours. */ }
  leave = view(main, argument || undefined);
  if (event) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

/** Asks who it is; `refused` says why. */
function signIn({ detail: refused }) {
  unwatch();
  isAsked = true;
  leave();
  leave = () => {};
  state('off', refused.status === 401 ? 'signed out' : 'not allowed');
  const isTried = !!credentials().secret;
  const why = refused.status === 403 || isTried ? refused.message : 'This broker shows its state to those who may manage it.';
  const secret = h('input', { name: 'secret', type: 'password', autocomplete: 'current-password', required: true });
  show(main, h('form.signin', {
    onsubmit: (event) => {
      event.preventDefault();
      const { user, secret } = event.target.elements;
      sign({ user: user.value.trim(), secret: secret.value.trim() });
      begin();
    },
  },
  h('h1', 'Sign in'),
  h(`p${isTried ? '.bad' : ''}`, { role: isTried ? 'alert' : null }, why),
  h('label', 'Token, API key or password', secret),
  h('label', 'User, if it is a password', h('input', { name: 'user', autocomplete: 'username' })),
  h('button.main', { type: 'submit' }, 'Sign in'),
  h('p.hint', 'It is kept until this tab is closed, and shown to this broker only.')));
  secret.focus();
}

function begin() {
  isAsked = false;
  document.getElementById('sign-out').hidden = !credentials().secret;
  go();
  watch();
}

function state(level, words) {
  const element = document.getElementById('status');
  element.className = level;
  say(element.querySelector('.words'), words);
}

function look() {
  const { alarms, isAlarm } = examine();
  const badge = document.getElementById('alarm-count');
  badge.hidden = !alarms;
  say(badge, String(alarms));
  badge.setAttribute('aria-label', `, ${alarms} to look at`);
  // Said in words that change seldom: a screen reader reads each change.
  if (live.silentSince) return state('alarm', Date.now() - live.silentSince > 2500 ? 'no answer' : 'waiting');
  const version = live.families?.get('polycast_build_info')?.[0].labels.version;
  const began = live.families?.get('process_start_time_seconds')?.[0]?.value;
  const words = live.health?.status === 'ok' ? (isAlarm ? 'alarm' : 'healthy') : (live.health?.status ?? 'healthy');
  state(isAlarm ? 'alarm' : alarms ? 'warn' : 'ok', words);
  document.getElementById('status').title = [version && `Polycast ${version}`, began && `running for ${span(Date.now() / 1000 - began)}`].filter(Boolean).join(', ');
}

const THEMES = { '': 'as the system', light: 'light', dark: 'dark' };

function theme(name) {
  const root = document.documentElement;
  if (name) root.dataset.theme = name;
  else delete root.dataset.theme;
  document.getElementById('theme').setAttribute('aria-label', `Colours: ${THEMES[name]}`);
  document.getElementById('theme').title = `Colours: ${THEMES[name]}`;
}

document.getElementById('theme').addEventListener('click', () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(localStorage.getItem('polycast-theme') ?? '') + 1) % names.length];
  localStorage.setItem('polycast-theme', next);
  theme(next);
});
document.getElementById('sign-out').addEventListener('click', () => {
  sign();
  begin();
});
addEventListener('hashchange', go);
addEventListener('signin', (event) => isAsked || signIn(event));
onLive(look);
const kept = localStorage.getItem('polycast-theme') ?? '';
theme(kept in THEMES ? kept : '');
begin();
