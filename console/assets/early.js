// Runs before the first paint, so that the page does not flash in the wrong colours or language.
// The page works without storage: a browser may forbid it.
(() => {
  const kept = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = kept("castwatch.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  root.lang = kept("castwatch.lang") === "en" ? "en" : "ko";
})();
