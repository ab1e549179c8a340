import { putItem } from './table.mjs';

export const handler = async (event) => {
  await putItem(event.requestContext.connectionId);
  return { statusCode: 200, body: 'Connected.' };
};
