// Puts the page together: the connection, the machines, the defects, and the switches.

import { Defects } from "./defects.js";
import { follow } from "./live.js";
import { Machines } from "./machines.js";
import { count, of, rate, t, translate } from "./words.js";

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const DRAW_EVERY = 200;
const PATIENCE = 2_500;

const keep = (key, value) => {
  try {
    localStorage.setItem(key, value);
  } catch {
    // A browser may forbid it; the choice then lasts as long as the page.
  }
};

const defects = new Defects({ list: $("defects"), filter: $("filter"), more: $("more"), note: $("defects-note") });
const machines = new Machines($("machines"), $("strip"), (machine) => defects.choose(machine));

let connected = null;
let unseen = 0;
const told = new Set();

/** Draws at most so often, however fast events come. */
let drawing = false;
const draw = () => {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    machines.draw();
    if (defects.stale) defects.draw();
    totals();
  }, DRAW_EVERY);
};

const totals = () => {
  const { shots, defect } = machines.totals;
  $("n-machines").textContent = count(machines.machines.size);
  $("n-shots").textContent = count(shots);
  $("n-defects").textContent = count(defect);
  $("n-rate").textContent = rate(defect, shots);
  $("machines-note").hidden = machines.machines.size > 0;
};

const alerts = () => {
  const n = unseen > 99 ? "99+" : String(unseen);
  $("bell").dataset.unseen = n;
  $("bell-count").textContent = n;
  $("bell").setAttribute("aria-label", `${t("newAlerts")} ${n}. ${t("seen")}`);
  document.title = `${unseen > 0 ? `(${n}) ` : ""}${t("title")}`;
};

/** Tells a lost connection only once it stays lost: a moment's break heals by itself. */
let losing = 0;
const connection = (now) => {
  if (now === connected) return;
  connected = now;
  clearTimeout(losing);
  if (now) connectionIs("live");
  else losing = setTimeout(connectionIs, PATIENCE, "lost");
};
const connectionIs = (state) => {
  $("connection").dataset.state = state;
  $("connection-word").textContent = t(state);
  $("lost").hidden = state !== "lost";
};

const alertCame = (alert) => {
  if (told.has(alert.id)) return;
  told.add(alert.id);
  unseen += 1;
  $("said").textContent = t("alertSaid", of(alert.title));
  alerts();
};

follow({
  connected: connection,
  state(state) {
    machines.load(state);
    defects.add(state.defects);
    // What was told before this page opened is not new; what it missed while it was away is.
    if (told.size === 0) state.alerts.forEach((alert) => told.add(alert.id));
    else state.alerts.forEach(alertCame);
    defects.load(false);
    draw();
  },
  event(kind, data) {
    if (kind === "shot") machines.add(data);
    else if (kind === "defect") defects.add([data]);
    else alertCame(data);
    draw();
  },
});

const theme = () => root.dataset.theme ?? "auto";
const words = () => {
  translate(document);
  $("language").textContent = t("langButton");
  $("language").lang = root.lang === "ko" ? "en" : "ko";
  $("theme").setAttribute("aria-label", t("theme")[theme()]);
  $("theme").title = t("theme")[theme()];
  $("connection-word").textContent = t($("connection").dataset.state);
  alerts();
  machines.translate();
  machines.draw();
  defects.translate();
  totals();
};

$("language").addEventListener("click", () => {
  root.lang = root.lang === "ko" ? "en" : "ko";
  keep("castwatch.lang", root.lang);
  words();
});
$("theme").addEventListener("click", () => {
  const next = { auto: "light", light: "dark", dark: "auto" }[theme()];
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  keep("castwatch.theme", next);
  words();
});
$("filter").addEventListener("click", () => machines.pick(machines.chosen));
$("bell").addEventListener("click", () => {
  unseen = 0;
  alerts();
  defects.follow();
  $("defects-title").scrollIntoView({ block: "start" });
});

words();
