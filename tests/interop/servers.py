"""Private servers for the comparisons that need them, stopped at the end."""
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

from common import QUALM, ROOT


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, done, seconds=30):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (found := done()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return None
    return True


class Running:
    """A nats-server with an MQTT listener, and `qualm serve` with some contracts."""

    def __init__(self, folder, contracts):
        self.folder = pathlib.Path(folder)
        self.nats_port, self.mqtt_port, self.http_port = free_port(), free_port(), free_port()
        (self.folder / "contracts").mkdir()
        for contract in contracts:
            shutil.copy(contract, self.folder / "contracts" / f"{contract.parent.name}-{contract.name}")
        config = self.folder / "nats.conf"
        config.write_text(
            f"server_name: interop\nhost: 127.0.0.1\nport: {self.nats_port}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.folder / 'js'))} }}\n"
            f"mqtt {{ host: 127.0.0.1, port: {self.mqtt_port} }}\n"
        )
        server = subprocess.check_output([ROOT / "scripts/find-nats-server"], text=True).strip()
        self.nats = subprocess.Popen([server, "-c", config], stderr=subprocess.DEVNULL)
        wait_for("nats-server", lambda: accepts(self.nats_port))
        wait_for("the MQTT listener", lambda: accepts(self.mqtt_port))
        self.log = open(self.folder / "qualm.log", "w")
        command = [
            QUALM, "serve", "--nats", f"nats://127.0.0.1:{self.nats_port}", "--contracts", self.folder / "contracts",
            "--database", f"sqlite:{self.folder / 'qualm.db'}", "--http", f"127.0.0.1:{self.http_port}",
            "--lateness", "1s",
        ]
        self.qualm = subprocess.Popen(command, stderr=self.log)
        wait_for("the service", lambda: accepts(self.http_port))

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return json.load(answer)

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def stop(self):
        for process in (self.qualm, self.nats):
            process.terminate()
            process.wait(timeout=30)
        self.log.close()


@contextlib.contextmanager
def running(*contracts):
    with tempfile.TemporaryDirectory() as folder:
        service = Running(folder, contracts)
        try:
            yield service
        finally:
            service.stop()
