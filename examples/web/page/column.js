// One network: what it sees, its answer, the curve of its answer over the angle, and whether quarter turns keep its bits.
const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH, LEFT, TOP] = [240, 140, 28, 8];
// Answers further apart are not joined by a line.
const APART = 12;

const across = (degrees) => LEFT + degrees / 360 * (WIDE - LEFT);
const down = (share) => TOP + (1 - share) * HIGH;
export const percent = (share) => `${(100 * share).toFixed(1)}%`;

function drawn(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

export class Column {
  constructor(parent, title) {
    this.root = document.createElement("article");
    this.root.className = "card column";
    this.root.innerHTML = `
      <h2></h2><p class="hint kind"></p>
      <div class="seen"><canvas role="img"></canvas><div><strong>–</strong><br><span></span></div></div>
      <div class="bars" role="img"></div>
      <svg class="curve" viewBox="0 0 ${WIDE + 8} ${TOP + HIGH + 18}" role="img"></svg>
      <p class="bits" aria-live="polite"></p><p class="accuracy"></p>`;
    parent.append(this.root);
    this.part = (selector) => this.root.querySelector(selector);
    this.part("h2").textContent = title;
    this.title = title;
    for (let digit = 0; digit < 10; digit++) {
      const bar = document.createElement("div");
      bar.append(document.createElement("i"), String(digit));
      this.part(".bars").append(bar);
    }
    this.frame();
    this.forget();
  }

  frame() {
    const svg = this.part(".curve");
    for (const share of [0, 0.5, 1]) {
      drawn(svg, "line", { class: "grid", x1: LEFT, x2: WIDE, y1: down(share), y2: down(share) });
      drawn(svg, "text", { x: LEFT - 4, y: down(share) + 3, "text-anchor": "end" }, `${100 * share}`);
    }
    for (const degrees of [0, 90, 180, 270, 360]) {
      drawn(svg, "line", { class: "grid", x1: across(degrees), x2: across(degrees), y1: TOP, y2: TOP + HIGH });
      drawn(svg, "text", { x: across(degrees), y: TOP + HIGH + 13, "text-anchor": "middle" }, `${degrees}°`);
    }
    this.now = drawn(svg, "line", { class: "now", y1: TOP, y2: TOP + HIGH });
    this.path = drawn(svg, "path", {});
    this.dots = drawn(svg, "g", {});
  }

  describe({ size, parameters, verdict, breaking }) {
    const exact = verdict === "invariant";
    this.root.classList.toggle("exact", exact);
    this.part(".kind").textContent = `${size}×${size}, ${parameters.toLocaleString("en")} parameters. ` + (exact
      ? "The checker: exact at this size."
      : breaking && verdict === "inexact" ? `The checker: inexact, ${breaking}.` : "Promises nothing but translation.");
    const canvas = this.part("canvas");
    [canvas.width, canvas.height] = [size, size];
  }

  // A digit's answers by angle are gone with the digit.
  forget() {
    this.answers = new Map();
    this.upright = null;
    this.path.setAttribute("d", "");
    this.dots.replaceChildren();
    this.part(".bits").textContent = "";
    this.part("strong").textContent = "–";
    this.part(".seen span").textContent = "";
    for (const bar of this.part(".bars").children) {
      bar.classList.remove("top");
      bar.firstChild.style.height = "0";
    }
    this.part(".bars").setAttribute("aria-label", `${this.title} has not answered yet`);
    const canvas = this.part("canvas");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    delete this.root.dataset.degrees;
  }

  show(degrees, { logits, probabilities, seen, sameBits }) {
    const classes = logits.length / 4;
    for (let turn = 0; turn < 4; turn++) {
      this.answers.set((degrees + 90 * turn) % 360, probabilities.slice(turn * classes, (turn + 1) * classes));
    }
    const here = probabilities.slice(0, classes);
    const answer = here.indexOf(Math.max(...here));
    if (degrees % 90 === 0) {
      const upright = this.answers.get(0);
      this.upright = upright.indexOf(Math.max(...upright));
    }
    this.part("strong").textContent = answer;
    this.part(".seen span").textContent = percent(here[answer]);
    this.part(".bars").setAttribute("aria-label",
      `${this.title} answers ${answer}; probabilities: ${[...here].map((p, d) => `${d}: ${percent(p)}`).join(", ")}`);
    [...this.part(".bars").children].forEach((bar, digit) => {
      bar.classList.toggle("top", digit === answer);
      bar.firstChild.style.height = `${100 * here[digit]}%`;
    });
    this.see(seen);
    this.curve(degrees);
    const bits = this.part(".bits");
    bits.className = `bits ${sameBits ? "same" : "differ"}`;
    let largest = 0;
    logits.forEach((logit, at) => { largest = Math.max(largest, Math.abs(logit - logits[at % classes])); });
    const said = sameBits
      ? `All four quarter turns: the same ${32 * classes} bits of logits.`
      : `Quarter turns change the logits, by up to ${largest.toPrecision(2)}.`;
    // Screen readers are told of what is new only.
    if (bits.textContent !== said) bits.textContent = said;
    Object.assign(this.root.dataset, { answer, same: sameBits, degrees });
  }

  see(seen) {
    const canvas = this.part("canvas");
    const image = new ImageData(canvas.width, canvas.height);
    seen.forEach((grey, at) => image.data.set([grey, grey, grey, 255], 4 * at));
    canvas.getContext("2d").putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", "What the network sees");
  }

  curve(degrees) {
    this.now.setAttribute("x1", across(degrees));
    this.now.setAttribute("x2", across(degrees));
    if (this.upright === null) return;
    const known = [...this.answers].sort(([a], [b]) => a - b);
    if (known[0][0] === 0) known.push([360, known[0][1]]);
    let path = "", before = -Infinity;
    for (const [angle, shares] of known) {
      path += `${angle - before > APART ? "M" : "L"}${across(angle).toFixed(1)} ${down(shares[this.upright]).toFixed(1)}`;
      before = angle;
    }
    this.path.setAttribute("d", path);
    this.dots.replaceChildren();
    for (const [angle, shares] of known) {
      const dot = angle % 90 === 0 || known.length < 10;
      if (dot) drawn(this.dots, "circle", { cx: across(angle), cy: down(shares[this.upright]), r: 2.8 });
    }
    const all = [...this.answers.values()];
    const right = all.filter((shares) => shares.indexOf(Math.max(...shares)) === this.upright).length;
    this.part(".curve").setAttribute("aria-label",
      `Probability of ${this.upright} over the angle: the answer at ${right} of ${all.length} angles`);
  }

  count({ digits, upright, quarter, all }) {
    this.part(".accuracy").innerHTML = `Of ${digits.toLocaleString("en")} digits: upright <b>${percent(upright)}</b>, turned by 90°
      <b>${percent(quarter)}</b>, all angles <b>${percent(all)}</b>`;
  }
}
