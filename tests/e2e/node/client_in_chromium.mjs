// The JavaScript client in Chromium, as the broker serves it: `node client_in_chromium.mjs ORIGIN TOPIC`.
//
// Prints `kill` and `start`, as the story of survive.js asks for it.

import { readFile } from 'node:fs/promises';
import { withChromium } from './chromium.mjs';

const [origin, topic] = process.argv.slice(2);
const story = await readFile('survive.js', 'utf8');

await withChromium({}, async (browser) => {
  const page = await browser.newPage();
  await page.route(`${origin}/survive.js`, (route) => route.fulfill({ contentType: 'text/javascript', body: story }));
  await page.exposeFunction('say', (line) => console.log(line));
  await page.goto(`${origin}/demo/chat`);
  await page.evaluate(async (topic) => {
    const client = await import('/polycast.js');
    const { survive } = await import('/survive.js');
    await survive(client, undefined, topic, {}, (line) => window.say(line));
  }, topic);
});
