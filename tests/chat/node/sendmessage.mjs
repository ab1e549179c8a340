import { ApiGatewayManagementApiClient, PostToConnectionCommand } from '@aws-sdk/client-apigatewaymanagementapi';
import { deleteItem, scan } from './table.mjs';

export const handler = async (event) => {
  const { domainName, stage } = event.requestContext;
  const client = new ApiGatewayManagementApiClient({ endpoint: `https://${domainName}/${stage}` });
  const postData = JSON.parse(event.body).data;
  const postCalls = (await scan()).map(async (connectionId) => {
    try {
      await client.send(new PostToConnectionCommand({ ConnectionId: connectionId, Data: postData }));
    } catch (e) {
      if (e.statusCode === 410 || e.$metadata?.httpStatusCode === 410 || e.name === 'GoneException') {
        await deleteItem(connectionId);
      } else {
        throw e;
      }
    }
  });
  await Promise.all(postCalls);
  return { statusCode: 200, body: 'Data sent.' };
};
