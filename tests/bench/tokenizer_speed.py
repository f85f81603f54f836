#!/usr/bin/env python3
"""Megabytes of text per second, encoding and decoding: mocl's tokenizers against Hugging Face's, on one thread.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install transformers tokenizers sentencepiece protobuf
    /tmp/venv/bin/python tests/bench/tokenizer_speed.py ./mocl ../shared/data

3 MB of dialogues (HH-RLHF), as documents and as one text, with the vocabularies of the shared data: both sides read the
same tokenizer.json and must give the same ids. Time is CPU time of the process, the fastest of --rounds, each side in
processes of its own by turns; other users of the machine then count little. The peer is measured by every way of its
own (encode_batch_fast, encode_batch, encode; decode_batch, decode), and its fastest one counts.
"""
import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", HF_HUB_OFFLINE="1")
HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SIZE = 3_000_000


def read_documents(data):
    documents, n = [], 0
    for name in ("helpful-base", "harmless-base"):
        with gzip.open(os.path.join(data, "prefs/hh-rlhf/%s.test.jsonl.gz" % name), "rt") as f:
            for line in f:
                if n < SIZE:
                    documents.append(json.loads(line)["chosen"])
                    n += len(documents[-1].encode())
    return documents, n


def byte_level(data, vocab, merges, pattern):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    with open(os.path.join(data, vocab)) as f, open(os.path.join(data, merges), newline="") as g:
        rules = [tuple(line.split(" ")) for line in g.read().split("\n") if line and not line.startswith("#version")]
        tok = Tokenizer(models.BPE(vocab=json.load(f), merges=rules, ignore_merges=pattern is not None))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern:
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), tok.pre_tokenizer])
    tok.decoder = decoders.ByteLevel()
    return tok


def sentencepiece(data, folder):
    from transformers import AutoTokenizer
    with open(os.path.join(data, "tokenizers/llama2/tokenizer.model"), "rb") as f, open(folder + "/tokenizer.model", "wb") as g:
        g.write(f.read())
    with open(folder + "/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "LlamaTokenizer", "legacy": True}, f)
    tok = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    for name in os.listdir(folder):
        os.remove(os.path.join(folder, name))
    return tok


def make(data, base):
    """(title, folder with a tokenizer.json) of each"""
    from tokenizers import Tokenizer
    kinds = [("byte-level BPE, GPT-2", lambda _: byte_level(data, "tokenizers/gpt2/encoder.json", "tokenizers/gpt2/vocab.bpe", None)),
             ("byte-level BPE, Llama 3", lambda _: byte_level(data, "tokenizers/llama3/hf-style/encoder.json",
                                                              "tokenizers/llama3/hf-style/vocab.bpe", LLAMA3)),
             ("SentencePiece BPE, Llama 2", lambda folder: sentencepiece(data, folder)),
             ("WordPiece, BERT", lambda _: Tokenizer.from_file(os.path.join(data, "tokenizers/bert-base-uncased/tokenizer.json")))]
    for i, (title, build) in enumerate(kinds):
        folder = os.path.join(base, str(i))
        os.makedirs(folder)
        build(folder).save(folder + "/tokenizer.json")
        yield title, folder


def peer(folder, path, rounds):
    """What tokenizer_speed.lua prints, by the library."""
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(folder + "/tokenizer.json")
    with open(path) as f:
        documents = json.load(f)
    text = "".join(documents)

    def fastest(*ways):
        best = float("inf")
        for way in ways:
            for _ in range(rounds):
                start = time.process_time()
                way()
                best = min(best, time.process_time() - start)
        return best

    ids = [e.ids for e in tok.encode_batch(documents, add_special_tokens=False)]
    whole = tok.encode(text, add_special_tokens=False).ids
    total = 0
    for row in ids:
        for i, v in enumerate(row):
            total = (total * 31 + v + i + 1) % 2147483647
    print(json.dumps({
        "count": sum(map(len, ids)), "sum": total,
        "encode": fastest(lambda: tok.encode_batch_fast(documents, add_special_tokens=False),
                          lambda: tok.encode_batch(documents, add_special_tokens=False),
                          lambda: [tok.encode(d, add_special_tokens=False) for d in documents]),
        "encode_whole": fastest(lambda: tok.encode(text, add_special_tokens=False),
                                lambda: tok.encode_batch_fast([text], add_special_tokens=False)),
        "decode": fastest(lambda: tok.decode_batch(ids), lambda: [tok.decode(row) for row in ids]),
        "decode_whole": fastest(lambda: tok.decode(whole))}))


def measure(command):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=dict(os.environ, OMP_NUM_THREADS="1")).stdout
    return json.loads(out.decode().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mocl")
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.peer:
        return peer(o.peer[0], o.peer[1], o.rounds)
    with tempfile.TemporaryDirectory() as base:
        documents, n = read_documents(o.data)
        path = os.path.join(base, "documents.json")
        with open(path, "w") as f:
            json.dump(documents, f, ensure_ascii=False)
        print("%.2f MB, %d documents; MB per CPU second, mocl | peer | times\n" % (n / 1e6, len(documents)))
        print("| tokenizer | encode documents | encode one text | decode documents | decode one text |\n|---|---|---|---|---|")
        for title, folder in make(o.data, base):
            theirs = measure([sys.executable, __file__, o.mocl, o.data, "--rounds", str(o.rounds), "--peer", folder, path])
            ours = measure([o.mocl, os.path.join(HERE, "tokenizer_speed.lua"), folder, path, str(o.rounds)])
            if (ours["count"], ours["sum"]) != (theirs["count"], theirs["sum"]):
                sys.exit("%s: other ids than the peer's" % title)
            cells = ["%.1f \\| %.2f \\| %.1fx" % (n / 1e6 / ours[k], n / 1e6 / theirs[k], theirs[k] / ours[k])
                     for k in ("encode", "encode_whole", "decode", "decode_whole")]
            print("| " + " | ".join([title] + cells) + " |", flush=True)


main()
