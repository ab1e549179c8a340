// Charts of the last minutes as SVG: colours come from the style sheet, so they follow the theme.

import { h, number, s, say, show, span } from './dom.js';

/** The next round number above a value, so that scales jump seldom. */
function roof(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

const total = (values) => Object.values(values).reduce((sum, value) => sum + value, 0);

/**
 * What comes in above a line, what goes out below it, a band for each protocol: one look says how a broker
 * multiplies, and which protocol it is for.
 */
export class Mirror {
  constructor(series) {
    this.series = series;
    this.bands = series.map((name) => ({
      in: s(`path.band.${name}`),
      out: s(`path.band.${name}.out`),
    }));
    this.axis = s('path.axis');
    this.grid = s('path.grid');
    this.cursor = s('path.cursor');
    this.svg = s('svg', { preserveAspectRatio: 'none', viewBox: '0 0 1000 200', 'aria-hidden': 'true' },
      this.grid, this.bands.flatMap(({ in: a, out }) => [a, out]), this.axis, this.cursor);
    this.top = h('span.scale.high');
    this.bottom = h('span.scale.low');
    this.unit = h('span.scale.unit');
    this.tip = h('div.tip', { hidden: true });
    this.element = h('div.mirror', { role: 'img' }, this.svg, this.top, this.bottom, this.unit,
      h('span.way.in', 'in'), h('span.way.out', 'out'), this.tip);
    this.element.addEventListener('pointermove', (event) => this.point(event));
    this.element.addEventListener('pointerleave', () => this.unpoint());
  }

  /** Draws the last `most` seconds, or what there is of them. */
  draw(history, most) {
    const now = history.at(-1)?.at ?? Date.now();
    const there = history.length ? (now - history[0].at) / 1000 : 0;
    const seconds = Math.min(most, Math.max(20, there));
    const from = now - seconds * 1000;
    const points = history.filter(({ at }) => at >= from - 2000);
    this.points = points;
    this.x = (at) => ((at - from) / (seconds * 1000)) * 1000;
    const tops = { in: roof(Math.max(0, ...points.map((point) => total(point.in)))), out: roof(Math.max(0, ...points.map((point) => total(point.out)))) };
    // Both halves have the scale of their own, as a broker's output is often a hundred times its input.
    const y = { in: (value) => 100 - (value / tops.in) * 96, out: (value) => 100 + (value / tops.out) * 96 };
    for (const way of ['in', 'out']) {
      const below = points.map(() => 0);
      this.series.forEach((name, at) => {
        const lower = points.map((point, n) => `${this.x(point.at).toFixed(1)},${y[way](below[n]).toFixed(1)}`);
        points.forEach((point, n) => (below[n] += point[way][name] ?? 0));
        const upper = points.map((point, n) => `${this.x(point.at).toFixed(1)},${y[way](below[n]).toFixed(1)}`);
        const path = points.length > 1 ? `M${upper.join('L')}L${lower.reverse().join('L')}Z` : '';
        this.bands[at][way].setAttribute('d', path);
      });
    }
    this.axis.setAttribute('d', 'M0 100H1000');
    const every = seconds > 400 ? 300 : seconds > 60 ? 60 : 10;
    const lines = Array.from({ length: Math.floor(seconds / every) + 1 }, (_, n) => this.x(now - n * every * 1000));
    this.grid.setAttribute('d', lines.map((x) => `M${x.toFixed(1)} 0V200`).join(''));
    say(this.unit, `a line every ${span(every)}`);
    say(this.top, `${number(tops.in)}/s`);
    say(this.bottom, `${number(tops.out)}/s`);
    const last = points.at(-1);
    if (last) {
      const words = `Messages in the last ${span(Math.round(seconds))}. Now ${number(total(last.in))} in and ${number(total(last.out))} out a second.`;
      this.element.setAttribute('aria-label', words);
    }
  }

  point(event) {
    const box = this.element.getBoundingClientRect();
    const wanted = ((event.clientX - box.left) / box.width) * 1000;
    const distance = (point) => Math.abs(this.x(point.at) - wanted);
    const near = this.points?.reduce((best, point) => (!best || distance(point) < distance(best) ? point : best), null);
    if (!near || distance(near) > 40) return this.unpoint();
    const x = this.x(near.at);
    this.cursor.setAttribute('d', `M${x} 0V200`);
    const lines = this.series.filter((name) => near.in[name] > 0 || near.out[name] > 0);
    show(this.tip,
      h('time', new Date(near.at).toLocaleTimeString()),
      lines.map((name) => h('div', h(`i.swatch.${name}`), h('span', name.toUpperCase()), h('b', `${number(near.in[name] ?? 0)} in`), h('b', `${number(near.out[name] ?? 0)} out`))),
      lines.length ? null : h('span.none', 'nothing'));
    this.tip.hidden = false;
    this.tip.style.left = `${Math.min(Math.max((x / 1000) * box.width, 90), box.width - 90)}px`;
  }

  unpoint() {
    this.tip.hidden = true;
    this.cursor.setAttribute('d', '');
  }
}

/** A line without words, beside a figure that has them. */
export class Spark {
  constructor(name = '') {
    this.line = s('path.line');
    this.under = s('path.under');
    this.element = s('svg', { class: `spark ${name}`, viewBox: '0 0 120 32', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, this.under, this.line);
  }

  /** Draws values from the oldest to the newest; the scale begins at zero. */
  draw(values) {
    const shown = values.slice(-120);
    const high = Math.max(1, ...shown);
    const step = 120 / Math.max(19, shown.length - 1);
    const from = 120 - (shown.length - 1) * step;
    const points = shown.map((value, at) => `${(from + at * step).toFixed(1)},${(30 - (value / high) * 27).toFixed(1)}`);
    this.line.setAttribute('d', points.length > 1 ? `M${points.join('L')}` : '');
    this.under.setAttribute('d', points.length > 1 ? `M${points.join('L')}L120,32L${from.toFixed(1)},32Z` : '');
  }
}
