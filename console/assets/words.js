// Every word of the page in Korean and English. What comes with an event has both in itself.

const WORDS = {
  ko: {
    title: "castwatch · 다이캐스팅 품질 감시",
    tagline: "다이캐스팅 품질 감시",
    connecting: "연결 중",
    live: "실시간",
    lost: "연결 끊김",
    lostBanner: "서버와 연결이 끊겼습니다. 자동으로 다시 연결하는 중입니다. 아래 화면은 마지막으로 받은 상태입니다.",
    machines: "설비",
    shots: "샷",
    defects: "불량",
    defectRate: "불량률",
    newAlerts: "새 알림",
    seen: "새 알림 확인",
    strip: "최근 샷",
    stripHint: "왼쪽이 최신",
    ok: "양품",
    suspect: "의심",
    defect: "불량",
    unscorable: "판정 불가",
    die: "금형",
    shotNo: (n) => `샷 번호 ${n}`,
    tryShot: "시사출",
    probability: "불량 확률",
    perMinute: "분당 샷",
    lastRate: (n) => `최근 ${n}샷 불량률`,
    tooFew: "측정값이 부족해 판정할 수 없습니다",
    trend: (n) => `최근 ${n}샷의 불량 확률`,
    defectList: "불량 기록",
    defectHint: "모델의 불량 기준을 넘은 샷",
    allMachines: "전체 설비",
    onlyMachine: (name) => `${name}만 보기`,
    equipment: "점검할 설비",
    advice: "조치",
    cause: "주요 원인",
    chartOf: "원인 분석 차트",
    noChart: "이 불량에는 차트가 없습니다.",
    older: "이전 불량 더 보기",
    noDefects: "아직 기록된 불량이 없습니다.",
    noMachines: "첫 샷을 기다리는 중입니다.",
    loadFailed: "불량 기록을 불러오지 못했습니다.",
    retry: "다시 시도",
    theme: { auto: "화면: 자동", light: "화면: 밝게", dark: "화면: 어둡게" },
    langButton: "English",
    skip: "불량 기록으로 건너뛰기",
    alertSaid: (title) => `불량 알림: ${title}`,
  },
  en: {
    title: "castwatch · die casting",
    tagline: "Die-casting quality watch",
    connecting: "Connecting",
    live: "Live",
    lost: "Connection lost",
    lostBanner: "The connection to the server is lost. Reconnecting by itself; below is what was received last.",
    machines: "Machines",
    shots: "Shots",
    defects: "Defects",
    defectRate: "Defect rate",
    newAlerts: "New alerts",
    seen: "Mark alerts as seen",
    strip: "Last shots",
    stripHint: "newest on the left",
    ok: "Good",
    suspect: "Suspect",
    defect: "Defect",
    unscorable: "Unscorable",
    die: "Die",
    shotNo: (n) => `shot ${n}`,
    tryShot: "Try shot",
    probability: "Defect probability",
    perMinute: "Shots/min",
    lastRate: (n) => `Defects in last ${n}`,
    tooFew: "Too few readings to judge it",
    trend: (n) => `Defect probability of the last ${n} shots`,
    defectList: "Defects",
    defectHint: "above the model's threshold",
    allMachines: "All machines",
    onlyMachine: (name) => `Only ${name}`,
    equipment: "Look at",
    advice: "What to do",
    cause: "Main cause",
    chartOf: "Chart of causes",
    noChart: "There is no chart of this defect.",
    older: "Show older defects",
    noDefects: "No defect has been recorded yet.",
    noMachines: "Waiting for the first shot.",
    loadFailed: "The defects could not be read.",
    retry: "Try again",
    theme: { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" },
    langButton: "한국어",
    skip: "Skip to the defects",
    alertSaid: (title) => `Defect alert: ${title}`,
  },
};

export const lang = () => document.documentElement.lang;

/** The word for `key`; with arguments where it is a sentence. */
export const t = (key, ...args) => {
  const word = WORDS[lang()][key];
  return typeof word === "function" ? word(...args) : word;
};

/** The text of an event in the page's language. */
export const of = (words) => words[lang()] || words.ko || words.en;

/** Puts the words where the page names them. */
export const translate = (root) => {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
};

/** A probability for people; no model is wholly sure. */
export const percent = (p) => {
  if (p === null || p === undefined) return "–";
  if (p >= 0.995) return ">99%";
  if (p > 0 && p < 0.01) return "<1%";
  return `${Math.round(p * 100)}%`;
};

export const rate = (part, all) => (all === 0 ? "–" : `${((100 * part) / all).toFixed(part * 10 >= all ? 0 : 1)}%`);

export const count = (n) => n.toLocaleString(lang() === "ko" ? "ko-KR" : "en-US");

/** The time of a shot by its machine's own clock; the day too when asked for. */
export const clock = (text, day) => (day ? `${text.slice(5, 10)} ${text.slice(11, 19)}` : text.slice(11, 19));
