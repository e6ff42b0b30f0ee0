// Loaded before anything is drawn, so that a page that was made dark is never light at first.
"use strict";
try {
  const theme = localStorage.getItem("chash-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden: the page then follows the system.
}
