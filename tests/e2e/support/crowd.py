"""Many MQTT clients at once: `python -m support.crowd PORT COUNT` connects them and says `ready`.

They subscribe and publish a little, each in its turn, until the standard input ends.
"""

import asyncio
import sys

from . import mqtt

AT_ONCE = 200
EVERY = 0.02


async def join(port: int, number: int, turns: asyncio.Semaphore):
    """One client: connected, with a subscription."""
    kind = ("sensor", "meter", "tracker", "display")[number % 4]
    async with turns:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(mqtt.connect(f"{kind}-{number:05}", keep_alive=0))
        writer.write(mqtt.subscribe(1, [(f"site/{number % 100}/{kind}/{number}/set", 0), (f"site/{number % 100}/all", 1)]))
        await reader.readexactly(4)
    asyncio.get_running_loop().create_task(drain(reader))
    return kind, number, writer


async def drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


async def main(port: int, count: int) -> None:
    turns = asyncio.Semaphore(AT_ONCE)
    crowd = await asyncio.gather(*(join(port, number, turns) for number in range(count)))
    print("ready", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    turn = 0
    while not ended.done():
        for _ in range(5):
            kind, number, writer = crowd[(turn * 7919) % count]
            body = f'{{"celsius":{20 + turn % 50 / 10}}}'
            writer.write(mqtt.publish(f"site/{number % 100}/{kind}/{number}", body, retain=turn % 10 == 0))
            turn += 1
        await asyncio.sleep(EVERY)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
