// What the scripts share: running one named case, and waiting.

import { once } from 'node:events';

/** Runs the case that the command line names with the other arguments, within a time. */
export async function main(cases, patienceMs = 20_000) {
  const [name, ...args] = process.argv.slice(2);
  const late = setTimeout(() => fail(new Error(`${name} took longer than ${patienceMs / 1000} s`)), patienceMs);
  try {
    await cases[name](...args);
    clearTimeout(late);
    process.exit(0);
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

/** Collects what comes in and hands it out in order: `push` on one side, `await next()` on the other. */
export class Inbox {
  #items = [];
  #waiting = [];

  push = (item) => {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(item);
    else this.#items.push(item);
  };

  next() {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async take(count) {
    const items = [];
    while (items.length < count) items.push(await this.next());
    return items;
  }
}

export { once };
