#!/usr/bin/env python3
"""Environment steps per second, training included: mocl's recipes, a PyTorch loop of the same sizes, and morl-baselines.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install mo-gymnasium torch morl-baselines
    /tmp/venv/bin/python tests/bench/world_speed.py ./mocl

All run in processes of their own, each on one thread, mocl and its peers by turns (--rounds of them; the medians are
compared). Time is CPU time of the whole process less that of a run of hardly any steps, so start-up does not count and
other users of the machine count little. mocl trains MOC and Linear PPO; the loop in PyTorch trains Linear PPO, the cheaper
of the two: the same networks, batches and epochs, the policy run once for all environments of a step, the environments
MO-Gymnasium's. From morl-baselines: EUPG on fishwood (its example eupg_fishwood.py): one hidden layer of 32, one gradient
step an episode, no critic; Envelope Q-learning on fruit-tree with its defaults: four hidden layers of 256, one gradient
step of 256 rows an environment step.
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def cpu(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, world=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rate(command, few, many, methods=1):
    """Steps per CPU second from one run of few and one of many steps."""
    short, full = cpu(command(few)), cpu(command(many))
    return methods * (many - few) / (full - short)


# ---- the peers: this file run again with the name of one ----

def ppo_loop(task, steps):
    import mo_gymnasium
    import numpy as np
    import torch
    from torch import nn

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    if task == "fishwood":
        K, E, T, N, S, epochs, lr, width, act = 9, 1, 200, 2, 2, 8, 1e-2, 64, nn.Tanh
        make = lambda: mo_gymnasium.make("fishwood-v0", woodproba=0.5, fishproba=0.5)
        draw = lambda: np.stack([[i / 10, 1 - i / 10] for i in range(1, 10)]).astype(np.float32)
        actor = nn.Sequential(nn.Linear(2, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 2))
        critic = nn.Sequential(nn.Linear(2, width), act(), nn.Linear(width, width), act(), nn.Linear(width, N))
        logits_of = lambda obs, p: actor(torch.cat([obs, p[:, :1]], 1))
    else:
        K, E, T, N, S, epochs, lr, width, act = 24, 20, 6, 6, 63, 12, 5e-3, 128, nn.ReLU
        make = lambda: mo_gymnasium.make("fruit-tree-v0", depth=6)
        draw = lambda: rng.dirichlet(np.ones(6), K).astype(np.float32)
        actor = nn.Sequential(nn.Linear(6, width), act(), nn.Linear(width, width), act(), nn.Linear(width, S * 2))
        critic = None

        def logits_of(obs, p):
            node = (2 ** obs[:, 0] - 1 + obs[:, 1]).long()
            return actor(10 * (p - 1 / 6)).view(-1, S, 2)[torch.arange(len(node)), node]
    envs = [make() for _ in range(K * E)]
    parameters = list(actor.parameters()) + (list(critic.parameters()) if critic else [])
    adam = torch.optim.Adam(parameters, lr=lr)
    for _ in range(max(1, steps // (K * E * T))):
        p = torch.from_numpy(np.repeat(draw(), E, 0))
        obs = np.stack([e.reset()[0] for e in envs]).astype(np.float32)
        O, A, L, R = [], [], [], []
        for _ in range(T):
            o = torch.from_numpy(obs)
            with torch.no_grad():
                d = torch.distributions.Categorical(logits=logits_of(o, p))
                a = d.sample()
            results = [e.step(int(x)) for e, x in zip(envs, a.numpy())]
            O.append(o), A.append(a), L.append(d.log_prob(a))
            R.append(torch.from_numpy(np.stack([r[1] for r in results])))
            obs = np.stack([r[0] for r in results]).astype(np.float32)
        R = torch.stack(R)  # [T, K E, N]
        flat_p = p.repeat(T, 1)
        O, A, L = torch.cat(O), torch.cat(A), torch.cat(L)
        if critic:
            with torch.no_grad():
                V = critic(torch.cat([O, flat_p[:, :1]], 1)).view(T, K * E, N)
            adv, last = torch.zeros_like(R), torch.zeros(K * E, N)
            for t in reversed(range(T)):
                delta = R[t] + 0.99 * (V[t + 1] if t + 1 < T else 0) - V[t]
                last = delta + 0.99 * 0.8 * last
                adv[t] = last
            returns = (adv + V).view(-1, N)
        else:
            G = R.sum(0).view(K, E, N)
            adv = ((G - G.mean(1, keepdim=True)) * E / (E - 1)).view(1, K * E, N).expand(T, -1, -1)
        adv = adv.reshape(-1, N)
        adv = adv / (adv.square().mean().sqrt() + 1e-8)
        combined = (adv * flat_p).sum(1)
        for _ in range(epochs):
            d = torch.distributions.Categorical(logits=logits_of(O, flat_p))
            z = (d.log_prob(A) - L).exp()
            loss = -torch.min(z * combined, z.clamp(0.8, 1.2) * combined).mean()
            if critic:
                loss = loss + 0.5 * (critic(torch.cat([O, flat_p[:, :1]], 1)) - returns).square().mean()
            else:
                loss = loss - 0.1 * d.entropy().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()


def eupg(steps):
    import mo_gymnasium
    import numpy as np
    import torch
    from morl_baselines.common.weights import equally_spaced_weights  # noqa: F401 (loads what its example loads)
    from morl_baselines.single_policy.esr.eupg import EUPG

    torch.set_num_threads(1)
    world = mo_gymnasium.wrappers.MORecordEpisodeStatistics(mo_gymnasium.make("fishwood-v0"), gamma=0.99)

    def scalarization(reward, w=None):
        reward = torch.tensor(reward) if not isinstance(reward, torch.Tensor) else reward
        return torch.min(reward[..., 0], torch.div(reward[..., 1], 2, rounding_mode="trunc"))

    agent = EUPG(env, scalarization=scalarization, weights=np.ones(2), gamma=0.99, log=False, learning_rate=0.001, net_arch=[32])
    agent.train(total_timesteps=int(steps))


def envelope(steps):
    import mo_gymnasium
    import torch
    from morl_baselines.multi_policy.envelope.envelope import Envelope

    torch.set_num_threads(1)
    agent = Envelope(mo_gymnasium.make("fruit-tree-v0", depth=6), log=False, device="cpu", seed=0)
    agent.train(total_timesteps=int(steps))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("mocl")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--task", choices=("fishwood", "fruit_tree"), help="only this one")
    o = p.parse_args()
    root = os.path.join(HERE, "..", "..")
    with tempfile.TemporaryDirectory() as tmp:
        runs = iter(range(10**6))

        def recipe(name, *more):
            return lambda steps: [o.mocl, os.path.join(root, "recipes", name + ".lua"), f"out={tmp}/{next(runs)}", f"steps={steps}",
                                  "quiet=true", "threads=1", *more]

        def peer(*name):
            return lambda steps: [sys.executable, __file__, "--peer", *name, str(steps)]

        # task, mocl's options, the peer of morl-baselines, and steps: few and many of mocl, of the loop, of that peer
        for task, more, other, steps in (
            ("fishwood", ("eval.episodes=1",), "eupg", (1800, 216000, 1800, 108000, 400, 10000)),
            ("fruit_tree", ("eval.n=2", "eval.n_large=0"), "envelope", (2880, 288000, 2880, 144000, 200, 600)),
        ):
            if o.task not in (None, task):
                continue
            rates = {"mocl": [], "PyTorch loop": [], "morl-baselines " + other: []}
            for _ in range(o.rounds):
                measured = (rate(recipe(task, *more), *steps[:2], methods=2), rate(peer("loop", task), *steps[2:4]),
                            rate(peer(other), *steps[4:]))
                for name, r in zip(rates, measured):
                    rates[name].append(r)
                    print(f"{task}: {name} {r:,.0f} steps/s", flush=True)
            ours = statistics.median(rates["mocl"])
            for name, list_of in rates.items():
                middle = statistics.median(list_of)
                print(f"{task}, median: {name} {middle:,.0f} steps/s; mocl is {ours / middle:.1f} times as fast", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        if sys.argv[2] == "loop":
            ppo_loop(sys.argv[3], int(sys.argv[4]))
        elif sys.argv[2] == "eupg":
            eupg(int(sys.argv[3]))
        else:
            envelope(int(sys.argv[3]))
    else:
        main()
