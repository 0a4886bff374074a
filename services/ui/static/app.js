// The page for people. Images stay in the browser; each is sent to the scorer when it is its turn.

const AT_ONCE = 4; // images in flight: enough to keep a scorer busy, few enough to see them appear

const byId = (id) => document.getElementById(id);
const images = new Map(); // id -> image, in the order in which they came
let model = null;
let next = 0;
let inFlight = 0;
let picked = [];

// ---- the scorer -------------------------------------------------------------------------------------------------

async function fail(response) {
  let words = `${response.status} ${response.statusText}`;
  try {
    words = (await response.json()).error || words;
  } catch {
    // no JSON, so not from this server: the status has to do
  }
  throw new Error(words);
}

async function post(path, body, signal) {
  const response = await fetch(path, { method: "POST", body, signal, headers: { "Content-Type": "application/octet-stream" } });
  return response.ok ? response : fail(response);
}

const query = () => (byId("readout").value ? `?readout=${encodeURIComponent(byId("readout").value)}` : "?");

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      yield { name: field("event"), data: JSON.parse(field("data") ?? "null") };
    }
  }
}

async function explain(image) {
  image.state = "writing";
  image.text = "";
  image.stop = new AbortController();
  render(image);
  try {
    const response = await post(`/api/explain${query()}`, image.file, image.stop.signal);
    for await (const { name, data } of events(response)) {
      if (name === "piece") image.text += data;
      if (name === "error") throw new Error(data.error);
      if (name === "result") {
        image.result = data;
        image.text = data.rationale || image.text;
        image.state = "done";
      }
      render(image);
    }
    if (image.state !== "done") throw new Error("the scorer stopped before it had answered");
  } catch (error) {
    if (error.name === "AbortError") return;
    image.state = "failed";
    image.text = error instanceof TypeError ? "the page lost its server" : error.message;
    render(image);
  }
}

function startWaiting() {
  for (const image of images.values()) {
    if (inFlight >= AT_ONCE) break;
    if (image.state !== "waiting") continue;
    inFlight += 1;
    explain(image).finally(() => {
      inFlight -= 1;
      sortCards();
      startWaiting();
    });
  }
  showStatus();
}

// ---- the images -----------------------------------------------------------------------------------------------

function add(files) {
  const accepted = [...files].filter((file) => file.type.startsWith("image/") || file.type === "");
  for (const file of accepted) {
    const id = next++;
    const card = byId("card").content.firstElementChild.cloneNode(true);
    const image = { id, file, card, url: URL.createObjectURL(file), state: "waiting", text: "", result: null };
    const thumb = card.querySelector(".thumb");
    thumb.src = image.url;
    card.querySelector(".name").textContent = file.name || "pasted image";
    card.querySelector(".pick").addEventListener("click", () => pick(image));
    card.querySelector(".view").addEventListener("click", () => showModelView(image));
    card.querySelector(".view").hidden = !model?.view;
    card.querySelector(".remove").addEventListener("click", () => remove(image));
    card.querySelector(".again").addEventListener("click", () => { restart(image); startWaiting(); });
    images.set(id, image);
    render(image);
  }
  const left = files.length - accepted.length;
  sortCards();
  startWaiting();
  if (left) byId("status").textContent = `${left} of ${files.length} files are no images and were left out.`;
}

function restart(image) {
  image.stop?.abort();
  image.state = "waiting";
  image.result = null;
  image.text = "";
  render(image);
}

function remove(image) {
  const after = image.card.nextElementSibling ?? image.card.previousElementSibling;
  image.stop?.abort();
  URL.revokeObjectURL(image.url);
  image.card.remove();
  images.delete(image.id);
  picked = picked.filter((other) => other !== image);
  compare();
  sortCards();
  showStatus();
  (after?.querySelector(".remove") ?? byId("files")).focus(); // else the keyboard focus would go back to the top
}

function render(image) {
  const { card, result, state } = image;
  const score = card.querySelector(".score");
  score.textContent = result ? result.score.toFixed(2) : { waiting: "…", writing: "…", failed: "no score" }[state];
  const scale = card.querySelector(".scale");
  scale.hidden = card.querySelector(".ticks").hidden = !result;
  if (result) {
    const { low, high } = result.interval ?? { low: result.score, high: result.score };
    scale.style.setProperty("--at", `${100 * result.score}%`);
    scale.style.setProperty("--low", `${100 * low}%`);
    scale.style.setProperty("--width", `${100 * (high - low)}%`);
    scale.setAttribute("aria-label", `Score ${result.score.toFixed(2)} of 1`);
    const own = result.model_interval;
    scale.title = own ? `The model itself: ${own.low.toFixed(2)} to ${own.high.toFixed(2)} (5th to 95th percentile of its answers)` : "";
  }
  const people = card.querySelector(".people");
  people.hidden = !result;
  people.textContent = result ? peopleLine(result.interval) : "";
  people.title = result?.interval ? "Measured on images like those that the model learned from; others are not covered." : "";
  const text = card.querySelector(".rationale");
  text.textContent = image.text || { waiting: "Waiting for its turn", done: "This readout has no rationale." }[state] || "";
  text.classList.toggle("writing", state === "writing");
  text.classList.toggle("wrong", state === "failed");
  card.querySelector(".pick").disabled = state !== "done";
  card.querySelector(".pick").setAttribute("aria-pressed", String(picked.includes(image)));
  card.querySelector(".again").hidden = state !== "failed";
}

function peopleLine(interval) {
  if (!interval) {
    const only = model?.interval ? ` It has one with the readout ${model.interval.readout} only.` : "";
    return `No calibrated range of people's scores.${only}`;
  }
  const share = Math.round(100 * interval.coverage);
  return `For ${share} % of images scored like this, people's mean score lies between ${interval.low.toFixed(2)} and ${interval.high.toFixed(2)}.`;
}

function sortCards() {
  const key = (image) => (image.result ? -image.result.score : image.state === "failed" ? 3 : 2);
  const sorted = [...images.values()].sort((a, b) => key(a) - key(b) || a.id - b.id);
  const list = byId("ranking");
  const focused = document.activeElement;
  sorted.forEach((image, place) => {
    image.card.querySelector(".place").textContent = image.result ? place + 1 : "–";
    if (list.children[place] !== image.card) list.insertBefore(image.card, list.children[place] ?? null);
  });
  if (focused instanceof HTMLElement && focused !== document.activeElement && list.contains(focused)) focused.focus();
  byId("clear").disabled = !images.size;
  byId("empty").hidden = Boolean(images.size);
  byId("ranking-title").hidden = !images.size;
}

function showStatus() {
  const states = [...images.values()].map((image) => image.state);
  const count = (state) => states.filter((other) => other === state).length;
  const left = count("waiting") + count("writing");
  const failed = count("failed");
  const parts = [];
  if (states.length) parts.push(left ? `${states.length - left} of ${states.length} answered` : `${states.length === 1 ? "The image is" : `All ${states.length} images are`} answered`);
  if (failed) parts.push(`${failed} without a score`);
  byId("status").textContent = parts.length ? `${parts.join(", ")}.` : "";
}

// ---- two side by side -------------------------------------------------------------------------------------------

function pick(image) {
  picked = picked.includes(image) ? picked.filter((other) => other !== image) : [...picked, image].slice(-2);
  for (const other of images.values()) render(other);
  compare();
}

async function compare() {
  const panel = byId("compare");
  panel.hidden = picked.length < 2;
  if (picked.length < 2) {
    if (picked.length === 1) byId("status").textContent = "Choose a second image to compare with.";
    return;
  }
  showStatus();
  const [left, right] = picked;
  for (const [side, image] of [["left", left], ["right", right]]) {
    byId(`${side}-image`).src = image.url;
    byId(`${side}-image`).alt = name(image);
    byId(`${side}-name`).textContent = `${name(image)}: ${image.result.score.toFixed(2)}`;
  }
  panel.scrollIntoView({ block: "nearest" });
  byId("odds-text").textContent = "Asking which is preferred …";
  try {
    const response = await post(`/api/compare${query()}&first=${left.file.size}`, new Blob([left.file, right.file]));
    const { preference } = await response.json();
    if (picked[0] !== left || picked[1] !== right) return; // others were chosen meanwhile
    panel.style.setProperty("--share", `${100 * preference}%`);
    const [better, chance] = preference >= 0.5 ? [left, preference] : [right, 1 - preference];
    byId("odds-text").textContent = `${name(better)} is preferred with a probability of ${chance > 0.995 ? "more than 99" : Math.round(100 * chance)} %.`;
  } catch (error) {
    byId("odds-text").textContent = error.message;
  }
}

const name = (image) => image.file.name || "pasted image";

// ---- what the model saw -----------------------------------------------------------------------------------------

async function showModelView(image) {
  const dialog = byId("seen");
  byId("seen-original").src = image.url;
  byId("seen-original-size").textContent = name(image);
  byId("seen-model").removeAttribute("src");
  byId("seen-model-size").textContent = "…";
  byId("seen-note").textContent = "";
  dialog.showModal();
  try {
    const response = await post("/api/seen", image.file);
    const url = URL.createObjectURL(await response.blob());
    byId("seen-model").onload = () => URL.revokeObjectURL(url);
    byId("seen-model").src = url;
    const pixels = (header) => response.headers.get(header).replace("x", " × ");
    byId("seen-original-size").textContent = `As given, upright: ${pixels("X-Original")} pixels`;
    byId("seen-model-size").textContent = `As the model sees it: ${pixels("X-Size")} pixels`;
    byId("seen-note").textContent = "All that is judged is in the image on the right.";
  } catch (error) {
    byId("seen-model-size").textContent = "";
    byId("seen-note").textContent = error.message;
  }
}

// ---- the page itself --------------------------------------------------------------------------------------------

async function start() {
  try {
    const response = await fetch("/api/model");
    model = await (response.ok ? response : fail(response)).json();
    byId("model").textContent = `Model ${model.model_version}; scores from ${model.score_range[0]} to ${model.score_range[1]}`;
    for (const readout of model.readouts) byId("readout").append(new Option(readout, readout));
    for (const image of images.values()) image.card.querySelector(".view").hidden = !model.view;
  } catch (error) {
    byId("model").textContent = `The scorer does not answer: ${error.message}`;
  }
}

byId("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
byId("readout").addEventListener("change", () => {
  for (const image of images.values()) restart(image);
  picked = [];
  compare();
  sortCards();
  startWaiting();
});
byId("clear").addEventListener("click", () => {
  for (const image of [...images.values()]) remove(image);
});
byId("compare-close").addEventListener("click", () => {
  picked = [];
  for (const image of images.values()) render(image);
  compare();
  byId("files").focus();
});
byId("seen-close").addEventListener("click", () => byId("seen").close());
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault(); // else the browser would leave the page for the image
  byId("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
await start();
