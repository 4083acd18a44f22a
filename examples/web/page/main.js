// The page: what is drawn and turned goes to the networks, and what they answer is shown.
import { Checker } from "./checker.js";
import { Column } from "./column.js";
import { Worked } from "./computer.js";
import { Dial } from "./dial.js";
import { Pad } from "./pad.js";

const part = (id) => document.getElementById(id);
const TITLES = ["Plain CNN", "P4CNN, approximate", "P4CNN, exact"];
// Degrees a second.
const SPEED = 60;

function report(message) {
  part("error").hidden = message === null;
  if (message !== null) part("error").textContent = message;
}
addEventListener("error", (event) => report(event.message));
addEventListener("unhandledrejection", (event) => report(event.reason?.message ?? String(event.reason)));

const worked = new Worked(report);
const columns = TITLES.map((title) => new Column(part("columns"), title));
const checker = new Checker(worked, report);

let digit = null, drawn = false, asked = null, busy = false, ready = false;
// How often the sheet was cleared: what was asked before is not shown.
let sheet = 0;

// One question at a time; what has changed meanwhile is asked next, and what lies between is left out.
async function answer() {
  if (busy || !ready) return;
  busy = true;
  try {
    while (drawn || asked !== null) {
      if (drawn) {
        drawn = false;
        const before = sheet;
        const made = await worked.ask("digit", pad.pixels());
        if (before !== sheet) continue;
        digit = made;
        columns.forEach((column) => column.forget());
        showTurned();
        // The upright digit says which curve is drawn.
        if (dial.angle % 90 !== 0) await ask(0);
        asked = dial.angle;
      }
      const angle = asked;
      asked = null;
      if (digit && angle !== null) await ask(angle);
    }
    report(null);
  } catch (error) {
    report(error.message);
  } finally {
    busy = false;
  }
}

async function ask(degrees) {
  const [took, mine] = [[], digit];
  for (const [network, column] of columns.entries()) {
    const found = await worked.ask("answer", { digit: mine, degrees, network });
    if (digit !== mine) return;
    column.show(degrees, found);
    took.push(found.milliseconds);
  }
  part("time").textContent = `Four quarter turns of the digit took the networks ${took.map((ms) => ms.toFixed(1)).join(", ")} ms.`;
}

const pad = new Pad(part("pad"), () => {
  drawn = true;
  answer();
});

const dial = new Dial(part("dial"), (angle) => {
  part("angle").textContent = `${angle}°`;
  part("turned").style.transform = `rotate(${angle}deg)`;
  asked = angle;
  answer();
});

function showTurned() {
  const image = new ImageData(28, 28);
  digit.forEach((grey, at) => image.data.set([grey, grey, grey, 255], 4 * at));
  part("turned").getContext("2d").putImageData(image, 0, 0);
}

function clear() {
  pad.clear();
  sheet++;
  part("example").value = "";
  [digit, drawn, asked] = [null, false, null];
  part("turned").getContext("2d").clearRect(0, 0, 28, 28);
  columns.forEach((column) => column.forget());
}

part("clear").addEventListener("click", clear);
part("back").addEventListener("click", () => dial.turn(dial.angle - 90));
part("forth").addEventListener("click", () => dial.turn(dial.angle + 90));
for (let number = 0; number < 10; number++) part("example").append(new Option(number, number));
part("example").addEventListener("change", (event) => pad.example(event.target.value));

// Once round, or until it is pressed again.
let round = null;
part("round").addEventListener("click", () => {
  const stop = () => {
    cancelAnimationFrame(round);
    round = null;
    part("round").setAttribute("aria-pressed", false);
  };
  if (round !== null) return stop();
  part("round").setAttribute("aria-pressed", true);
  const start = dial.angle;
  let began = null;
  const step = (now) => {
    began ??= now;
    const turned = Math.min((now - began) / 1000 * SPEED, 360);
    dial.turn(start + turned);
    if (turned === 360) return stop();
    round = requestAnimationFrame(step);
  };
  round = requestAnimationFrame(step);
});

// Tabs: a click, or arrow keys.
const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    part(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab.id === "tab-check" && ready && !checker.rows) checker.check();
}
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = tabs[(tabs.indexOf(tab) + 1) % tabs.length];
    other.focus();
    choose(other);
  });
}

function opened({ kind, name, networks }) {
  columns.forEach((column, at) => column.describe(networks[at]));
  part("try").disabled = kind === "cpu";
  const chosen = [...part("computer").options].find((option) => option.value === kind);
  chosen.textContent = name;
  chosen.selected = true;
}

part("computer").addEventListener("change", async ({ target }) => {
  target.disabled = true;
  try {
    opened(await worked.ask("open", { kind: target.value }));
    drawn = digit !== null;
    await answer();
  } catch (error) {
    report(error.message);
  } finally {
    target.disabled = false;
  }
});

part("try").addEventListener("click", async () => {
  part("try").disabled = true;
  part("tried").textContent = "Trying …";
  try {
    part("tried").textContent = await worked.ask("tryOut");
  } catch (error) {
    part("tried").textContent = error.message;
  } finally {
    part("try").disabled = false;
  }
});

// `?computer=cpu` leaves a GPU alone, `?computer=software` takes one that computes on the processor.
const wanted = new URLSearchParams(location.search).get("computer");
try {
  const { hasGpu, refused, ...state } = await worked.ask("start", { kind: wanted });
  const options = [["cpu", "CPU, WebAssembly"]];
  if (hasGpu) options.unshift([state.kind, "GPU"]);
  part("computer").replaceChildren(...options.map(([kind, text]) => new Option(text, kind)));
  part("computer").disabled = options.length < 2;
  opened(state);
  ready = true;
  part("refused").textContent = refused ? `The GPU cannot be used: ${refused}.` : "";
  (await worked.ask("accuracies")).forEach((counts, at) => columns[at].count(counts));
  part("example").value = "4";
  pad.example(4);
  if (!part("panel-check").hidden) checker.check();
} catch (error) {
  report(error.message);
}
