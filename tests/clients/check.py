"""check.py URL CLIENT LOG - one client against a server of mocl serve: openai3, openai1, langchain or llm. LOG is what the server
writes on its answers."""

import os
import subprocess
import sys
import time

URL, CLIENT, LOG = sys.argv[1:]
MESSAGES = [{"role": "user", "content": "how do i knit a scarf?"}]
failed = 0


def test(name, f):
    global failed
    try:
        f()
        print("ok  ", name)
    except Exception as e:  # whatever a client raises is a finding
        failed += 1
        print("FAIL", name, "-", type(e).__name__, str(e)[:500])


def log_has(text, seconds=20):
    until = time.time() + seconds
    while time.time() < until:
        if text in open(LOG).read():
            return True
        time.sleep(0.05)
    return False


def openai_tests():
    import gc

    import openai

    print("openai", openai.__version__)
    client = openai.OpenAI(base_url=URL, api_key="none")
    ask = client.chat.completions.create

    def models():
        ids = [m.id for m in client.models.list()]
        assert "mocl" in ids and "mocl:humor=0.7" in ids, ids
        assert client.models.retrieve("mocl:humor=0.7").id == "mocl:humor=0.7"

    def whole():
        a = ask(model="mocl", messages=MESSAGES, seed=5, extra_body={"preference": {"humor": 0.9}, "rewards": True})
        assert a.object == "chat.completion" and a.choices[0].message.role == "assistant"
        assert a.choices[0].finish_reason in ("stop", "length") and a.usage.total_tokens > 0
        assert abs(a.preference["humor"] - 0.9) < 1e-9 and set(a.rewards[0]) == {"humor", "helpful"}, a
        return a.choices[0].message.content

    def the_same_three_ways():
        text = whole()
        assert ask(model="mocl:humor=.9", messages=MESSAGES, seed=5).choices[0].message.content == text
        assert ask(model="mocl", messages=MESSAGES, seed=5, extra_headers={"x-mocl-preference": "humor=.9"}).choices[0].message.content == text
        parts = [c.choices[0].delta.content or "" for c in ask(model="mocl:humor=.9", messages=MESSAGES, seed=5, stream=True)]
        assert "".join(parts) == text

    def stream_usage():
        chunks = list(ask(model="mocl", messages=MESSAGES, stream=True, stream_options={"include_usage": True}))
        assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens >= 0 and chunks[-1].usage.preference
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")

    def stream_helper():
        place = client.chat.completions if hasattr(client.chat.completions, "stream") else client.beta.chat.completions
        try:
            with place.stream(model="mocl", messages=MESSAGES, seed=1) as s:
                for _ in s:
                    pass
                final = s.get_final_completion()
            assert final.choices[0].message.role == "assistant"
        except openai.LengthFinishReasonError:
            pass  # raised by the client at finish_reason "length", no fault of the server

    def many():
        a = ask(model="mocl", messages=MESSAGES, n=3, max_tokens=8, seed=2, logprobs=True, top_logprobs=2)
        assert [c.index for c in a.choices] == [0, 1, 2]
        for place in a.choices[0].logprobs.content:
            assert place.logprob <= 0 and len(place.top_logprobs) == 2 and isinstance(place.bytes, list)

    def refused():
        for body, kind in (({"preference": {"humr": 1}}, openai.BadRequestError), ({"tools": [{"type": "function"}]}, openai.BadRequestError)):
            try:
                ask(model="mocl", messages=MESSAGES, extra_body=body)
            except kind as e:
                assert e.body and "message" in e.body, e
            else:
                raise AssertionError("not refused: %r" % body)
        try:
            ask(model="gpt-4o", messages=MESSAGES)
        except openai.NotFoundError as e:
            assert "mocl" in str(e)
        else:
            raise AssertionError("an unknown model was answered")
        try:
            client.responses.create(model="mocl", input="x")
        except openai.NotFoundError:
            pass

    def leaves():
        before = open(LOG).read().count("has left")
        s = ask(model="mocl", messages=MESSAGES, stream=True, n=16)
        next(iter(s))
        s.close()
        ask(model="mocl", messages=MESSAGES, max_tokens=1)  # the next request is served
        s = ask(model="mocl", messages=MESSAGES, stream=True, n=16)
        for _ in s:
            break  # does not hang up; the next one must not wait for it
        ask(model="mocl", messages=MESSAGES, max_tokens=1)
        del s
        gc.collect()
        print("     clients that were seen to leave:", open(LOG).read().count("has left") - before)

    for name, f in (("models", models), ("a whole answer, with rewards", whole), ("field, suffix, header and stream agree", the_same_three_ways),
                    ("usage in a stream", stream_usage), ("the .stream() helper", stream_helper), ("n, logprobs, max_tokens", many),
                    ("refusals arrive as errors with words", refused), ("leaving in mid-stream", leaves)):
        test(name, f)


def langchain_tests():
    import langchain_openai
    from langchain_openai import ChatOpenAI

    def invoke():
        a = ChatOpenAI(base_url=URL, api_key="none", model="mocl:humor=.9", seed=5, max_tokens=8).invoke("how do i knit a scarf?")
        b = ChatOpenAI(base_url=URL, api_key="none", model="mocl", seed=5, max_tokens=8, extra_body={"preference": {"humor": 0.9}}).invoke(
            "how do i knit a scarf?")
        assert a.content == b.content and a.usage_metadata["total_tokens"] > 0, (a, b)

    def stream():
        chat = ChatOpenAI(base_url=URL, api_key="none", model="mocl", seed=5, max_tokens=8)
        assert "".join(c.content for c in chat.stream("how do i knit a scarf?")) == chat.invoke("how do i knit a scarf?").content

    test("invoke: suffix and extra_body agree", invoke)
    test("stream", stream)


def llm_tests():
    place = os.environ["LLM_USER_PATH"]
    os.makedirs(place, exist_ok=True)
    with open(place + "/extra-openai-models.yaml", "w") as f:
        f.write("- model_id: slider\n  model_name: 'mocl:humor=.7'\n  api_base: %s\n" % URL)
        f.write("- model_id: header\n  model_name: mocl\n  api_base: %s\n  headers: {x-mocl-preference: humor=.7}\n" % URL)

    def run(*words):
        p = subprocess.run(["llm", *words], capture_output=True, text=True, timeout=60)
        assert p.returncode == 0, p.stderr
        return p.stdout

    def both():
        a = run("-m", "slider", "-o", "seed", "5", "how do i knit a scarf?")
        assert a == run("-m", "header", "-o", "seed", "5", "how do i knit a scarf?"), a
        assert a == run("-m", "slider", "--no-stream", "-o", "seed", "5", "how do i knit a scarf?")
        assert log_has("humor 0.70")

    test("suffix and header, with and without stream", both)


{"openai3": openai_tests, "openai1": openai_tests, "langchain": langchain_tests, "llm": llm_tests}[CLIENT]()
sys.exit(1 if failed else 0)
