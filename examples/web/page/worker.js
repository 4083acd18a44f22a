// All that computes: beside the page's thread, so that the page never waits for it.
import init, { Checker, Classifier, Computer, digit } from "./quarterturn_web.js";

const NETWORKS = ["z2-28", "p4-27", "p4-28"];
let computer, classifiers = [];
const checkers = new Map();

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

const weights = new Map();

// Opens all networks on a computer; what was there before stays if that fails.
async function open(kind) {
  const chosen = kind === "cpu" ? Computer.cpu() : await Computer.gpu(kind === "software");
  const opened = [];
  for (const name of NETWORKS) {
    if (!weights.has(name)) {
      weights.set(name, new Uint8Array(await (await fetched(`${name}.safetensors`)).arrayBuffer()));
    }
    opened.push(Classifier.open(weights.get(name), name, chosen));
  }
  [computer, classifiers] = [chosen, opened];
  const of = ({ size, parameters, verdict, breaking }) => ({ size, parameters, verdict, breaking });
  return { kind, name: kind === "gpu" ? await gpuName(computer) : computer.name(), networks: classifiers.map(of) };
}

// Browsers tell the maker and the kind of a GPU rather than its name.
async function gpuName(computer) {
  const info = (await navigator.gpu.requestAdapter())?.info;
  const known = [info?.vendor, info?.architecture].filter(Boolean).join(" ");
  return known ? `GPU, WebGPU: ${known}` : `GPU: ${computer.name()}`;
}

// Digits recognised by a network, of the evaluation's table: upright, after a quarter turn, and at all angles.
async function accuracy(name) {
  const rows = (await (await fetched(`${name}.csv`)).text()).trim().split("\n").map((line) => line.split(","));
  const at = (column) => rows[0].indexOf(column);
  const [angle, correct, total] = ["angle_deg", "correct", "total"].map(at);
  const share = (some) => some.reduce((sum, row) => sum + row[correct] / row[total], 0) / some.length;
  const counted = rows.slice(1);
  const turned = (degrees) => counted.filter((row) => Number(row[angle]) === degrees);
  return { digits: Number(counted[0][total]), upright: share(turned(0)), quarter: share(turned(90)), all: share(counted) };
}

function checker({ model, group, adaptive }) {
  const key = `${model} ${group} ${adaptive}`;
  if (!checkers.has(key)) checkers.set(key, new Checker(model, group, adaptive));
  return checkers.get(key);
}

function whole(size) {
  if (!Number.isInteger(size) || size < 0) throw new Error("a size is a whole number of pixels");
  return size;
}

const doors = {
  async start({ kind }) {
    await init({ module_or_path: fetched("quarterturn_web_bg.wasm") });
    const hasGpu = kind === "cpu" ? false : Boolean(navigator.gpu && await navigator.gpu.requestAdapter());
    let refused;
    if (hasGpu || kind === "software") {
      try {
        return { ...await open(kind === "software" ? kind : "gpu"), hasGpu: true };
      } catch (error) {
        refused = error.message;
      }
    }
    return { ...await open("cpu"), hasGpu: false, refused };
  },
  open: ({ kind }) => open(kind),
  accuracies: () => Promise.all(NETWORKS.map(accuracy)),
  digit: ({ pixels, height, width }) => digit(pixels, height, width),
  async answer({ digit, degrees, network }) {
    const began = performance.now();
    const answer = await classifiers[network].answer(digit, degrees);
    const { logits, probabilities, seen, sameBits } = answer;
    answer.free();
    return { logits, probabilities, seen, sameBits, milliseconds: performance.now() - began };
  },
  report: (of) => JSON.parse(checker(of).report(whole(of.size))),
  measure: (of) => JSON.parse(checker(of).measure(of.rgba, of.height, of.width, whole(of.size))),
  tryOut: () => computer.tryOut(),
};

self.onmessage = async ({ data: { id, door, message } }) => {
  try {
    self.postMessage({ id, result: await doors[door](message) });
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error), broken: error instanceof WebAssembly.RuntimeError });
  }
};
