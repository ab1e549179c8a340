import table


def handler(event, context):
    table.delete_item(event["requestContext"]["connectionId"])
    return {"statusCode": 200, "body": "Disconnected."}
