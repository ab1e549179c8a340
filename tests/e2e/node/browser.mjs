// Opens a page of docs/try-it.md in Chromium: `node browser.mjs PAGE_URL WANTED_TEXT`.
//
// Libraries from a CDN are answered here, out of node_modules. Ends well when the page shows the wanted text.

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const [pageUrl, wanted] = process.argv.slice(2);
const profile = await mkdtemp(join(tmpdir(), 'chromium-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
  ],
});
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.log('console:', message.text()));
  page.on('pageerror', (error) => console.log('error:', error.message));
  await page.route('https://cdn.jsdelivr.net/npm/**', async (route) => {
    const library = route.request().url().match(/\/npm\/(@?[^@]+)@[\d.]+\/(.+)$/);
    const body = await readFile(join('node_modules', library[1], library[2]));
    return route.fulfill({ contentType: 'text/javascript', body });
  });
  await page.goto(pageUrl);
  await page.getByText(wanted).first().waitFor({ timeout: 20_000 });
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
