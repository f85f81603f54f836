"""Generation at batch 1 in f32, int8, w8a8 and nf4, and of llama.cpp on Q8_0, by turns.

./mocl tests/bench/random_model.lua /tmp/model 1.1B
python3 tests/bench/quantised.py /tmp/model [rounds=5] [threads=2] [tokens=16] [forms=f32,int8,w8a8,nf4]     (llama-cpp-python 0.3.36, or without it)

Each side is a process that has its model loaded; a round asks each in turn for as many tokens. Prints a table with the medians over the
rounds: seconds of the processor and of the clock for each token, and their ratios.
"""
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MOCL = os.path.join(HERE, "..", "..", "mocl")


def llama(path, threads, tokens):
    """The side of llama.cpp: tokens that it draws by the largest logit."""
    import numpy
    from llama_cpp import Llama

    model = Llama(model_path=path, n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = [i * 100 % model.n_vocab() for i in range(1, 9)]

    def run(n):
        model.reset()
        model.eval(prompt)
        cpu, clock = time.process_time(), time.monotonic()
        for _ in range(n):
            model.eval([int(numpy.argmax(model.scores[model.n_tokens - 1]))])
        return (time.process_time() - cpu) / n, (time.monotonic() - clock) / n

    run(2)
    print("ready 0", flush=True)
    for _ in sys.stdin:
        print("%.6f %.6f" % run(tokens), flush=True)


class Side:
    def __init__(self, name, command):
        self.name, self.times = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.memory = int(self.process.stdout.readline().split()[1])

    def turn(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.times.append([float(x) for x in self.process.stdout.readline().split()])


def main():
    model, options = sys.argv[1], {"rounds": "5", "threads": "2", "tokens": "16", "forms": "f32,int8,w8a8,nf4"}
    options |= dict(word.split("=", 1) for word in sys.argv[2:])
    rounds, threads, tokens = (int(options[k]) for k in ("rounds", "threads", "tokens"))
    lua = lambda form: [MOCL, os.path.join(HERE, "quantised.lua"), model, form, str(threads), str(tokens)]
    sides = [Side("mocl " + form, lua(form)) for form in options["forms"].split(",")]
    try:
        import llama_cpp  # noqa: F401

        path = model + "/q8_0.gguf"
        if not os.path.exists(path):
            subprocess.run(lua("gguf"), check=True)
        sides.append(Side("llama.cpp Q8_0", [sys.executable, __file__, "llama", path, str(threads), str(tokens)]))
    except ImportError:
        print("llama_cpp is not installed: mocl alone\n")
    for _ in range(rounds):
        for side in sides:
            side.turn()
    print(f"{rounds} rounds of {tokens} tokens, {threads} threads\n")
    print("| | processor, s a token | clock, s a token | times as fast as the first, processor | clock | memory, GB |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        median = [statistics.median(t[i] for t in side.times) for i in (0, 1)]
        ratio = [statistics.median(f[i] / t[i] for f, t in zip(sides[0].times, side.times)) for i in (0, 1)]
        memory = "%.2f" % (side.memory / 1e9) if side.memory else ""
        print("| %s | %.4f | %.4f | %.2f | %.2f | %s |" % (side.name, *median, *ratio, memory))
        side.process.stdin.close()
        side.process.wait()


if sys.argv[1] == "llama":
    llama(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    main()
