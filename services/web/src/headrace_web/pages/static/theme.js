// Applies the stored theme before the page is painted, and switches it.

const KEY = "headrace-theme";
const root = document.documentElement;

apply(localStorage.getItem(KEY));

addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme")?.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    localStorage.setItem(KEY, theme);
    apply(theme);
  });
});

function isDark() {
  const stored = localStorage.getItem(KEY);
  return stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function apply(theme) {
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
}
