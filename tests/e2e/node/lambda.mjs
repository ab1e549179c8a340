// Runs Lambda handlers in one process: a call a line on the standard input, an answer a line on the output.
// Handlers are imported from the folder that the command line names; packages are found from here.

import { register } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const here = JSON.stringify(import.meta.url);
register(`data:text/javascript,${encodeURIComponent(`
  export async function resolve(name, context, next) {
    return next(name, /^[./]|:/.test(name) ? context : { ...context, parentURL: ${here} });
  }
`)}`);

const folder = process.argv[2];
for await (const line of createInterface({ input: process.stdin })) {
  const { name, event } = JSON.parse(line);
  let answer;
  try {
    const { handler } = await import(pathToFileURL(join(folder, `${name}.mjs`)));
    answer = { value: (await handler(event, {})) ?? null };
  } catch (error) {
    answer = { failure: { errorMessage: error.message, errorType: error.name, trace: String(error.stack).split('\n') } };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
