"""Receives webhooks and checks their signatures with the `standardwebhooks` library.

usage: webhook_receiver.py PORT LOG SECRET

Appends a JSON object a line to LOG for each request.
"""
import hashlib
import http.server
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

port, log, secret = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = Webhook(secret).verify(body, {name.lower(): value for name, value in self.headers.items()})
            verified = True
        except WebhookVerificationError:
            event, verified = json.loads(body), False
        with open(log, "a") as out:
            out.write(json.dumps({
                "id": self.headers["webhook-id"], "verified": verified, "type": event["type"],
                "violation": event["data"]["id"], "state": event["data"]["state"],
                "body": hashlib.sha256(body).hexdigest(),
            }) + "\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
