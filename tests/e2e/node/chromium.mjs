// Chromium as the tests of pages use it.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
];

/** Opens a browser, hands it to `work` and closes it. Errors of pages are errors of the work. */
export async function withChromium(options, work) {
  const profile = await mkdtemp(join(tmpdir(), 'chromium-'));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: '/usr/bin/chromium',
    headless: true,
    args: ARGUMENTS,
    ...options,
  });
  const errors = [];
  const watch = (page) => {
    page.on('pageerror', (error) => errors.push(`${error.message}\n${error.stack}`));
    page.on('console', (message) => {
      // The policy of a page names what it has stopped.
      if (message.type() === 'error' && /Content Security Policy/.test(message.text())) errors.push(message.text());
    });
  };
  browser.on('page', watch);
  browser.pages().forEach(watch);
  try {
    await work(browser);
    if (errors.length) throw new Error(`the page failed:\n${errors.join('\n')}`);
  } catch (error) {
    if (errors.length) error.message += `\nthe page said:\n${errors.join('\n')}`;
    throw error;
  } finally {
    await browser.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
