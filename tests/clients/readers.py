"""readers.py - reads the files of a run that was killed and went on: see readers.sh."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request

RUN = "build/readers/run"
WORDS = ["./mocl", "recipes/moc_hh.lua", "preset=smoke", "moc.iterations=12", "moc.save_every=4", "quiet=true", "tensorboard=true", "out=" + RUN]
failed = 0


def test(name, f):
    global failed
    try:
        f()
        print("ok  ", name)
    except Exception as e:  # whatever a reader raises is a finding
        failed += 1
        print("FAIL", name, "-", type(e).__name__, str(e)[:500])


def rows(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def train():
    """Kills the run with points behind its last checkpoint, and goes on."""
    shutil.rmtree(RUN, ignore_errors=True)
    p = subprocess.Popen(WORDS, stdout=subprocess.DEVNULL)
    while p.poll() is None:
        path = RUN + "/metrics/moc.jsonl"
        if os.path.exists(path) and len(rows_or_none(path) or []) >= 7:
            p.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    p.wait()
    before = len(os.listdir(RUN + "/tensorboard/moc"))
    subprocess.run(WORDS + ["resume=auto"], stdout=subprocess.DEVNULL, check=True)
    after = os.listdir(RUN + "/tensorboard/moc")
    print("     killed with status %s; event files of moc: %d, then %d" % (p.returncode, before, len(after)))
    whole = rows(RUN + "/metrics.jsonl")
    for stage in {r["stage"] for r in whole}:
        assert rows("%s/metrics/%s.jsonl" % (RUN, stage)) == [r for r in whole if r["stage"] == stage], stage


def rows_or_none(path):
    try:
        return rows(path)
    except ValueError:  # half a row
        return None


def float32(v):
    return struct.unpack("f", struct.pack("f", v))[0]


def tensorboard(fast):
    def get(path):
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            return json.load(answer)

    log = open("build/readers/tensorboard.log", "w+")
    p = subprocess.Popen([sys.executable, "-m", "tensorboard.main", "--logdir", RUN + "/tensorboard", "--port", "0", "--host", "127.0.0.1",
                          "--load_fast", "true" if fast else "false", "--samples_per_plugin", "scalars=100000"],
                         stdout=log, stderr=log)
    try:
        for _ in range(600):
            log.seek(0)
            text = log.read()
            if "http://" in text:
                break
            time.sleep(0.1)
        base = "http://" + text.split("http://")[1].split()[0].rstrip("/")
        want = rows(RUN + "/metrics/moc.jsonl")
        for _ in range(300):
            tags = get("/data/plugin/scalars/tags")
            key = "objective/kl"
            query = urllib.parse.urlencode({"run": "moc", "tag": key})
            if key in tags.get("moc", {}):
                points = get("/data/plugin/scalars/scalars?" + query)
                if len(points) == len(want) or points and points[-1][1] == want[-1]["step"]:
                    break
            time.sleep(0.1)
        runs = {r["stage"] for r in rows(RUN + "/metrics.jsonl")}
        assert set(tags) == runs, (set(tags), runs)
        for stage in runs:
            want = rows("%s/metrics/%s.jsonl" % (RUN, stage))
            keys = {k for k in want[0] if k not in ("stage", "step")}
            assert set(tags[stage]) == keys, (stage, set(tags[stage]) ^ keys)
            for key in keys:
                points = get("/data/plugin/scalars/scalars?" + urllib.parse.urlencode({"run": stage, "tag": key}))
                assert [p[1] for p in points] == [r["step"] for r in want], (stage, key, [p[1] for p in points])
                assert [float32(p[2]) for p in points] == [float32(r[key]) for r in want], (stage, key)
    finally:
        p.terminate()
        p.wait()


def tables():
    import duckdb
    import pandas
    import polars

    for stage in {r["stage"] for r in rows(RUN + "/metrics.jsonl")}:
        path = "%s/metrics/%s.jsonl" % (RUN, stage)
        want = rows(path)
        keys = set(want[0])
        read = {
            "pandas": pandas.read_json(path, lines=True, precise_float=True).to_dict("records"),
            "polars": polars.read_ndjson(path).to_dicts(),
            "duckdb": duckdb.sql("select * from read_json('%s')" % path).df().to_dict("records"),
        }
        for name, got in read.items():
            assert len(got) == len(want) and set(got[0]) == keys, (name, stage, set(got[0]) ^ keys)
            for a, b in zip(got, want):
                assert all(a[k] == b[k] for k in keys), (name, stage, a, b)


test("a run that was killed and goes on has a file for each stage, as metrics.jsonl has its rows", train)
test("TensorBoard's default loader shows each point once", lambda: tensorboard(True))
test("TensorBoard's other loader, which checks the CRC of data, shows the same", lambda: tensorboard(False))
test("pandas, polars and duckdb read each stage's file with their defaults, exactly", tables)
sys.exit(1 if failed else 0)
