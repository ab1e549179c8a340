import json

import boto3
import table


def handler(event, context):
    domain = event["requestContext"]["domainName"]
    stage = event["requestContext"]["stage"]
    management = boto3.client("apigatewaymanagementapi", endpoint_url=f"https://{domain}/{stage}")
    data = json.loads(event["body"])["data"]
    for connection_id in table.scan():
        try:
            management.post_to_connection(ConnectionId=connection_id, Data=data.encode())
        except management.exceptions.GoneException:
            table.delete_item(connection_id)
    return {"statusCode": 200, "body": "Data sent."}
