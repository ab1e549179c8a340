// Small things that all views use: elements, numbers in words, questions and notes.

const SVG = 'http://www.w3.org/2000/svg';

/** Makes an element: `h('a.quiet', { href }, 'text', other)`. What is false or null is left out. */
export function h(what, ...rest) {
  const [tag, ...classes] = what.split('.');
  return fill(document.createElement(tag), classes, rest);
}

/** The same for SVG. */
export function s(what, ...rest) {
  const [tag, ...classes] = what.split('.');
  return fill(document.createElementNS(SVG, tag), classes, rest);
}

function fill(element, classes, [first, ...rest]) {
  if (classes.length) element.setAttribute('class', classes.join(' '));
  const isProperties = first && first.constructor === Object;
  for (const [name, value] of Object.entries(isProperties ? first : {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked') element[name] = value;
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...(isProperties ? rest : [first, ...rest]).flat(2).filter((child) => child != null && child !== false));
  return element;
}

const last = new WeakMap();

/**
 * Puts new content into an element; who had the focus keeps it, by `data-key`. What is being pressed
 * is not taken away under the finger, or the click would be lost: it is replaced right after.
 */
export function show(element, ...content) {
  last.set(element, content);
  if (element.matches(':active')) return void setTimeout(() => last.get(element) === content && show(element, ...content), 50);
  const key = element.contains(document.activeElement) && document.activeElement.dataset.key;
  element.replaceChildren(...content.flat(2).filter((child) => child != null && child !== false));
  if (key) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Sets a text where it has changed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const broken = new Intl.NumberFormat('en', { maximumSignificantDigits: 2 });

/** A number as people read it: `12,034`, from a million on `1.2M`. */
export function number(value) {
  if (!Number.isFinite(value)) return '–';
  if (Math.abs(value) >= 1e6) return short.format(value);
  return value > 0 && value < 0.95 ? broken.format(value) : whole.format(value);
}

/** `1.2 MB`. */
export function bytes(value) {
  if (!Number.isFinite(value)) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${value >= 100 || unit === 0 ? whole.format(value) : broken.format(value)} ${units[unit]}`;
}

/** `3 h 12 min`: the two largest units of a time in seconds. */
export function span(seconds) {
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const at = units.findIndex(([, size]) => seconds >= size);
  if (at < 0) return '0 s';
  const [name, size] = units[at];
  const first = `${Math.floor(seconds / size)} ${name}`;
  const [next, part] = units[at + 1] ?? [];
  const left = next ? Math.floor((seconds % size) / part) : 0;
  return left ? `${first} ${left} ${next}` : first;
}

/** How long ago a moment was. */
export const ago = (moment) => (moment ? span(Math.max(0, (Date.now() - Date.parse(moment)) / 1000)) : '–');

/** The family of a protocol: `mqtt` of `mqtt 5`. */
export const family = (protocol) => (protocol ?? '').split(' ')[0];

/** The sign of a protocol: its colour and its name, so that neither is needed alone. */
export function chip(protocol) {
  if (!protocol) return h('span.chip.away', 'away');
  return h(`span.chip.${family(protocol)}`, protocol.toUpperCase().replace('_', ' '));
}

/** A word that is there in the singular and plural. */
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

/** Says something for a while. */
export function note(text, isBad = false) {
  const line = h(`p.note${isBad ? '.bad' : ''}`, text);
  document.getElementById('notes').append(line);
  setTimeout(() => line.remove(), isBad ? 8000 : 4000);
}

/** Asks whether to do something that cannot be undone. */
export function ask(title, text, doIt) {
  const dialog = document.getElementById('ask');
  const answer = (value) => () => dialog.close(value);
  show(
    dialog,
    h('h2', { id: 'ask-title' }, title),
    h('p', text),
    h('div.buttons',
      h('button', { type: 'button', onclick: answer('') }, 'Cancel'),
      h('button.danger', { type: 'button', onclick: answer('yes') }, doIt)),
  );
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** A choice of a few, as radio buttons that look like one control. */
export function choice(label, options, value, change) {
  const name = `choice-${label.replace(/\W/g, '')}`;
  return h('fieldset.choice',
    h('legend', label),
    options.map(([key, words]) =>
      h('label', { class: `option ${key}` },
        h('input', { type: 'radio', name, value: key, checked: key === value, 'data-key': name + key, onchange: () => change(key) }),
        h('span', words))));
}
