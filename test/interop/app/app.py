"""The Celery application of the interop tests: its workers, its callers, and
the tasks that Weir's test worker knows by the same names."""

import os
import ssl
import time
import uuid

import redis
from celery import Celery
from kombu import Exchange, Queue

URL = os.environ["CELERY_BROKER_URL"]
CA = os.environ.get("INTEROP_CA")
PREFIX = os.environ.get("CELERY_GLOBAL_KEYPREFIX", "")

app = Celery("app", broker=URL, backend=URL)
app.conf.update(
    accept_content=["json"],
    task_track_started=True,
    result_extended=os.environ.get("INTEROP_EXTENDED") == "1",
    task_acks_late=os.environ.get("INTEROP_ACKS_LATE") == "1",
    worker_prefetch_multiplier=1,
    broker_transport_options={
        "visibility_timeout": float(os.environ.get("INTEROP_VISIBILITY", 3600)),
        "global_keyprefix": PREFIX,
    },
    result_backend_transport_options={"global_keyprefix": PREFIX},
)
if os.environ.get("INTEROP_TOPIC") == "1":
    app.conf.task_queues = [Queue("mail", Exchange("post", type="topic"), routing_key="post.#")]
if CA:
    verified = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": CA}
    app.conf.update(broker_use_ssl=verified, redis_backend_use_ssl=verified)


def store():
    return redis.Redis.from_url(URL, **({"ssl_ca_certs": CA} if CA else {}))




@app.task(name="py_only")
def py_only(x, y=0):
    """Is known to Python workers only."""
    return {"sum": x + y, "by": "python"}


@app.task(name="record")
def record(n, ms=0):
    """Notes that run n ended, and who ran it."""
    time.sleep(ms / 1000)
    store().sadd("interop:runs", f"{n}/python/{uuid.uuid4()}")
    return n


@app.task(name="hold")
def hold(n, seconds):
    """Notes that run n began, and takes a while."""
    store().sadd("interop:begun", f"{n}/python/{uuid.uuid4()}")
    time.sleep(seconds)
    store().sadd("interop:runs", f"{n}/python/{uuid.uuid4()}")
    return n


@app.task(name="handover", bind=True, max_retries=5)
def handover(self):
    """Asks for another try on the queue other: Weir's worker succeeds at it."""
    raise self.retry(countdown=0.2, queue="other", exc=RuntimeError("not here"))


@app.task(name="again", bind=True)
def again(self):
    """Lasts for ever, until it is delivered again: then says what it was told."""
    delivery = self.request.delivery_info
    if not delivery.get("redelivered"):
        store().sadd("interop:begun", f"0/python/{uuid.uuid4()}")
        time.sleep(300)
    return {"redelivered": delivery.get("redelivered")}


@app.task(name="traced", bind=True)
def traced(self):
    """Says of which trace it is, asking as OpenTelemetry's instrumentation does."""
    return {name: getattr(self.request, name, None) for name in ("traceparent", "tracestate")}
