// The dashboard in Chromium: `node dashboard.mjs CASE ORIGIN …`.

import assert from 'node:assert/strict';
import { WebSocket } from 'ws';
import { Polycast } from '../../../broker/web/client/polycast.js';
import { withChromium } from './chromium.mjs';
import { main } from './harness.mjs';

const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
const VIEWS = ['#/', '#/clients', '#/topics', '#/try', '#/health'];

/** Opens the dashboard and lets `work` look at it; whatever it loads must be the broker's own. */
async function opened(origin, work, options = {}) {
  await withChromium(options, async (browser) => {
    const page = await browser.newPage();
    const foreign = [];
    page.on('request', (request) => {
      if (!/^(data:|blob:)/.test(request.url()) && new URL(request.url()).host !== new URL(origin).host) foreign.push(request.url());
    });
    await page.goto(origin);
    await work(page);
    assert.deepEqual(foreign, []);
  });
}

const figure = (page, name) => page.locator('.figure', { hasText: name }).locator('b');

const cases = {};

/** Run with a crowd of MQTT clients, as many as `count`. */
cases.crowd = async (origin, count) => {
  const shown = Number(count).toLocaleString('en');
  await opened(origin, async (page) => {
    await figure(page, 'Connections').getByText(shown, { exact: true }).waitFor();
    const row = page.locator('table.protocols tr', { hasText: 'MQTT' });
    await row.getByText(shown, { exact: true }).waitFor();
    await page.waitForFunction(() => Number(document.querySelector('.rates b').textContent.replace(',', '')) > 0);

    // Pages, and back.
    await page.getByRole('link', { name: 'Clients' }).click();
    const first = page.locator('table.clients tbody tr').first().locator('a');
    await first.waitFor();
    assert.equal(await page.locator('table.clients tbody tr').count(), 50);
    const name = await first.textContent();
    await page.getByRole('button', { name: 'Next page' }).click();
    await page.getByText('51 to 100').waitFor();
    assert.notEqual(await first.textContent(), name);
    await page.getByRole('button', { name: 'Back' }).click();
    await page.getByText('1 to 50').waitFor();
    assert.equal(await first.textContent(), name);

    // One of ten thousand is found, looked at and disconnected, with the keyboard alone.
    await page.getByLabel('Client identifier or user').focus();
    const asked = Date.now();
    await page.keyboard.type('KER-09998');
    await page.getByRole('link', { name: 'tracker-09998' }).waitFor();
    await page.waitForFunction(() => document.querySelectorAll('table.clients tbody tr').length === 1);
    console.log(`found among ${count} after ${Date.now() - asked} ms, typing included`);
    await page.getByRole('link', { name: 'tracker-09998' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'tracker-09998' }).waitFor();
    await page.getByText('site/98/tracker/9998/set').waitFor();
    await page.getByRole('button', { name: 'Disconnect…' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').getByText('Disconnect tracker-09998?').waitFor();
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.getByText('tracker-09998 was disconnected.').waitFor();
    await page.getByText('This client is gone').waitFor();
    const left = (Number(count) - 1).toLocaleString('en');
    await page.getByRole('navigation').getByRole('link', { name: 'Overview' }).click();
    await figure(page, 'Connections').getByText(left, { exact: true }).waitFor();
  });
};

cases.console = async (origin) => {
  await opened(origin, async (page) => {
    await page.getByRole('link', { name: 'Try it' }).click();
    for (const name of ['MQTT', 'STOMP', 'JSON']) {
      await page.getByRole('region', { name }).getByText('connected', { exact: true }).waitFor();
    }
    for (const by of ['MQTT', 'STOMP', 'JSON']) {
      const text = `said by ${by}: äöü`;
      await page.getByRole('radio', { name: by }).check({ force: true });
      await page.getByLabel('Message', { exact: true }).fill(text);
      await page.getByLabel('QoS').selectOption(by === 'JSON' ? '1' : '0');
      await page.getByRole('button', { name: 'Publish' }).click();
      for (const name of ['MQTT', 'STOMP', 'JSON']) {
        await page.getByRole('list', { name: `Messages by ${name}` }).getByText(text).waitFor();
      }
    }
    // The same in each protocol's own words.
    await page.getByRole('list', { name: 'Frames of STOMP' }).getByText('destination:/topic/try/hello').first().waitFor();
    await page.getByRole('list', { name: 'Frames of MQTT' }).getByText('PUBLISH try/hello QoS 0').first().waitFor();
    await page.getByRole('list', { name: 'Frames of JSON' }).getByText('"type":"message"').first().waitFor();
    // Another filter; what was subscribed to before comes no more.
    await page.getByLabel('All three subscribe to').fill('other/#');
    await page.getByRole('button', { name: 'Subscribe' }).click();
    await page.getByLabel('Topic', { exact: true }).fill('other/one');
    await page.getByLabel('Message', { exact: true }).fill('elsewhere');
    await page.getByRole('button', { name: 'Publish' }).click();
    for (const name of ['MQTT', 'STOMP', 'JSON']) {
      await page.getByRole('list', { name: `Messages by ${name}` }).getByText('elsewhere').waitFor();
    }
  });
};

cases.topics = async (origin) => {
  const client = new Polycast(`${origin.replace('http', 'ws')}/ws`, { WebSocket, clientId: 'dash' });
  await client.subscribe('house/+', () => {}).ready;
  await client.publish('house/1', { floors: 3, name: '<b>not markup</b>' }, { retain: true });
  await client.publish('house/2', new Uint8Array([1, 2, 255]), { retain: true });
  await client.publish('house/../1', 'another house', { retain: true });
  await opened(origin, async (page) => {
    await page.getByRole('link', { name: 'Topics' }).click();
    const listed = page.waitForResponse((response) => /house/.test(response.url()));
    await page.getByLabel('Topic or filter').fill('house/#');
    await listed;
    await page.waitForFunction(() => [...document.querySelectorAll('tbody th')].every((cell) => /^house/.test(cell.textContent)));
    // A list that comes while the mouse is down leaves what is pressed where it is.
    await page.getByRole('link', { name: 'house/1' }).hover();
    await page.mouse.down();
    await page.getByLabel('Topic or filter').evaluate((input) => {
      input.value = 'house/#';
      input.dispatchEvent(new Event('input'));
    });
    await page.waitForResponse((response) => response.url().includes('house'));
    await page.waitForTimeout(100);
    await page.mouse.up();
    await page.getByText('A message here reaches 1 session.').waitFor();
    const value = page.locator('pre.value');
    await value.getByText('"floors": 3').waitFor();
    await value.getByText('<b>not markup</b>').waitFor();
    // A name that an address would shorten is the name of no other topic.
    await page.getByRole('link', { name: 'house/../1' }).click();
    await value.getByText('another house').waitFor();
    await page.getByRole('link', { name: 'house/2' }).click();
    await value.getByText('01 02 ff').waitFor();
    await page.getByRole('button', { name: 'Remove…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.getByText('Removed.').waitFor();
    await page.getByText('None.').waitFor();
    await page.getByRole('radio', { name: 'Subscriptions' }).check({ force: true });
    await page.getByRole('row', { name: /house\/\+/ }).getByRole('link', { name: 'dash' }).waitFor();
  });
  await client.close();
};

/** All topics, retained or not; whom a message reaches, and why; groups; what happens on a topic, and to a client. */
cases.operations = async (origin) => {
  const url = `${origin.replace('http', 'ws')}/ws`;
  const client = new Polycast(url, { WebSocket, clientId: 'watcher' });
  await client.subscribe('plant/+/heat', () => {}).ready;
  await client.subscribe('plant/jobs', () => {}, { share: 'crew' }).ready;
  await client.publish('plant/1/heat', 20);
  await client.publish('plant/2/heat', 21, { retain: true });
  await opened(origin, async (page) => {
    await page.getByRole('link', { name: 'Topics' }).click();
    await page.getByRole('row', { name: 'plant/1/heat 1 no' }).waitFor();
    await page.getByRole('row', { name: 'plant/2/heat 1 yes' }).waitFor();
    await page.getByRole('radio', { name: 'Groups' }).check({ force: true });
    await page.getByRole('row', { name: /crew/ }).waitFor();
    await page.getByRole('radio', { name: 'All' }).check({ force: true });
    await page.getByRole('link', { name: 'plant/1/heat' }).click();
    const receivers = page.locator('.receivers');
    await receivers.getByText('delivered').waitFor();
    await receivers.getByText('plant/+/heat').waitFor();
    await page.getByText('As frames of JSON').click();
    await page.locator('pre', { hasText: '"topic":"plant/1/heat"' }).waitFor();
    await page.getByRole('button', { name: 'Follow' }).click();
    const trace = page.getByRole('list', { name: 'What happens' });
    for (const event of ['published', 'delivered']) {
      await repeated(() => client.publish('plant/1/heat', 22), trace.getByText(event, { exact: true }).first());
    }
    await page.getByRole('button', { name: 'Stop' }).click();
    await page.getByText('Stopped.').waitFor();
    // The same for the client.
    await receivers.getByRole('link', { name: 'watcher' }).click();
    await page.getByRole('heading', { name: 'watcher' }).waitFor();
    await page.getByRole('button', { name: 'Follow' }).click();
    await repeated(() => client.publish('plant/1/heat', 23), trace.getByText('delivered', { exact: true }).first());
  });
  await client.close();
};

/** Does something until it is seen: who follows says not when it has begun. */
async function repeated(act, seen) {
  for (let tries = 0; tries < 100; tries++) {
    await act();
    if (await seen.waitFor({ timeout: 200 }).then(() => true, () => false)) return;
  }
  await seen.waitFor({ timeout: 1 });
}

cases.phone = async (origin) => {
  for (const colorScheme of ['light', 'dark']) {
    await opened(origin, async (page) => {
      for (const view of VIEWS) {
        await page.goto(`${origin}/${view}`);
        await page.getByRole('heading', { level: 1 }).waitFor();
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(over, 0, `${view} is wider than the phone by ${over}`);
      }
    }, { ...PHONE, colorScheme });
  }
};

/** What a screen reader needs: one heading, a name for each control, one current view. */
cases.names = async (origin) => {
  await opened(origin, async (page) => {
    for (const view of VIEWS) {
      await page.goto(`${origin}/${view}`);
      await page.getByRole('heading', { level: 1 }).waitFor();
      assert.equal(await page.locator('h1').count(), 1, view);
      assert.equal(await page.locator('nav [aria-current=page]').count(), 1, view);
      const unnamed = await page.evaluate(() =>
        [...document.querySelectorAll('button, a, input, select, summary, [role=img]')]
          .filter((control) => !control.hidden && !control.closest('[hidden]'))
          .filter((control) => !(control.getAttribute('aria-label') || control.textContent.trim() || [...(control.labels ?? [])].some((label) => label.textContent.trim())))
          .map((control) => control.outerHTML));
      // A chart has its name with the first figures.
      assert.deepEqual(unnamed.filter((html) => !html.includes('class="mirror"')), [], view);
    }
    await page.goto(origin);
    await page.getByRole('img', { name: /Messages in the last/ }).waitFor();
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content');
    // The theme is asked for by a button, and kept.
    const theme = page.getByRole('button', { name: /Colours/ });
    await theme.click();
    await theme.click();
    assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme), 'dark');
    await page.reload();
    assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme), 'dark');
  });
};

cases.sign_in = async (origin, key) => {
  await opened(origin, async (page) => {
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await page.getByLabel('Token, API key or password').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').waitFor();
    await page.getByLabel('Token, API key or password').fill(key);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('heading', { name: 'Messages per second' }).waitFor();
    await page.getByText('healthy').waitFor();
    await page.reload();
    await page.getByText('healthy').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  });
};

/** A key that may see clients and no messages: the page goes on, and says what it may not. */
cases.sign_in_with_less = async (origin, key) => {
  await opened(origin, async (page) => {
    await page.getByLabel('Token, API key or password').fill(key);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('healthy').waitFor();
    await page.getByRole('link', { name: 'Topics' }).click();
    await page.getByRole('radio', { name: 'Retained' }).check({ force: true });
    await page.getByText('The list cannot be read: `looker` may not subscribe').waitFor();
    await page.getByRole('link', { name: 'Clients' }).click();
    await page.getByText('Nobody is connected.').waitFor();
  });
};

/** The console of a page that is signed in logs in with the same token, in all three protocols. */
cases.sign_in_with_a_token = async (origin, token) => {
  await opened(origin, async (page) => {
    await page.getByLabel('Token, API key or password').fill(token);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('healthy').waitFor();
    await page.getByRole('link', { name: 'Try it' }).click();
    for (const name of ['MQTT', 'STOMP', 'JSON']) {
      await page.getByRole('region', { name }).getByText('connected', { exact: true }).waitFor();
      assert.equal(await page.getByRole('list', { name: `Frames of ${name}` }).getByText(token).count(), 0);
    }
  });
};

/** Prints `kill` and `start`, and looks whether the page says what happens. */
cases.alarms = async (origin) => {
  await opened(origin, async (page) => {
    await page.getByText('healthy').waitFor();
    console.log('kill');
    await page.getByText('no answer', { exact: true }).waitFor();
    await page.getByRole('link', { name: 'Health' }).click();
    await page.getByText(/no answer for/).first().waitFor();
    console.log('start');
    await page.getByText('healthy').waitFor();
    await page.getByText('Broker: is over').waitFor();
  });
};

cases.fleet = async (origin) => {
  await withChromium({}, async (browser) => {
    const page = await browser.newPage();
    await page.goto(`${origin}/demo/fleet`);
    const van = page.getByRole('button', { name: 'van-003' });
    await van.click();
    await page.getByRole('heading', { name: 'van-003' }).waitFor();
    await page.locator('.van.driving').first().waitFor();
    await page.getByRole('button', { name: 'Stop' }).click();
    await page.locator('#about').getByText('stopped').waitFor();
    await page.getByRole('button', { name: 'Go', exact: true }).click();
    await page.locator('#about').getByText('driving').waitFor();
  });
};

cases.chat = async (origin) => {
  await withChromium({}, async (browser) => {
    const join = async (name) => {
      const page = await browser.newPage();
      await page.goto(`${origin}/demo/chat#tests`);
      await page.getByLabel('Your name').fill(name);
      await page.getByRole('button', { name: 'Join' }).click();
      await page.getByText(`connected as ${name}`).waitFor();
      return page;
    };
    const [ann, bob] = [await join('Ann'), await join('Bob')];
    for (const page of [ann, bob]) {
      for (const name of ['Ann', 'Bob']) await page.locator('#members').getByText(name).waitFor();
    }
    await ann.getByLabel('Message', { exact: true }).fill('Hello <b>Bob</b>');
    await ann.getByRole('button', { name: 'Send' }).click();
    await bob.locator('#log').getByText('Hello <b>Bob</b>').waitFor();
    await ann.locator('#log li.mine:not(.waiting)').waitFor();
    await ann.close({ runBeforeUnload: false });
    await bob.close();
  });
};

await main(cases, 60_000);
