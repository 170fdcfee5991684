"""Prints generated reports of the smart building, with all that recordings have and more: reports
out of order, reports that come too late, duplicates, gaps, ties in time, missing labels.

usage: generate.py SEED COUNT
"""
import datetime
import json
import random
import sys


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    start = datetime.datetime(2026, 3, 1, 11, 59, 50, tzinfo=datetime.timezone.utc)
    devices = ["jetson_nano", "hp_z240", "beelinkbt3"]
    now = 0.0
    sent = []
    waiting = []
    for number in range(count):
        now += rng.expovariate(20) if rng.random() > 0.002 else rng.uniform(20, 90)
        time = now - (rng.uniform(0, 4) if rng.random() < 0.2 else rng.uniform(6, 60) if rng.random() < 0.01 else 0)
        moment = start + datetime.timedelta(microseconds=round(max(time, 0) * 1e6 // 1000 * 1000))
        stage = rng.choice(["inference", "inference", "aggregation"])
        labels = {"device": rng.choice(devices), "modality": rng.choice(["video", "timeseries"])}
        if rng.random() < 0.05:
            labels.pop("device")
        slow = rng.lognormvariate(-3.5, 1.1)
        metrics = {"ml.confidence": round(rng.betavariate(5, 4), 6)}
        if stage == "inference":
            metrics["service.response_time"] = slow if rng.random() < 0.9 else round(slow, 2)
        else:
            metrics |= {"service.late": rng.random() < 0.05, "service.remaining_time": rng.uniform(-0.2, 1)}
        report = {
            "id": f"g-{number}", "time": moment.isoformat().replace("+00:00", "Z"), "application": "smart_building",
            "stage": stage, "instance": f"{stage}-{rng.randrange(3)}", "labels": labels, "metrics": metrics,
        }
        if stage == "aggregation":
            truth = rng.choice(["sitting", "walking", "waving"])
            predicted = truth if rng.random() < 0.6 else rng.choice(["sitting", "walking", "waving"])
            report["inference"] = {"id": f"i-{number}", "prediction": predicted}
            waiting.append((number + rng.randrange(-5, 60), number, truth))
        sent.append(report)
        print(json.dumps(report))
        # Feedback: mostly some time after its inference, for some before, for some never.
        for due in [entry for entry in waiting if entry[0] <= number]:
            waiting.remove(due)
            if rng.random() < 0.8:
                print(json.dumps({
                    "id": f"f-{due[1]}", "time": moment.isoformat().replace("+00:00", "Z"), "application": "smart_building",
                    "stage": "consumer", "instance": "consumer-0", "feedback": [{"inference": f"i-{due[1]}", "label": due[2]}],
                }))
        if rng.random() < 0.03:
            print(json.dumps(rng.choice(sent[-50:])))


if __name__ == "__main__":
    main()
