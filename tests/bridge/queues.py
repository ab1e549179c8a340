"""A small SQS with one queue, for many messages: moto looks through all of a FIFO queue for each message."""

import collections
import time
import uuid

from wire import Service


class Sqs(Service):
    """Visibility, receipts that expire, groups in order, deduplication."""

    name = "sqs"

    def __init__(self, fifo: bool):
        self.fifo = fifo
        self.groups: dict[str, collections.deque] = collections.defaultdict(collections.deque)
        self.known: set[str] = set()
        self.received: dict[str, tuple[dict, str]] = {}
        self.extended = 0
        """How often a message was hidden for longer."""
        super().__init__()

    def SendMessageBatch(self, body):
        done = []
        for entry in body["Entries"]:
            key = entry.get("MessageDeduplicationId") or uuid.uuid4().hex
            if key not in self.known:
                self.known.add(key)
                group = entry.get("MessageGroupId") or uuid.uuid4().hex
                message = {"id": uuid.uuid4().hex, "body": entry["MessageBody"], "group": group, "from": 0.0, "times": 0}
                message["sent"] = int(time.time() * 1000)
                self.groups[group].append(message)
            done.append({"Id": entry["Id"], "MessageId": key, "MD5OfMessageBody": ""})
        self.lock.notify_all()
        return {"Successful": done, "Failed": []}

    def ReceiveMessage(self, body):
        until = time.monotonic() + body.get("WaitTimeSeconds", 0)
        while not (taken := self._take(body["MaxNumberOfMessages"], body["VisibilityTimeout"])):
            rest = until - time.monotonic()
            if rest <= 0:
                return {}
            self.lock.wait(min(rest, 0.2))
        return {"Messages": taken}

    def _take(self, most: int, visibility: float) -> list[dict]:
        taken, now = [], time.monotonic()
        for group in list(self.groups.values()):
            # A message that is invisible hides those behind it; of a standard queue each is a group of its own.
            for message in list(group):
                if message["from"] > now or len(taken) == most:
                    break
                taken.append(self._receive(message, now + visibility))
            if len(taken) == most:
                break
        return taken

    def _receive(self, message: dict, visible_from: float) -> dict:
        receipt = uuid.uuid4().hex
        message |= {"from": visible_from, "times": message["times"] + 1, "receipt": receipt}
        self.received[receipt] = (message, message["group"])
        attributes = {"SentTimestamp": str(message["sent"]), "ApproximateReceiveCount": str(message["times"])}
        if self.fifo:
            attributes["MessageGroupId"] = message["group"]
        return {"MessageId": message["id"], "ReceiptHandle": receipt, "Body": message["body"], "Attributes": attributes}

    def _each(self, body, act):
        done, failed = [], []
        for entry in body["Entries"]:
            found = self.received.get(entry["ReceiptHandle"])
            if found and found[0]["receipt"] == entry["ReceiptHandle"]:
                act(entry, *found)
                done.append({"Id": entry["Id"]})
            else:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
        self.lock.notify_all()
        return {"Successful": done, "Failed": failed}

    def DeleteMessageBatch(self, body):
        return self._each(body, self._delete)

    def _delete(self, entry, message, group):
        del self.received[entry["ReceiptHandle"]]
        self.groups[group].remove(message)
        if not self.groups[group]:
            del self.groups[group]

    def ChangeMessageVisibilityBatch(self, body):
        def change(entry, message, _group):
            message["from"] = time.monotonic() + entry["VisibilityTimeout"]
            self.extended += entry["VisibilityTimeout"] > 0

        return self._each(body, change)
