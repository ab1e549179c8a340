"""A small Kinesis that keeps the rules of the real one where moto does not: a shard that was split or merged is closed
and keeps its records, its iterator ends there, iterators expire, and calls of a shard are throttled."""

import hashlib
import time
import uuid

from wire import Refusal, Service

HASHES = 2**128


class Kinesis(Service):
    """One stream, driven by boto3 or the bridge over HTTP."""

    name = "kinesis"

    def __init__(self, shards: int = 2, iterator_secs: float = 300, calls_per_second: float = 0):
        self.iterator_secs, self.calls_per_second = iterator_secs, calls_per_second
        self.shards: list[dict] = []
        self.iterators: dict[str, tuple[dict, int, float]] = {}
        self.sequence = 49_500_000_000_000_000_000_000_000_000_000_000_000
        self.counts = {"expired": 0, "throttled": 0}
        width = HASHES // shards
        for number in range(shards):
            self._add(number * width, HASHES - 1 if number == shards - 1 else (number + 1) * width - 1)
        super().__init__()

    def _add(self, first: int, last: int, *parents: str) -> None:
        number = len(self.shards)
        shard = {"id": f"shardId-{number:012}", "range": (first, last), "parents": parents, "records": [], "end": None}
        self.shards.append(shard)

    def _shard(self, name: str) -> dict:
        return next(shard for shard in self.shards if shard["id"] == name)

    def _next(self) -> str:
        self.sequence += 7
        return str(self.sequence)

    def _put(self, key: str, data: str) -> dict:
        place = int.from_bytes(hashlib.md5(key.encode()).digest())
        shard = next(s for s in self.shards if s["end"] is None and s["range"][0] <= place <= s["range"][1])
        sequence = self._next()
        shard["records"].append(
            {"SequenceNumber": sequence, "PartitionKey": key, "Data": data, "ApproximateArrivalTimestamp": time.time()}
        )
        return {"ShardId": shard["id"], "SequenceNumber": sequence}

    def PutRecords(self, body):
        return {"FailedRecordCount": 0, "Records": [self._put(one["PartitionKey"], one["Data"]) for one in body["Records"]]}

    def SplitShard(self, body):
        shard = self._shard(body["ShardToSplit"])
        middle, (first, last) = int(body["NewStartingHashKey"]), shard["range"]
        shard["end"] = self._next()
        self._add(first, middle - 1, shard["id"])
        self._add(middle, last, shard["id"])
        return {}

    def MergeShards(self, body):
        one, other = (self._shard(body[name]) for name in ("ShardToMerge", "AdjacentShardToMerge"))
        assert one["end"] is None and other["end"] is None and one["range"][1] + 1 == other["range"][0]
        one["end"], other["end"] = self._next(), self._next()
        self._add(one["range"][0], other["range"][1], one["id"], other["id"])
        return {}

    def ListShards(self, body):
        """Two on a page."""
        start = int(body.get("NextToken", 0))
        found = []
        for shard in self.shards[start : start + 2]:
            shown = {"ShardId": shard["id"], "SequenceNumberRange": {"StartingSequenceNumber": "1"}}
            if shard["end"]:
                shown["SequenceNumberRange"]["EndingSequenceNumber"] = shard["end"]
            shown |= dict(zip(("ParentShardId", "AdjacentParentShardId"), shard["parents"]))
            found.append(shown)
        more = {"NextToken": str(start + 2)} if start + 2 < len(self.shards) else {}
        return {"Shards": found} | more

    def GetShardIterator(self, body):
        shard = self._shard(body["ShardId"])
        records, at = shard["records"], 0
        match body["ShardIteratorType"]:
            case "AFTER_SEQUENCE_NUMBER":
                after = int(body["StartingSequenceNumber"])
                at = sum(1 for record in records if int(record["SequenceNumber"]) <= after)
            case "AT_TIMESTAMP":
                at = sum(1 for record in records if record["ApproximateArrivalTimestamp"] < body["Timestamp"])
        return {"ShardIterator": self._iterator(shard, at)}

    def _iterator(self, shard: dict, at: int) -> str:
        name = uuid.uuid4().hex
        self.iterators[name] = (shard, at, time.monotonic() + self.iterator_secs)
        return name

    def GetRecords(self, body):
        shard, at, until = self.iterators[body["ShardIterator"]]
        now = time.monotonic()
        if now > until:
            self.counts["expired"] += 1
            raise Refusal("ExpiredIteratorException")
        if self.calls_per_second and now - shard.get("called", 0) < 1 / self.calls_per_second:
            self.counts["throttled"] += 1
            raise Refusal("com.amazonaws.kinesis#ProvisionedThroughputExceededException")
        shard["called"] = now
        records = shard["records"][at : at + body["Limit"]]
        at += len(records)
        rest = shard["records"][at:]
        answer = {"Records": records, "MillisBehindLatest": 0}
        if rest:
            answer["MillisBehindLatest"] = 1 + int((time.time() - rest[0]["ApproximateArrivalTimestamp"]) * 1000)
        if rest or not shard["end"]:
            answer["NextShardIterator"] = self._iterator(shard, at)
        return answer
