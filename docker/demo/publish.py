"""Sends orders to an SQS queue, as a function would: nothing here knows of the broker.

    python publish.py --endpoint http://localhost:5000 --queue orders --every 1

With --count 0 it only makes the queue.
"""

import argparse
import itertools
import json
import random
import time

import boto3
from botocore.config import Config

CUSTOMERS = ("ada", "grace", "linus", "margaret")


def main():
    arguments = argparse.ArgumentParser(description="Sends orders to an SQS queue.")
    arguments.add_argument("--endpoint", required=True, help="URL of the SQS server")
    arguments.add_argument("--queue", default="orders")
    arguments.add_argument("--every", type=float, default=1.0, help="seconds between two orders")
    arguments.add_argument("--count", type=int, help="how many; without it, for ever")
    given = arguments.parse_args()
    patient = Config(retries={"max_attempts": 10, "mode": "standard"})
    sqs = boto3.client("sqs", endpoint_url=given.endpoint, region_name="us-east-1", config=patient)
    url = sqs.create_queue(QueueName=given.queue)["QueueUrl"]
    for number in itertools.count(1) if given.count is None else range(1, given.count + 1):
        order = {"customer": random.choice(CUSTOMERS), "number": number, "total": random.randint(5, 500)}
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps(order))
        print(f"order {number} of {order['customer']}", flush=True)
        time.sleep(given.every)


if __name__ == "__main__":
    main()
