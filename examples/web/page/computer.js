// The way to the worker: a promise for each question.
export class Worked {
  constructor(onBroken) {
    this.waiting = new Map();
    this.next = 0;
    this.worker = new Worker("worker.js", { type: "module" });
    this.worker.onmessage = ({ data: { id, result, error, broken } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) return resolve(result);
      const said = broken ? `The computation has stopped: ${error}. Load the page again.` : error;
      reject(new Error(said));
      if (broken) onBroken(said);
    };
    this.worker.onerror = (event) => onBroken(`The worker cannot run: ${event.message || "it was not loaded"}`);
  }

  ask(door, message = {}, transfer = []) {
    return new Promise((resolve, reject) => {
      const id = this.next++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, door, message }, transfer);
    });
  }
}
