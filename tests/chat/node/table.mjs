// The table of connections: put, delete, scan, as the guides use DynamoDB.

import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = () => process.env.CONNECTIONS_TABLE;
const file = (id) => join(folder(), encodeURIComponent(id));

export async function putItem(connectionId) {
  mkdirSync(folder(), { recursive: true });
  writeFileSync(file(connectionId), '');
}

export async function deleteItem(connectionId) {
  rmSync(file(connectionId), { force: true });
}

export async function scan() {
  return existsSync(folder()) ? readdirSync(folder()).map(decodeURIComponent).sort() : [];
}
