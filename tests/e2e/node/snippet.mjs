// What documents show for browsers: `node snippet.mjs CASE FILE ORIGIN`; ends when the broker has answered.

import { readFile } from 'node:fs/promises';
import { withChromium } from './chromium.mjs';
import { main } from './harness.mjs';

const cases = {};

/** In a page of the broker's own port, which is given the snippet in place of its own text. */
async function inPage(origin, html, act) {
  await withChromium({}, async (browser) => {
    const page = await browser.newPage();
    await page.route(`${origin}/snippet.html`, (route) => route.fulfill({ contentType: 'text/html', body: html }));
    const said = new Promise((resolve) => page.on('console', (message) => resolve(message.text())));
    await page.goto(`${origin}/snippet.html`);
    const publishing = setInterval(() => act().catch(() => {}), 200);
    console.log(await said);
    clearInterval(publishing);
  });
}

const publish = (origin, topic) => () =>
  fetch(`${origin}/api/v1/publish`, { method: 'POST', body: JSON.stringify({ topic, data: 'from the test' }) });

cases.html = async (file, origin, topic) => inPage(origin, await readFile(file, 'utf8'), publish(origin, topic));

cases.script = async (file, origin, topic) =>
  inPage(origin, `<meta charset="utf-8"><script type="module">\n${await readFile(file, 'utf8')}\n</script>`, publish(origin, topic));

await main(cases, 30_000);
