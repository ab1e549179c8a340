import table


def handler(event, context):
    table.put_item(event["requestContext"]["connectionId"])
    return {"statusCode": 200, "body": "Connected."}
