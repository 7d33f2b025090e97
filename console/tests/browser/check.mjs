// The page in a real browser, fed by the preview. Prints `N passed, N failed`.
//
//   cargo build --release -p castwatch-console --example preview
//   npm ci --prefix console/tests/browser && node console/tests/browser/check.mjs
//
// CHROMIUM names the browser, PREVIEW the binary.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const PREVIEW = process.env.PREVIEW ?? fileURLToPath(new URL("../../../target/release/examples/preview", import.meta.url));
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--no-first-run",
];

const chromium = process.env.CHROMIUM ?? BROWSERS.find((path) => existsSync(path));
const playwright = await import("playwright-core").catch(() => null);
if (!chromium || !playwright || !existsSync(PREVIEW)) {
  const lacks = !chromium ? "Chromium" : !playwright ? "playwright-core (npm ci)" : PREVIEW;
  console.log(`skipped: there is no ${lacks}\n0 passed, 0 failed`);
  process.exit(0);
}

let passed = 0;
let failed = 0;
const check = async (what, test) => {
  try {
    await test();
    passed += 1;
    console.log(`ok    ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${what}: ${error.message.split("\n").slice(0, 4).join(" | ")}`);
  }
};
const same = (actual, expected) => {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
};
const holds = (condition, what) => {
  if (!condition) throw new Error(what);
};

const port = await new Promise((done) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});
const url = `http://127.0.0.1:${port}/`;
const start = async (every) => {
  const child = spawn(PREVIEW, [`127.0.0.1:${port}`, String(every)], { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((done, no) => {
    child.stdout.once("data", done);
    child.once("exit", (code) => no(new Error(`the preview ended with ${code}`)));
  });
  return child;
};
const stop = (child) => new Promise((done) => {
  child.once("exit", done);
  child.kill("SIGKILL");
});

let server = await start(150);
const browser = await playwright.chromium.launch({ executablePath: chromium, args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: "dark" });
context.setDefaultTimeout(8000);
const page = await context.newPage();
const complaints = [];
const hosts = new Set();
page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(error.message));
page.on("request", (request) => hosts.add(new URL(request.url()).host));

const text = (selector) => page.locator(selector).first().innerText();
const firstChip = () => page.locator("#strip > li").first().getAttribute("data-shot");
const changes = (read, before) => page.waitForFunction(([read, before]) => document.querySelector(read[0])?.getAttribute(read[1]) !== before, [read, before]);
const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

await check("the page opens in Korean with a tile for each machine", async () => {
  await page.goto(url);
  await page.locator("#machines > li").nth(5).waitFor();
  same(await page.locator("#machines > li").count(), 6);
  same(await text("#machines-title"), "설비");
  const verdicts = await page.locator(".tile .verdict").allInnerTexts();
  holds(verdicts.every((word) => ["양품", "의심", "불량", "판정 불가"].includes(word)), `verdicts: ${verdicts}`);
  same(await page.locator(".tile .symbol").count(), 6);
});

await check("the connection is live", async () => {
  await page.locator('#connection[data-state="live"]').waitFor();
  same(await text("#connection-word"), "실시간");
});

await check("a new shot arrives without a reload", async () => {
  const before = await firstChip();
  await changes(["#strip > li", "data-shot"], before);
  const ids = await page.locator("#strip > li").evaluateAll((chips) => chips.map((chip) => chip.dataset.shot));
  same(new Set(ids).size, ids.length);
});

await check("the newest defect shows its chart and its words in Korean", async () => {
  const detail = page.locator(".defect.open .detail").first();
  await detail.waitFor();
  const words = await detail.innerText();
  for (const word of ["점검할 설비", "조치", "평소 값"]) holds(words.includes(word), `no ${word} in ${words}`);
  await page.locator(".defect.open .gauge").waitFor();
  // Not every defect has a chart: open one that has.
  for (const head of await page.locator(".defect-head").all()) {
    if ((await head.getAttribute("aria-expanded")) === "false") await head.click();
    const image = page.locator(".defect.open figure img");
    if ((await image.count()) === 0) continue;
    await page.waitForFunction(() => document.querySelector(".defect.open figure img")?.naturalWidth > 0);
    holds((await image.getAttribute("alt")).startsWith("원인 분석 차트: "), "no words for the chart");
    return;
  }
  throw new Error("no defect has a chart");
});

await check("a defect without a chart shows its words only", async () => {
  for (let i = 0; i < 20; i += 1) {
    const head = page.locator(".defect-head").nth(i);
    if ((await head.getAttribute("aria-expanded")) === "false") await head.click();
    if ((await page.locator(".defect.open .nochart").count()) > 0) return;
  }
  throw new Error("every defect has a chart");
});

await check("a new alert counts in the title, on the bell and for screen readers", async () => {
  await page.locator('#bell:not([data-unseen="0"])').waitFor({ timeout: 30_000 });
  holds(/^\(\d+\) castwatch/.test(await page.title()), await page.title());
  holds((await page.locator("#said").textContent()).startsWith("불량 알림: 불량 · "), "nothing was said");
  await page.locator("#bell").click();
  same(await page.title(), "castwatch · 다이캐스팅 품질 감시");
});

await check("a tile shows only its machine's defects, by keyboard too", async () => {
  const tile = page.locator(".tile", { hasText: "DCM-02" });
  await tile.focus();
  await page.keyboard.press("Enter");
  await page.locator('.tile[aria-pressed="true"]').waitFor();
  await page.waitForFunction(() => {
    const names = [...document.querySelectorAll(".defect-title strong")].map((node) => node.textContent);
    return names.length > 1 && names.every((name) => name === "DCM-02");
  });
  same(await text("#filter"), "DCM-02 ✕");
  // The tile is drawn anew with each shot and keeps the keyboard.
  await page.waitForTimeout(2000);
  holds(await tile.evaluate((node) => node === document.activeElement), "the focus is lost");
  await page.locator("#filter").click();
  await page.locator("#filter").waitFor({ state: "hidden" });
});

await check("older defects come page by page", async () => {
  const before = await page.locator("#defects > li").count();
  await page.locator("#more").click();
  await page.waitForFunction((before) => document.querySelectorAll("#defects > li").length > before + 5, before);
});

await check("the language changes at once and is remembered", async () => {
  await page.locator("#language").click();
  same(await text("#machines-title"), "Machines");
  same(await page.evaluate(() => document.documentElement.lang), "en");
  holds((await text(".defect.open .detail")).includes("What to do"), "the defect is not in English");
  await page.reload();
  await page.locator("#machines > li").first().waitFor();
  same(await text("#defects-title > span"), "Defects");
  const left = await page.evaluate(() => document.body.innerText.replaceAll("주조기 6", "").replaceAll("한국어", ""));
  holds(!/[가-힣]/.test(left), `still Korean: ${left.match(/.*[가-힣].*/)?.[0]}`);
  await page.locator("#language").click();
});

await check("the theme changes and is remembered", async () => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.locator("#theme").click();
  holds((await ground()) !== dark, "light looks like dark");
  await page.reload();
  same(await page.evaluate(() => document.documentElement.dataset.theme), "light");
  await page.locator("#theme").click();
  same(await ground(), dark);
  await page.locator("#theme").click();
});

await check("nothing sticks out from 360 to 1920 pixels", async () => {
  for (const width of [360, 480, 768, 1024, 1100, 1280, 1920]) {
    await page.setViewportSize({ width, height: 900 });
    await page.waitForTimeout(300);
    same([width, await overflow()], [width, 0]);
  }
  await page.setViewportSize({ width: 1440, height: 900 });
});

await check("nothing moves for those who asked for it", async () => {
  await page.emulateMedia({ reducedMotion: "reduce" });
  const moving = () => [...document.querySelectorAll("#connection i, #strip > li")].filter((node) => getComputedStyle(node).animationName !== "none");
  same(await page.evaluate(`(${moving})().length`), 0);
  await page.emulateMedia({ reducedMotion: "no-preference" });
});

await check("the browser has nothing to complain about and asked nobody else", async () => {
  same(complaints, []);
  same([...hosts], [`127.0.0.1:${port}`]);
});

await check("a lost server is told, and its return goes on by itself", async () => {
  await page.locator('#connection[data-state="live"]').waitFor();
  await stop(server);
  await page.locator("#lost").waitFor({ state: "visible" });
  same(await text("#connection-word"), "연결 끊김");
  server = await start(150);
  await page.locator("#lost").waitFor({ state: "hidden", timeout: 15_000 });
  const before = await firstChip();
  await changes(["#strip > li", "data-shot"], before);
  same(await page.locator("#machines > li").count(), 6);
  const shots = await page.locator("#defects > li").evaluateAll((cards) => cards.map((card) => card.dataset.shot));
  same(new Set(shots).size, shots.length);
});

await browser.close();
await stop(server);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
