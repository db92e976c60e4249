// The estimators of one group of rewards, as in tea/estimators (tests/report/test_explain.py compares the numbers).
// Every function takes rewards (m) and options, and gives advantages (m) in the same order, centred.
"use strict";

// Normal distribution function, by its series around 0 (G. Marsaglia, Journal of Statistical Software 11(4), 2004).
function normalCdf(x) {
  if (x < -8) return 0;
  if (x > 8) return 1;
  let sum = x, last = 0, term = x;
  for (let i = 3; sum !== last; i += 2) {
    last = sum;
    term *= (x * x) / i;
    sum += term;
  }
  return 0.5 + sum * Math.exp(-0.5 * x * x - 0.9189385332046727);
}

function normalQuantile(p) {
  let low = -8, high = 8;
  for (let i = 0; i < 80; i++) {
    const middle = (low + high) / 2;
    if (normalCdf(middle) < p) low = middle; else high = middle;
  }
  return (low + high) / 2;
}

const GRID = Array.from({ length: 1801 }, (_, i) => -9 + i / 100);
const CDF = GRID.map(normalCdf);
const known = new Map();

// c_n, the expected largest of n standard normals.
function expectedMaxNormal(n) {
  if (n === 1) return 0;
  if (!known.has(n)) {
    let sum = 0;
    GRID.forEach((x, i) => { sum += x * n * Math.exp(-0.5 * x * x) * Math.pow(CDF[i], n - 1); });
    known.set(n, (sum / 100) / Math.sqrt(2 * Math.PI));
  }
  return known.get(n);
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function centred(values) {
  const middle = mean(values);
  return values.map((v) => v - middle);
}

function ranks(rewards) {
  return rewards.map((_, i) => i).sort((a, b) => rewards[a] - rewards[b]);
}

// sum over j <= i of d_j (g_(j) - g_(j-1)) for the sorted rewards g, from the second on.
function fromSpacings(rewards, weights) {
  const order = ranks(rewards), result = new Array(rewards.length).fill(0);
  let total = 0;
  order.forEach((who, i) => {
    if (i > 0) total += weights[i] * (rewards[who] - rewards[order[i - 1]]);
    result[who] = total;
  });
  return result;
}

function maxAtKWeights(m, k) {
  const weights = new Array(m).fill(0);
  weights[m - 1] = k;
  for (let i = m - 1; i >= 1; i--) weights[i - 1] = weights[i] * Math.max(i - k + 1, 0) / i;
  return weights;
}

// Isotonic regression of the advantages on the rewards; equal rewards share one value.
function monotone(advantages, rewards) {
  const blocks = [];
  for (const who of ranks(rewards)) {
    const last = blocks[blocks.length - 1];
    if (last && last.reward === rewards[who]) { last.sum += advantages[who]; last.members.push(who); continue; }
    blocks.push({ reward: rewards[who], sum: advantages[who], members: [who] });
  }
  const pooled = [];
  for (const block of blocks) {
    pooled.push({ sum: block.sum, members: [...block.members] });
    while (pooled.length > 1) {
      const [a, b] = pooled.slice(-2);
      if (a.sum / a.members.length <= b.sum / b.members.length) break;
      pooled.splice(-2, 2, { sum: a.sum + b.sum, members: [...a.members, ...b.members] });
    }
  }
  const result = new Array(rewards.length);
  for (const block of pooled) for (const who of block.members) result[who] = block.sum / block.members.length;
  return result;
}

function teaRaw(rewards, n, fraction) {
  const m = rewards.length, k = Math.min(Math.max(Math.ceil(fraction * m), 2), m);
  const tail = [...rewards].sort((a, b) => b - a).slice(0, k);
  const r = tail[k - 1], mu = mean(tail);
  const sigma = Math.sqrt(tail.reduce((sum, u) => sum + (u - mu) ** 2, 0) / (k - 1));
  if (!(sigma > 0)) return rewards.map(() => 0);
  const alpha = k / m;
  let h = 0, s = 1;
  if (alpha < 1) {
    const z = normalQuantile(1 - alpha);
    h = Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI) / alpha;
    s = Math.sqrt(1 + z * h - h * h);
  }
  const slope = (expectedMaxNormal(n) - h) / s;
  return rewards.map((u) => u < r ? 0 : ((u - r) + slope / (2 * sigma) * ((u - mu) ** 2 - (r - mu) ** 2)) / alpha);
}

function ladderRaw(rewards, n) {
  const m = rewards.length;
  let low, high;
  if (n <= m) {
    low = n < m ? n : n - 1;
    high = low + 1;
  } else {
    low = Math.max(Math.floor(m / 4), Math.min(2, m - 1));
    high = m;
  }
  const a = expectedMaxNormal(low), b = expectedMaxNormal(high);
  const share = (expectedMaxNormal(n) - a) / (b - a);
  const first = maxAtKWeights(m, low), second = maxAtKWeights(m, high);
  return fromSpacings(rewards, first.map((w, i) => (1 - share) * w + share * second[i]));
}


const ESTIMATORS = {
  grpo(rewards) {
    const deviation = centred(rewards);
    const std = Math.sqrt(deviation.reduce((sum, d) => sum + d * d, 0) / (rewards.length - 1));
    return deviation.map((d) => d / (std + 1e-4));
  },
  dr_grpo: (rewards) => centred(rewards),
  max_at_k: (rewards, { n }) =>
    centred(fromSpacings(rewards, maxAtKWeights(rewards.length, Math.min(n, rewards.length)))),
  tea: (rewards, { n, fraction }) => centred(teaRaw(rewards, n, fraction)),
  tea_monotone: (rewards, { n, fraction }) => centred(monotone(teaRaw(rewards, n, fraction), rewards)),
  ladder: (rewards, { n }) => centred(monotone(ladderRaw(rewards, n), rewards)),
  bon_max_second(rewards) {
    const second = [...rewards].sort((a, b) => b - a)[1];
    return centred(rewards.map((r) => Math.max(r - second, 0)));
  },
  cat_bon(rewards, { n }) {
    const deviation = centred(rewards), others = rewards.length - 1;
    const weight = rewards.map((r) => n * Math.pow(rewards.filter((other) => other < r).length / others, n - 1));
    return centred(deviation.map((d, i) => d * weight[i]));
  },
  tail_rl: (rewards) => centred(fromSpacings(rewards, rewards.map((_, i) => 1 / (rewards.length - i)))),
};

if (typeof module !== "undefined") module.exports = { ESTIMATORS, expectedMaxNormal, normalQuantile };
