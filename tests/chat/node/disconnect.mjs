import { deleteItem } from './table.mjs';

export const handler = async (event) => {
  await deleteItem(event.requestContext.connectionId);
  return { statusCode: 200, body: 'Disconnected.' };
};
