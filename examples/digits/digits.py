"""A classifier of handwritten digits that reports to Qualm and retrains when asked to.

usage: digits.py nats://HOST:PORT [--seconds N] [--shift-at N]

Trains on half of scikit-learn's bundled digits, then serves a hundred images a second from the other
half and reports every prediction; the true labels follow four seconds later. After a while the images
are rotated and noisy. Qualm, with contract.yaml, sees the input drift at once and the accuracy
fall when the labels come, and sends `retrain`; the service then learns from the labels of the
newest images, answers the outcome, and the violations resolve. Ends once they have.

Needs the packages scikit-learn, scipy and nats-py.
"""
import argparse
import asyncio
import datetime
import json

import nats
import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

RATE = 100
LABEL_DELAY_SECONDS = 4
#: Newest labelled images that a retraining learns from, at least.
LEARNED_MIN = 500


class Service:
    def __init__(self, client, arguments):
        self.client, self.arguments = client, arguments
        self.random = np.random.default_rng(7)
        digits = load_digits()
        order = self.random.permutation(len(digits.target))
        half = len(order) // 2
        self.images, self.labels = digits.images[order[half:]], digits.target[order[half:]]
        self.model = train(digits.images[order[:half]], digits.target[order[:half]])
        self.started = asyncio.get_running_loop().time()
        self.labelled, self.open, self.opened, self.done = [], set(), 0, asyncio.Event()
        self.retraining = None

    def say(self, word, text):
        print(f"{self.age():5.1f} s  {word:10} {text}", flush=True)

    def age(self):
        return asyncio.get_running_loop().time() - self.started

    async def report(self, stage, body):
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        body = {"time": now, "application": "digits", "stage": stage, "instance": f"{stage}-0", **body}
        await self.client.publish(f"qoa.reports.default.digits.{stage}", json.dumps(body).encode())

    async def serve(self):
        """A batch of ten images each tenth of a second."""
        number, shifted = 0, False
        while not self.done.is_set() and self.age() < self.arguments.seconds:
            if not shifted and self.age() >= self.arguments.shift_at:
                shifted = True
                self.say("shift", "images are rotated by 35 degrees and noisy from now on")
            for _ in range(RATE // 10):
                pick = self.random.integers(len(self.images))
                image, label = self.images[pick], int(self.labels[pick])
                if shifted:
                    image = ndimage.rotate(image, 35, reshape=False, order=1) + self.random.normal(0, 1.5, image.shape)
                    image = np.clip(image, 0, 16)
                scores = self.model.predict_proba(image.reshape(1, -1))[0]
                prediction = {str(digit): round(float(score), 6) for digit, score in enumerate(scores)}
                metrics = {"data.ink": float(image.mean()), "ml.confidence": float(scores.max())}
                await self.report("inference", {
                    "id": f"i-{number}", "metrics": metrics, "inference": {"id": f"i-{number}", "prediction": prediction},
                })
                asyncio.get_running_loop().call_later(LABEL_DELAY_SECONDS, self.label, number, image, label)
                number += 1
            await asyncio.sleep(0.1)

    def label(self, number, image, label):
        """The truth has come: it is reported, and kept to learn from."""
        self.labelled.append((image, label))
        feedback = {"id": f"f-{number}", "feedback": [{"inference": f"i-{number}", "label": str(label)}]}
        asyncio.ensure_future(self.report("consumer", feedback))

    async def on_action(self, message):
        action = json.loads(message.data)["data"]
        self.say("action", f"{action['kind']} {json.dumps(action['params'])} because of {action['objective']}")
        self.retraining = asyncio.ensure_future(self.retrain(action["id"]))

    async def retrain(self, action):
        outcome = f"qoa.outcomes.{action}"
        await self.client.publish(outcome, b'{"state": "running"}')
        # What was labelled when the accuracy fell is partly of before: learn from what comes now.
        first = len(self.labelled)
        while len(self.labelled) < first + LEARNED_MIN:
            await asyncio.sleep(0.1)
        newest = self.labelled[first:]
        images, labels = np.array([image for image, _ in newest]), np.array([label for _, label in newest])
        self.model = await asyncio.to_thread(train, images, labels)
        message = f"retrained on the newest {len(newest)} labelled images"
        await self.client.publish(outcome, json.dumps({"state": "succeeded", "message": message}).encode())
        self.say("done", message)

    async def on_violation(self, message):
        event = json.loads(message.data)
        violation = event["data"]
        word = "resolved" if violation["state"] == "resolved" else "violation"
        self.say(word, f"{violation['objective']}: {violation['message']}")
        if word == "violation":
            self.open.add(violation["id"])
            self.opened += 1
        else:
            self.open.discard(violation["id"])
            retrained = self.retraining is not None and self.retraining.done()
            if retrained and not self.open and self.opened >= 2:
                self.done.set()


def train(images, labels):
    return LogisticRegression(C=0.01, max_iter=1000).fit(images.reshape(len(images), -1), labels)


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=90, help="end after so long at the latest")
    parser.add_argument("--shift-at", type=float, default=18, help="when the input shifts")
    arguments = parser.parse_args()
    client = await nats.connect(arguments.address)
    service = Service(client, arguments)
    await client.subscribe("qoa.actions.default.digits.retrain", cb=service.on_action)
    await client.subscribe("qoa.violations.default.digits.digits", cb=service.on_violation)
    service.say("start", "the model is trained; its input is as usual")
    await service.serve()
    await client.drain()
    print("all violations have resolved" if service.done.is_set() else "time is over", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
