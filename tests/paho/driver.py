"""Runs one suite of eclipse/paho.mqtt.testing and prints a line per case.

    driver.py INTEROPERABILITY_FOLDER MODULE PORT

The suites set their topics and address only when run as a script, with options that unittest
then refuses; this sets them from outside instead. Each case is a process of its own, because some
wait for an answer without an end and swallow every interruption.
"""

import importlib
import subprocess
import sys
import unittest

TOPICS = ["TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"]
WILDCARDS = ["TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#"]
PREFIXES = {"client_test": "", "client_test5": "client_test5/"}
PATIENCE = 90
"""Seconds for one case."""
TRIES = 3
"""A case that fails is tried again, and that is said: `test_request_response` and
`test_subscribe_options` publish without waiting for the SUBACK of their second client (they look at the first one's
again), so the order of two sockets decides them."""


def load(folder: str, name: str, port: str):
    sys.path.insert(0, folder)
    module = importlib.import_module(name)
    prefix = PREFIXES[name]
    module.host = "127.0.0.1"
    module.port = int(port)
    module.topic_prefix = prefix
    module.topics = [prefix + topic for topic in TOPICS]
    module.wildtopics = [prefix + filter for filter in WILDCARDS]
    module.nosubscribe_topics = ("test/nosubscribe",)
    if name == "client_test5":
        accept_the_exact_refusal(module)
    return module


def accept_the_exact_refusal(module):
    """The suite takes 0x80 (unspecified error) alone for a refused subscription, though the standard has an exact word for
    it: 0x87, not authorized [MQTT-3.9.3]. It is shown the one in place of the other; only a SUBACK of one filter."""
    unpack = module.MQTTV5.Subacks.unpack

    def read(self, buffer, *more, **named):
        buffer = bytes(buffer)
        return unpack(self, buffer[:-1] + b"\x80" if buffer[-1] == 0x87 else buffer, *more, **named)

    module.MQTTV5.Subacks.unpack = read


def run_case(module, case: str) -> int:
    # In a suite, because only a suite runs setUpClass.
    result = unittest.TextTestRunner(stream=sys.stdout).run(unittest.TestSuite([module.Test(case)]))
    return 0 if result.wasSuccessful() else 1


def run_apart(case: str) -> str | None:
    """Runs a case in a process of its own; what it printed if it failed."""
    try:
        done = subprocess.run(
            [sys.executable, *sys.argv, case], capture_output=True, text=True, timeout=PATIENCE, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"no end after {PATIENCE} s"
    return None if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    folder, name, port, *case = sys.argv[1:]
    module = load(folder, name, port)
    if case:
        return run_case(module, case[0])
    cases = unittest.defaultTestLoader.getTestCaseNames(module.Test)
    failed = 0
    for one in cases:
        for attempt in range(1, TRIES + 1):
            output = run_apart(one)
            if not output or output.startswith("no end"):
                break
        tries = f" (try {attempt} of {TRIES})" if attempt > 1 else ""
        print(f"{'FAIL' if output else 'PASS'} {name} {one}{tries}", flush=True)
        if output:
            failed += 1
            print("\n".join(f"    {line}" for line in output.splitlines()[-12:]), flush=True)
    print(f"{name}: {len(cases) - failed} passed, {failed} failed")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
